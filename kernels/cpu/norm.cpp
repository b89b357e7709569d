// Batch normalisation with the statistics of the batch, what follows it (ReLU, PReLU), and the gradient of both. Semantics: kernels/ref/norm.cpp.
//
// Sums are made in floats over a chunk that stays in the first cache, the variance about the chunk's own mean; chunks are joined in doubles
// (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), share by share, in order.
#include <cmath>

#include "mien/kernels/cpu/half.h"
#include "mien/kernels/cpu/norm_rows.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t chunk_floats = 1 << 13;

// --- what one channel needs to know --------------------------------------------------------------------------------------
// What follows one normalised value v, and what of a gradient reaches it, as norm_rows.h has it for vectors.
template <Activation A>
inline float activate_one(float v, float slope) {
  const float low = A == Activation::prelu ? slope * v : 0.f;
  if (A == Activation::relu) return v <= 0 ? 0.f : v;
  return A == Activation::none || v > 0 ? v : low;
}
template <Activation A>
inline float gradient_one(float g, float v, float slope) {
  const float low = A == Activation::prelu ? slope * g : 0.f;
  return A == Activation::none || v > 0 ? g : low;
}
// f(first channel, channels) for all vectors of a pixel; the number is a constant but for the last.
template <class F>
inline void each_vector(std::int64_t channels, const F& f) {
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) f(c, Whole());
  if (c < channels) f(c, channels - c);
}
float slope_of(const View& slope, std::int64_t c) { return slope.ptr<float>()[c * slope.stride(0)]; }

// v = (x - mean) * scale + shift
struct Normal {
  float mean, scale, shift;
};
Normal finish(const KernelArgs& a, std::int64_t c, const Moments& m, std::int64_t count) {
  const double invstd = 1 / std::sqrt(m.squares / static_cast<double>(count) + a.get<NormParams>().eps);
  const View &w = a.in[1], &b = a.in[2];
  a.out[1].ptr<float>()[c * a.out[1].stride(0)] = static_cast<float>(m.mean);
  a.out[2].ptr<float>()[c * a.out[2].stride(0)] = static_cast<float>(invstd);
  return {static_cast<float>(m.mean), static_cast<float>(invstd * static_cast<double>(w.ptr<float>()[c * w.stride(0)])), b.ptr<float>()[c * b.stride(0)]};
}

// gx = gradient * by_g + (x - mean) * by_x + rest
struct Slope {
  float mean, by_g, by_x, rest;
};
float scale_of(const KernelArgs& a, std::int64_t c) {
  return static_cast<float>(static_cast<double>(a.in[2].ptr<float>()[c * a.in[2].stride(0)]) * static_cast<double>(a.in[4].ptr<float>()[c * a.in[4].stride(0)]));
}
Slope finish_backward(const KernelArgs& a, std::int64_t c, double sum_g, double sum_gd, std::int64_t count) {  // sum_gd: of g * (x - mean)
  const auto value = [&](std::size_t k) { return static_cast<double>(a.in[k].ptr<float>()[c * a.in[k].stride(0)]); };
  const double w = value(2), invstd = value(4), n = static_cast<double>(count), by_g = w * invstd;
  a.out[1].ptr<float>()[c * a.out[1].stride(0)] = static_cast<float>(sum_gd * invstd);
  a.out[2].ptr<float>()[c * a.out[2].stride(0)] = static_cast<float>(sum_g);
  return {static_cast<float>(value(3)), static_cast<float>(by_g), static_cast<float>(-by_g * invstd * invstd * sum_gd / n), static_cast<float>(-by_g * sum_g / n)};
}

// --- channels_last and [N, C] -------------------------------------------------------------------------------------------
// Scratch: for each share three doubles a channel, then for each share three floats a channel, then six floats a channel for all.
struct Scratch {
  Scratch(void* workspace, std::int64_t channels)
      : sums(static_cast<double*>(workspace)), parts(reinterpret_cast<float*>(sums + max_shares * 3 * channels)), table(parts + max_shares * 3 * channels) {}
  static std::int64_t bytes(std::int64_t channels) { return channels * (max_shares * 36 + 24); }
  double* sums;
  float *parts, *table;
};
std::int64_t chunk_pixels(const PixelRows& r) { return std::max<std::int64_t>(4, chunk_floats / r.channels); }

// f(share, first chunk?, first pixel, pixels) chunk by chunk.
template <class F>
void for_chunks(const PixelRows& r, const F& f) {
  const std::int64_t step = chunk_pixels(r);
  for_shares((r.pixels + step - 1) / step, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) f(share, k == begin, k * step, std::min(step, r.pixels - k * step));
  });
}
std::int64_t chunk_shares(const PixelRows& r) { return shares_of((r.pixels + chunk_pixels(r) - 1) / chunk_pixels(r)); }

// Mean and sum of squared distances from it, of each channel over the pixels of a chunk. Sums about the chunk's first pixel: one pass over it.
template <class T>
void chunk_moments(std::int64_t pixels, std::int64_t channels, const T* x, std::int64_t step, float* mean, float* squares) {
  constexpr int ways = 4;
  const Vec share = Set(1.f / static_cast<float>(pixels));
  each_vector(channels, [&](std::int64_t c, auto n) {
    const T *from = x + c, *ahead = from + pixels * step;  // the chunk after this one
    const Vec pivot = Load(from, n), zero = Set(0);
    Vec sum[ways] = {zero, zero, zero, zero}, square[ways] = {zero, zero, zero, zero};
    const auto add = [&](int way, std::int64_t p) {
      const Vec d = Load(from + p * step, n) - pivot;
      sum[way] = Add(sum[way], d);
      square[way] = MulAdd(d, d, square[way]);
    };
    std::int64_t p = 0;
    for (; p + ways <= pixels; p += ways)
#pragma GCC unroll 4
      for (int way = 0; way < ways; ++way) {
        call_up(ahead + (p + way) * step);
        add(way, p + way);
      }
    for (; p < pixels; ++p) add(0, p);
    const Vec all = Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])), from_pivot = Mul(all, share);
    Store(Add(pivot, from_pivot), mean + c, n);
    Store(Max(zero, Sub(Add(Add(square[0], square[1]), Add(square[2], square[3])), Mul(all, from_pivot))), squares + c, n);  // in this order NaN stays
  });
}

template <Activation A, class T>  // T: of the maps
void rows_forward(const KernelArgs& a) {
  const PixelRows r = pixel_rows(a.in[0]);
  const std::int64_t channels = r.channels, step = chunk_pixels(r), shares = chunk_shares(r), chunks = (r.pixels + step - 1) / step;
  const Scratch s(a.workspace, channels);
  const T* x = a.in[0].ptr<T>();
  const std::int64_t x_step = pixel_step(a.in[0]);
  for_chunks(r, [&](std::int64_t share, bool first, std::int64_t pixel, std::int64_t pixels) {
    float *mean = s.parts + share * 3 * channels, *squares = mean + channels;
    chunk_moments(pixels, channels, x + pixel * x_step, x_step, mean, squares);
    double *total_mean = s.sums + share * 3 * channels, *total_squares = total_mean + channels;
    const double before = first ? 0 : static_cast<double>(pixel - chunks * share / shares * step), now = static_cast<double>(pixels);
    for (std::int64_t c = 0; c < channels; ++c) {
      Moments m = first ? Moments{} : Moments{total_mean[c], total_squares[c]};
      join(m, before, {static_cast<double>(mean[c]), static_cast<double>(squares[c])}, now);
      total_mean[c] = m.mean;
      total_squares[c] = m.squares;
    }
  });
  float *mean = s.table, *scale = mean + channels, *shift = scale + channels, *slope = shift + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    Moments m;
    double before = 0;
    for (std::int64_t share = 0; share < shares; ++share) {
      const double now = static_cast<double>(std::min(chunks * (share + 1) / shares * step, r.pixels) - chunks * share / shares * step);
      join(m, before, {s.sums[share * 3 * channels + c], s.sums[(share * 3 + 1) * channels + c]}, now);
      before += now;
    }
    const Normal n = finish(a, c, m, r.pixels);
    mean[c] = n.mean;
    scale[c] = n.scale;
    shift[c] = n.shift;
    if (A == Activation::prelu) slope[c] = slope_of(a.in[3], c);
  }
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const T* from = x + p * x_step;
      T* to = a.out[0].ptr<T>() + p * channels;
      each_vector(channels, [&](std::int64_t c, auto n) {
        call_up_ahead(from + c);
        call_up_ahead(to + c);
        const Vec v = MulAdd(Load(from + c, n) - Load(mean + c, n), Load(scale + c, n), Load(shift + c, n));
        Store(activate<A>(v, A == Activation::prelu ? Load(slope + c, n) : Vec{}), to + c, n);
      });
    }
  });
}

// Of each channel: what finds the value before the activation again, and its gradient's way back.
struct Table {
  const float *mean, *scale, *shift, *slope;
};
template <Activation A, class N>
inline Vec value(const Table& t, Vec d, std::int64_t c, N n) {  // d = x - mean
  return A == Activation::none ? d : MulAdd(d, Load(t.scale + c, n), Load(t.shift + c, n));
}
template <Activation A, class N>
inline Vec slope(const Table& t, std::int64_t c, N n) {
  return A == Activation::prelu ? Load(t.slope + c, n) : Vec{};
}

// sums[c] of the gradients, [channels + c] of those times (x - mean), [2 channels + c] of the slope's.
template <Activation A, class T>
void sum_gradients(std::int64_t pixels, std::int64_t channels, const T* g, std::int64_t g_step, const T* x, std::int64_t x_step, const Table& t, float* sums) {
  std::fill_n(sums, 3 * channels, 0.f);
  for (std::int64_t p = 0; p < pixels; ++p, g += g_step, x += x_step)
    each_vector(channels, [&](std::int64_t c, auto n) {
      call_up_ahead(g + c);
      call_up_ahead(x + c);
      const Vec own = Load(g + c, n), d = Load(x + c, n) - Load(t.mean + c, n), v = value<A>(t, d, c, n), m = gradient<A>(own, v, slope<A>(t, c, n));
      float *sum_g = sums + c, *sum_gd = sum_g + channels, *sum_slope = sum_gd + channels;
      Store(Add(Load(sum_g, n), m), sum_g, n);
      Store(MulAdd(m, d, Load(sum_gd, n)), sum_gd, n);
      if (A == Activation::prelu) Store(Add(Load(sum_slope, n), Select(Positive(v), Set(0), Mul(own, v))), sum_slope, n);
    });
}

template <Activation A, class T>
void rows_backward(const KernelArgs& a) {
  const PixelRows r = pixel_rows(a.in[1]);
  const std::int64_t channels = r.channels, shares = chunk_shares(r), step = pixel_step(a.in[0]), x_step = pixel_step(a.in[1]);
  const Scratch s(a.workspace, channels);
  const T *g = a.in[0].ptr<T>(), *x = a.in[1].ptr<T>();
  float *mean = s.table, *scale = mean + channels, *shift = scale + channels, *slopes = shift + channels, *by_x = slopes + channels, *rest = by_x + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[c] = a.in[3].ptr<float>()[c * a.in[3].stride(0)];
    scale[c] = scale_of(a, c);
    shift[c] = A == Activation::none ? 0 : slope_of(a.in[5], c);
    slopes[c] = A == Activation::prelu ? slope_of(a.in[6], c) : 0;
  }
  const Table t{mean, scale, shift, slopes};
  for_chunks(r, [&](std::int64_t share, bool first, std::int64_t pixel, std::int64_t pixels) {
    float* part = s.parts + share * 3 * channels;
    sum_gradients<A>(pixels, channels, g + pixel * step, step, x + pixel * x_step, x_step, t, part);
    double* total = s.sums + share * 3 * channels;
    for (std::int64_t k = 0; k < 3 * channels; ++k) total[k] = (first ? 0 : total[k]) + static_cast<double>(part[k]);
  });
  for (std::int64_t c = 0; c < channels; ++c) {
    double sums[3] = {};
    for (std::int64_t share = 0; share < shares; ++share)
      for (std::int64_t k = 0; k < 3; ++k) sums[k] += s.sums[(share * 3 + k) * channels + c];
    const Slope f = finish_backward(a, c, sums[0], sums[1], r.pixels);
    by_x[c] = f.by_x;
    rest[c] = f.rest;
    if (A == Activation::prelu) a.out[3].ptr<float>()[c * a.out[3].stride(0)] = static_cast<float>(sums[2]);
  }
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const T *gs = g + p * step, *xs = x + p * x_step;
      T* to = a.out[0].ptr<T>() + p * channels;
      each_vector(channels, [&](std::int64_t c, auto n) {
        call_up_ahead(gs + c);
        call_up_ahead(xs + c);
        call_up_ahead(to + c);
        const Vec d = Load(xs + c, n) - Load(mean + c, n), m = gradient<A>(Load(gs + c, n), value<A>(t, d, c, n), slope<A>(t, c, n));
        Store(MulAdd(m, Load(scale + c, n), MulAdd(d, Load(by_x + c, n), Load(rest + c, n))), to + c, n);
      });
    }
  });
}

// --- contiguous [N, C, ...]: one thread has a whole channel -----------------------------------------------------------------
template <Activation A>
void planes_forward(const KernelArgs& a) {
  const View &x = a.in[0], &y = a.out[0];
  const std::int64_t n = x.size(0), channels = x.size(1), size = x.numel() / (n * channels);
  parallel_for(channels, 1, [&](std::int64_t c, std::int64_t) {
    Moments m;
    std::int64_t seen = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k < size; k += chunk_floats) {
        const float* p = x.ptr<float>() + (i * channels + c) * size + k;
        const std::int64_t count = std::min(chunk_floats, size - k);
        const float mean = sum_run(count, [=](std::int64_t t) { return p[t]; }) / static_cast<float>(count);
        const float squares = sum_run(count, [=](std::int64_t t) { return (p[t] - mean) * (p[t] - mean); });
        join(m, static_cast<double>(seen), {static_cast<double>(mean), static_cast<double>(squares)}, static_cast<double>(count));
        seen += count;
      }
    const Normal f = finish(a, c, m, n * size);
    const float slope = A == Activation::prelu ? slope_of(a.in[3], c) : 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const float* __restrict from = x.ptr<float>() + (i * channels + c) * size;
      float* __restrict to = y.ptr<float>() + (i * channels + c) * size;
      for (std::int64_t t = 0; t < size; ++t) to[t] = activate_one<A>((from[t] - f.mean) * f.scale + f.shift, slope);
    }
  });
}

template <Activation A>
void planes_backward(const KernelArgs& a) {
  const View &g = a.in[0], &x = a.in[1];
  const std::int64_t n = x.size(0), channels = x.size(1), size = x.numel() / (n * channels);
  parallel_for(channels, 1, [&](std::int64_t c, std::int64_t) {
    const float mean = a.in[3].ptr<float>()[c * a.in[3].stride(0)], scale = scale_of(a, c), shift = A == Activation::none ? 0 : slope_of(a.in[5], c),
                slope = A == Activation::prelu ? slope_of(a.in[6], c) : 0;
    double sum_g = 0, sum_gd = 0, sum_slope = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k < size; k += chunk_floats) {
        const std::int64_t at = (i * channels + c) * size + k, count = std::min(chunk_floats, size - k);
        const float *gs = g.ptr<float>() + at, *xs = x.ptr<float>() + at;
        const auto value = [=](std::int64_t t) { return (xs[t] - mean) * scale + shift; };
        const auto masked = [=](std::int64_t t) { return gradient_one<A>(gs[t], value(t), slope); };
        sum_g += static_cast<double>(sum_run(count, masked));
        sum_gd += static_cast<double>(sum_run(count, [=](std::int64_t t) { return masked(t) * (xs[t] - mean); }));
        if (A == Activation::prelu) sum_slope += static_cast<double>(sum_run(count, [=](std::int64_t t) { return value(t) > 0 ? 0.f : gs[t] * value(t); }));
      }
    const Slope f = finish_backward(a, c, sum_g, sum_gd, n * size);
    if (A == Activation::prelu) a.out[3].ptr<float>()[c * a.out[3].stride(0)] = static_cast<float>(sum_slope);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = (i * channels + c) * size;
      const float *__restrict gs = g.ptr<float>() + at, *__restrict xs = x.ptr<float>() + at;
      float* __restrict to = a.out[0].ptr<float>() + at;
      for (std::int64_t t = 0; t < size; ++t) to[t] = gradient_one<A>(gs[t], (xs[t] - mean) * scale + shift, slope) * scale + ((xs[t] - mean) * f.by_x + f.rest);
    }
  });
}

// --- channel_affine ---------------------------------------------------------------------------------------------------------
void run_affine(const KernelArgs& a) {
  const View &x = a.in[0], &y = a.out[0];
  const std::int64_t channels = x.size(1);
  auto* scale = static_cast<float*>(a.workspace);
  float* shift = scale + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    scale[c] = a.in[1].ptr<float>()[c * a.in[1].stride(0)];
    shift[c] = a.in[2].ptr<float>()[c * a.in[2].stride(0)];
  }
  if (all_pixel_rows(x, y)) {
    const PixelRows r = pixel_rows(x);
    parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const float *__restrict from = x.ptr<float>() + p * channels, *__restrict by = scale, *__restrict plus = shift;
        float* __restrict to = y.ptr<float>() + p * channels;
        for (std::int64_t c = 0; c < channels; ++c) to[c] = from[c] * by[c] + plus[c];
      }
    });
    return;
  }
  const std::int64_t planes = x.size(0) * channels, size = x.numel() / planes;
  parallel_for(planes, std::max<std::int64_t>(1, (1 << 15) / size), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const float* __restrict from = x.ptr<float>() + p * size;
      float* __restrict to = y.ptr<float>() + p * size;
      const float by = scale[p % channels], plus = shift[p % channels];
      for (std::int64_t t = 0; t < size; ++t) to[t] = from[t] * by + plus;
    }
  });
}

// --- entries --------------------------------------------------------------------------------------------------------------
// What is read may be a slice of the channels of a wider picture, as the parts of a concat and of a split are.
bool rows_of_forward(const KernelArgs& a) { return pixel_step(a.in[0]) > 0 && has_pixel_rows(a.out[0]); }
bool rows_of_backward(const KernelArgs& a) { return pixel_step(a.in[0]) > 0 && pixel_step(a.in[1]) > 0 && has_pixel_rows(a.out[0]); }
constexpr const char* other_order = "neither all channels_last nor all contiguous";
// Maps may be bf16, everything else is f32: operands of the first `maps` inputs and the first output.
bool half_maps(const KernelArgs& a) { return a.out[0].dtype == DType::bf16; }
const char* decline_half(const KernelArgs& a, std::size_t maps) {
  for (std::size_t i = 0; i < maps; ++i)
    if (a.in[i].dtype != DType::bf16) return "maps of two dtypes";
  return all_f32({a.in.subspan(maps), a.out.subspan(1)}) ? nullptr : "parameters are not f32";
}
const char* decline_forward(const KernelArgs& a) {
  if (half_maps(a)) {
    if (const char* reason = decline_half(a, 1)) return reason;
    return rows_of_forward(a) && a.in[0].numel() > 0 ? nullptr : other_order;
  }
  if (!all_f32(a)) return "f32 only";
  if (a.in[0].rank() < 2 || a.in[0].numel() == 0) return "no channels";
  return rows_of_forward(a) || (a.in[0].is_contiguous() && a.out[0].is_contiguous()) ? nullptr : other_order;
}
const char* decline_backward(const KernelArgs& a) {
  if (half_maps(a)) {
    if (const char* reason = decline_half(a, 2)) return reason;
    return rows_of_backward(a) && a.in[1].numel() > 0 ? nullptr : other_order;
  }
  if (!all_f32(a)) return "f32 only";
  if (a.in[1].rank() < 2 || a.in[1].numel() == 0) return "no channels";
  return rows_of_backward(a) || (a.in[1].is_contiguous() && a.out[0].is_contiguous() && a.in[0].is_contiguous()) ? nullptr : other_order;
}
const char* decline_affine(const KernelArgs& a) { return decline_layout(a, a.in[0], a.out[0]); }
std::int64_t workspace_forward(const KernelArgs& a) { return Scratch::bytes(a.in[0].size(1)); }
std::int64_t workspace_backward(const KernelArgs& a) { return Scratch::bytes(a.in[1].size(1)); }
std::int64_t workspace_affine(const KernelArgs& a) { return 8 * a.in[0].size(1); }
template <Activation A>
void forward(const KernelArgs& a) {
  if (half_maps(a)) return rows_forward<A, bfloat16>(a);
  rows_of_forward(a) ? rows_forward<A, float>(a) : planes_forward<A>(a);
}
template <Activation A>
void backward(const KernelArgs& a) {
  if (half_maps(a)) return rows_backward<A, bfloat16>(a);
  rows_of_backward(a) ? rows_backward<A, float>(a) : planes_backward<A>(a);
}
void run_forward(const KernelArgs& a) {
  switch (a.get<NormParams>().activation) {
    case Activation::none: return forward<Activation::none>(a);
    case Activation::relu: return forward<Activation::relu>(a);
    case Activation::prelu: return forward<Activation::prelu>(a);
  }
}
void run_backward(const KernelArgs& a) {
  switch (a.get<NormParams>().activation) {
    case Activation::none: return backward<Activation::none>(a);
    case Activation::relu: return backward<Activation::relu>(a);
    case Activation::prelu: return backward<Activation::prelu>(a);
  }
}

}  // namespace

extern const KernelEntry batch_norm_entry{run_forward, decline_forward, workspace_forward};
extern const KernelEntry batch_norm_backward_entry{run_backward, decline_backward, workspace_backward};
extern const KernelEntry channel_affine_entry{run_affine, decline_affine, workspace_affine};

}  // namespace mien::MIEN_LEVEL
