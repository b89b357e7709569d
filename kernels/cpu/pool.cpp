// Max pooling: of contiguous planes, one plane at a time, and of channels_last pictures (bf16 too), lanes along channels. The winners are i64 places in the picture
// or u8 places in the window.
#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "mien/kernels/cpu/channels.h"
#include "mien/kernels/cpu/pool_window.h"
#include "mien/kernels/cpu/windows.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Plane {
  std::int64_t h, w, oh, ow;
};

// What is kept of the winner at (h, w), which is tap `tap` of its window. I: std::int64_t or std::uint8_t.
template <class I>
I winner(std::int64_t h, std::int64_t w, std::int64_t tap, const Plane& p) {
  return static_cast<I>(sizeof(I) == 1 ? tap : h * p.w + w);
}

// Windows that lie inside the picture: the loop over the window is unrolled for the usual kernels.
template <int K, class I>
void inside(const float* x, const Plane& p, std::int64_t y, std::int64_t from, std::int64_t to, const PoolParams& q, float* out, I* index) {
  const std::int64_t kh = K > 0 ? K : q.kernel[0], kw = K > 0 ? K : q.kernel[1], top = y * q.stride[0] - q.padding[0];
  for (std::int64_t ox = from; ox < to; ++ox) {
    const std::int64_t left = ox * q.stride[1] - q.padding[1];
    float best = x[top * p.w + left];
    I at = winner<I>(top, left, 0, p);
    for (std::int64_t i = 0; i < kh; ++i)
      for (std::int64_t j = 0; j < kw; ++j) {
        const std::int64_t h = top + i * q.dilation[0], w = left + j * q.dilation[1];
        const float v = x[h * p.w + w];
        if (v > best || (v != v && best == best)) {  // the first of equals wins, NaN wins over numbers
          best = v;
          at = winner<I>(h, w, i * kw + j, p);
        }
      }
    out[ox] = best;
    if (index) index[ox] = at;
  }
}

template <class I>
void edge(const float* x, const Plane& p, std::int64_t y, std::int64_t ox, const PoolParams& q, float* out, I* index) {
  float best = -std::numeric_limits<float>::infinity();
  I at = static_cast<I>(-1);
  bool found = false;
  for (std::int64_t i = 0; i < q.kernel[0]; ++i)
    for (std::int64_t j = 0; j < q.kernel[1]; ++j) {
      const std::int64_t h = y * q.stride[0] - q.padding[0] + i * q.dilation[0], w = ox * q.stride[1] - q.padding[1] + j * q.dilation[1];
      if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
      const float v = x[h * p.w + w];
      if (!found || v > best || (v != v && best == best)) {
        best = v;
        at = winner<I>(h, w, i * q.kernel[1] + j, p);
        found = true;
      }
    }
  out[ox] = best;
  if (index) index[ox] = at;
}

template <class I>
void run(const KernelArgs& args) {
  const auto& q = args.get<PoolParams>();
  const View &x = args.in[0], &y = args.out[0];
  const Plane p{x.size(2), x.size(3), y.size(2), y.size(3)};
  const std::int64_t reach_h = q.dilation[0] * (q.kernel[0] - 1);
  const WholeWindows columns(p.ow, p.w, q.padding[1], q.stride[1], q.dilation[1] * (q.kernel[1] - 1));
  const bool plain = q.kernel[0] == q.kernel[1] && q.dilation[0] == 1 && q.dilation[1] == 1;
  parallel_for(x.size(0) * x.size(1), std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, p.oh * p.ow)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float* from = x.ptr<float>() + plane * p.h * p.w;
      for (std::int64_t r = 0; r < p.oh; ++r) {
        float* out = y.ptr<float>() + (plane * p.oh + r) * p.ow;
        I* index = args.out.size() > 1 ? args.out[1].ptr<I>() + (plane * p.oh + r) * p.ow : nullptr;
        const std::int64_t top = r * q.stride[0] - q.padding[0];
        const bool whole = top >= 0 && top + reach_h < p.h;
        const std::int64_t a = whole ? columns.first : p.ow, b = whole ? columns.last : p.ow;
        for (std::int64_t ox = 0; ox < a; ++ox) edge(from, p, r, ox, q, out, index);
        if (whole && plain && q.kernel[0] == 2) inside<2>(from, p, r, a, b, q, out, index);
        else if (whole && plain && q.kernel[0] == 3) inside<3>(from, p, r, a, b, q, out, index);
        else if (whole) inside<0>(from, p, r, a, b, q, out, index);
        for (std::int64_t ox = b; ox < p.ow; ++ox) edge(from, p, r, ox, q, out, index);
      }
    }
  });
}

template <class I>
void run_backward(const KernelArgs& args) {
  const View &g = args.in[0], &index = args.in[1], &gx = args.out[0];
  const auto& q = args.get<PoolParams>();
  const std::int64_t ow = g.size(3), w = gx.size(3), in = g.size(2) * ow, out = gx.size(2) * w;
  parallel_for(g.size(0) * g.size(1), std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, out)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      float* to = gx.ptr<float>() + plane * out;
      std::fill_n(to, out, 0.f);
      const float* from = g.ptr<float>() + plane * in;
      const I* winners = index.ptr<I>() + plane * in;
      for (std::int64_t i = 0; i < in; ++i) {
        const std::int64_t k = winners[i];
        if (k == static_cast<I>(-1)) continue;
        if constexpr (sizeof(I) > 1) to[k] += from[i];
        else
          to[(i / ow * q.stride[0] - q.padding[0] + k / q.kernel[1] * q.dilation[0]) * w + i % ow * q.stride[1] - q.padding[1] + k % q.kernel[1] * q.dilation[1]] += from[i];
      }
    }
  });
}

// --- channels_last ----------------------------------------------------------------------------------------------------
// The part of a window that starts at `start` which lies in [0, size): the first tap and the number of taps.
struct Taps {
  std::int64_t first, count;
};
Taps taps_inside(std::int64_t start, std::int64_t kernel, std::int64_t dilation, std::int64_t size) {
  const std::int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const std::int64_t end = std::min(kernel, start < size ? (size - 1 - start) / dilation + 1 : 0);
  return {first, end - first};
}

// The largest value of a window, of which some part lies inside the picture.
template <class T>
Vec largest(const T* x, const Window& w, std::int64_t n) {
  Vec best = Load(x, n);
  const auto take = [&](std::int64_t i, std::int64_t j) {
    const Vec v = Load(x + i * w.row_step + j * w.col_step, n);
    best = Select(Beats(v, best), v, best);
  };
  if (w.rows == 3 && w.cols == 3) {
#pragma GCC unroll 8
    for (int k = 1; k < 9; ++k) take(k / 3, k % 3);
    return best;
  }
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = 0; j < w.cols; ++j) take(i, j);
  return best;
}

// The same with the winner's number.
template <class T>
Winner window_winner(const T* x, const Window& w, std::int32_t first, std::int64_t n) {
  const auto plain = [](Vec v) { return v; };
  if (w.rows != 3 || w.cols != 3) return pool_window(x, w, first, n, plain);
  Window whole = w;
  whole.rows = whole.cols = 3;  // known to the compiler, which unrolls the loops
  return pool_window(x, whole, first, n, plain);
}
inline void store_numbers(Ints at, std::uint8_t* to, std::int64_t n) { StoreBytes(at & SetInt(255), to, n); }  // -1 is kept as 255; packing would make it 0
inline void store_numbers(Ints at, std::int64_t* to, std::int64_t n) {
  std::int32_t numbers[lanes];
  std::memcpy(numbers, &at, sizeof numbers);
  for (std::int64_t k = 0; k < n; ++k) to[k] = numbers[k];
}

template <class T, class I>
void run_last(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  const auto& q = args.get<PoolParams>();
  const std::int64_t channels = x.size(1), h = x.size(2), w = x.size(3), oh = y.size(2), ow = y.size(3), x_step = pixel_step(x), y_step = pixel_step(y);
  parallel_for(x.size(0) * oh, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, ow * channels)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t line = begin; line < end; ++line) {
      const std::int64_t n = line / oh, top = line % oh * q.stride[0] - q.padding[0];
      const Taps rows = taps_inside(top, q.kernel[0], q.dilation[0], h);
      for (std::int64_t ox = 0; ox < ow; ++ox) {
        const std::int64_t left = ox * q.stride[1] - q.padding[1];
        const Taps cols = taps_inside(left, q.kernel[1], q.dilation[1], w);
        constexpr bool taps = sizeof(I) == 1;  // what numbers the winners
        const Window window{rows.count, cols.count, q.dilation[0] * w * x_step, q.dilation[1] * x_step, static_cast<std::int32_t>(taps ? q.kernel[1] : q.dilation[0] * w),
                            static_cast<std::int32_t>(taps ? 1 : q.dilation[1])};
        const std::int64_t corner = (top + rows.first * q.dilation[0]) * w + left + cols.first * q.dilation[1], to = line * ow + ox;
        const std::int64_t first = taps ? rows.first * q.kernel[1] + cols.first : corner;
        const bool values_only = args.out.size() < 2 && rows.count > 0 && cols.count > 0;
        for (std::int64_t c = 0; c < channels && values_only; c += lanes) {
          const std::int64_t some = std::min<std::int64_t>(lanes, channels - c);
          StoreExact(largest(x.ptr<T>() + (n * h * w + corner) * x_step + c, window, some), y.ptr<T>() + to * y_step + c, some);
        }
        for (std::int64_t c = 0; c < channels && !values_only; c += lanes) {
          const std::int64_t some = std::min<std::int64_t>(lanes, channels - c);
          const T* from = x.ptr<T>() + (n * h * w + corner) * x_step + c;
          const Winner best = window_winner(from, window, static_cast<std::int32_t>(first), some);
          Store(best.value, y.ptr<T>() + to * y_step + c, some);
          if (args.out.size() > 1) store_numbers(best.at, args.out[1].ptr<I>() + to * channels + c, some);
        }
      }
    }
  });
}

// For every place along one side, the windows that have a tap on it.
class Hits {
 public:
  struct Hit {
    std::int64_t window, tap;
  };
  Hits(std::int64_t size, std::int64_t windows, std::int64_t kernel, std::int64_t stride, std::int64_t padding, std::int64_t dilation) : begin_(static_cast<std::size_t>(size) + 1) {
    for (std::int64_t at = 0; at < size; ++at) {
      for (std::int64_t tap = kernel - 1; tap >= 0; --tap)
        if (const std::int64_t start = at + padding - tap * dilation; start >= 0 && start % stride == 0 && start / stride < windows) hits_.push_back({start / stride, tap});
      begin_[static_cast<std::size_t>(at) + 1] = hits_.size();
    }
  }
  std::span<const Hit> of(std::int64_t at) const {
    const auto i = static_cast<std::size_t>(at);
    return std::span(hits_).subspan(begin_[i], begin_[i + 1] - begin_[i]);
  }

 private:
  std::vector<Hit> hits_;
  std::vector<std::size_t> begin_;
};
inline Ints load_numbers(const std::int64_t* p, std::int64_t n) {
#if MIEN_LEVEL_IS_avx512
  const auto some = static_cast<unsigned>(first_lanes(n));
  const auto low = static_cast<__mmask8>(some), high = static_cast<__mmask8>(some >> 8);
  const __m256i a = _mm512_maskz_cvtepi64_epi32(low, _mm512_maskz_loadu_epi64(low, p)), b = _mm512_maskz_cvtepi64_epi32(high, _mm512_maskz_loadu_epi64(high, p + 8));
  return reinterpret_cast<Ints>(_mm512_maskz_inserti64x4(static_cast<__mmask8>(-1), _mm512_castsi256_si512(a), b, 1));
#else
  std::int32_t numbers[lanes] = {};
  if (n == lanes)
    for (int k = 0; k < lanes; ++k) numbers[k] = static_cast<std::int32_t>(p[k]);
  else
    for (std::int64_t k = 0; k < n; ++k) numbers[k] = static_cast<std::int32_t>(p[k]);
  Ints out;
  std::memcpy(&out, numbers, sizeof out);
  return out;
#endif
}
inline Ints load_numbers(const std::uint8_t* p, std::int64_t n) { return LoadBytes(p, n); }
// Each place collects the gradients of the windows that it won. The gradient may be a slice of the channels of a wider picture, as the parts of a concat get it.
template <class T, class I>
void run_backward_last(const KernelArgs& args) {
  const View &g = args.in[0], &gx = args.out[0];
  const auto& q = args.get<PoolParams>();
  const std::int64_t channels = g.size(1), step = pixel_step(g), oh = g.size(2), ow = g.size(3), h = gx.size(2), w = gx.size(3), kw = q.kernel[1];
  const Hits rows(h, oh, q.kernel[0], q.stride[0], q.padding[0], q.dilation[0]), columns(w, ow, q.kernel[1], q.stride[1], q.padding[1], q.dilation[1]);
  const auto* from = g.ptr<T>();
  const auto* index = args.in[1].ptr<I>();
  auto* to = gx.ptr<T>();
  struct Hit {
    const T* g;
    const I* winner;
    Ints here;  // the winner's number if it is the place in question
  };
  parallel_for(gx.size(0) * h, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, w * channels)), [=, &rows, &columns](std::int64_t line, std::int64_t end) {
    std::vector<Hit> hits;
    for (; line < end; ++line) {
      const std::int64_t n = line / h, y = line % h;
      for (std::int64_t x = 0; x < w; ++x) {
        hits.clear();
        for (const auto& [oy, i] : rows.of(y))
          for (const auto& [ox, j] : columns.of(x)) {
            const std::int64_t pixel = (n * oh + oy) * ow + ox, here = sizeof(I) == 1 ? i * kw + j : y * w + x;
            hits.push_back({from + pixel * step, index + pixel * channels, SetInt(static_cast<std::int32_t>(here))});
          }
        const auto collect = [&, at = to + (line * w + x) * channels](std::int64_t c, auto some) {
          Vec sum = Set(0);
          for (const Hit& hit : hits) sum = AddWhere(Equal(load_numbers(hit.winner + c, some), hit.here), sum, Load(hit.g + c, some));
          Store(sum, at + c, some);
        };
        std::int64_t c = 0;
        for (; c + lanes <= channels; c += lanes) collect(c, Whole{});
        if (c < channels) collect(c, channels - c);
      }
    }
  });
}

// --- entries ------------------------------------------------------------------------------------------------------------
// All dense planes, or channels_last throughout; there the values (not the index) may be channel slices of wider pictures.
bool planes(const KernelArgs& args) {
  const auto dense = [](const View& v) { return v.is_contiguous(); };
  return std::all_of(args.in.begin(), args.in.end(), dense) && std::all_of(args.out.begin(), args.out.end(), dense);
}
constexpr const char* other_order = "neither all contiguous nor all channels_last";
const char* decline(const KernelArgs& args) {
  const bool half = args.in[0].dtype == DType::bf16;
  if (args.in[0].dtype != DType::f32 && !half) return "f32 and bf16 only";
  if (!half && planes(args)) return nullptr;
  if (!pixel_step(args.in[0]) || !pixel_step(args.out[0]) || (args.out.size() > 1 && !args.out[1].is_channels_last())) return other_order;
  return args.in[0].size(2) * args.in[0].size(3) < std::numeric_limits<std::int32_t>::max() ? nullptr : "the picture is too large";
}
const char* decline_backward(const KernelArgs& args) {
  const bool half = args.in[0].dtype == DType::bf16;
  if (args.in[0].dtype != DType::f32 && !half) return "f32 and bf16 only";
  if (args.out[0].size(2) * args.out[0].size(3) >= std::numeric_limits<std::int32_t>::max()) return "the picture is too large";
  return (!half && planes(args)) || (pixel_step(args.in[0]) && args.in[1].is_channels_last() && args.out[0].is_channels_last()) ? nullptr : other_order;
}
// f(values' type, winners' type), each as a value of it.
template <class F>
void with_types(const KernelArgs& args, DType winners, const F& f) {
  const bool half = args.in[0].dtype == DType::bf16, bytes = winners == DType::u8;
  if (half && bytes) f(bfloat16{}, std::uint8_t{});
  else if (half) f(bfloat16{}, std::int64_t{});
  else if (bytes) f(float{}, std::uint8_t{});
  else f(float{}, std::int64_t{});
}
void run_either(const KernelArgs& args) {
  with_types(args, args.out.size() > 1 ? args.out[1].dtype : DType::u8, [&](auto value, auto number) {
    if constexpr (std::is_same_v<decltype(value), float>)
      if (planes(args)) return run<decltype(number)>(args);
    run_last<decltype(value), decltype(number)>(args);
  });
}
void run_backward_either(const KernelArgs& args) {
  with_types(args, args.in[1].dtype, [&](auto value, auto number) {
    if constexpr (std::is_same_v<decltype(value), float>)
      if (planes(args)) return run_backward<decltype(number)>(args);
    run_backward_last<decltype(value), decltype(number)>(args);
  });
}

}  // namespace

extern const KernelEntry max_pool2d_entry{run_either, decline};
extern const KernelEntry max_pool2d_backward_entry{run_backward_either, decline_backward};

}  // namespace mien::MIEN_LEVEL
