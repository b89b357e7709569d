// Max pooling: contiguous planes, one plane at a time, or channels_last with lanes along the channels.
#include <limits>

#include "mien/kernels/cpu/channels.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Plane {
  std::int64_t h, w, oh, ow;
};

// Windows that lie inside the picture: the loop over the window is unrolled for the usual kernels.
template <int K>
void inside(const float* x, const Plane& p, std::int64_t y, std::int64_t from, std::int64_t to, const PoolParams& q, float* out, std::int64_t* index) {
  const std::int64_t kh = K > 0 ? K : q.kernel[0], kw = K > 0 ? K : q.kernel[1], top = y * q.stride[0] - q.padding[0];
  for (std::int64_t ox = from; ox < to; ++ox) {
    const std::int64_t left = ox * q.stride[1] - q.padding[1];
    float best = x[top * p.w + left];
    std::int64_t at = top * p.w + left;
    for (std::int64_t i = 0; i < kh; ++i)
      for (std::int64_t j = 0; j < kw; ++j) {
        const std::int64_t k = (top + i * q.dilation[0]) * p.w + left + j * q.dilation[1];
        const float v = x[k];
        if (v > best || (v != v && best == best)) {  // the first of equals wins, NaN wins over numbers
          best = v;
          at = k;
        }
      }
    out[ox] = best;
    index[ox] = at;
  }
}

void edge(const float* x, const Plane& p, std::int64_t y, std::int64_t ox, const PoolParams& q, float* out, std::int64_t* index) {
  float best = -std::numeric_limits<float>::infinity();
  std::int64_t at = -1;
  for (std::int64_t i = 0; i < q.kernel[0]; ++i)
    for (std::int64_t j = 0; j < q.kernel[1]; ++j) {
      const std::int64_t h = y * q.stride[0] - q.padding[0] + i * q.dilation[0], w = ox * q.stride[1] - q.padding[1] + j * q.dilation[1];
      if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
      const float v = x[h * p.w + w];
      if (at < 0 || v > best || (v != v && best == best)) {
        best = v;
        at = h * p.w + w;
      }
    }
  out[ox] = best;
  index[ox] = at;
}

void planes_forward(const KernelArgs& args) {
  const auto& q = args.get<PoolParams>();
  const View &x = args.in[0], &y = args.out[0];
  const Plane p{x.size(2), x.size(3), y.size(2), y.size(3)};
  const std::int64_t reach_h = q.dilation[0] * (q.kernel[0] - 1), reach_w = q.dilation[1] * (q.kernel[1] - 1);
  // Columns [first, last) have their whole window inside.
  const std::int64_t first = std::min(p.ow, (q.padding[1] + q.stride[1] - 1) / q.stride[1]);
  const std::int64_t room = p.w + q.padding[1] - reach_w - 1;
  const std::int64_t last = std::max(first, std::min(p.ow, room < 0 ? 0 : room / q.stride[1] + 1));
  const bool plain = q.kernel[0] == q.kernel[1] && q.dilation[0] == 1 && q.dilation[1] == 1;
  parallel_for(x.size(0) * x.size(1), std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, p.oh * p.ow)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float* from = x.ptr<float>() + plane * p.h * p.w;
      for (std::int64_t r = 0; r < p.oh; ++r) {
        float* out = y.ptr<float>() + (plane * p.oh + r) * p.ow;
        std::int64_t* index = args.out[1].ptr<std::int64_t>() + (plane * p.oh + r) * p.ow;
        const std::int64_t top = r * q.stride[0] - q.padding[0];
        const bool whole = top >= 0 && top + reach_h < p.h;
        const std::int64_t a = whole ? first : p.ow, b = whole ? last : p.ow;
        for (std::int64_t ox = 0; ox < a; ++ox) edge(from, p, r, ox, q, out, index);
        if (whole && plain && q.kernel[0] == 2) inside<2>(from, p, r, a, b, q, out, index);
        else if (whole && plain && q.kernel[0] == 3) inside<3>(from, p, r, a, b, q, out, index);
        else if (whole) inside<0>(from, p, r, a, b, q, out, index);
        for (std::int64_t ox = b; ox < p.ow; ++ox) edge(from, p, r, ox, q, out, index);
      }
    }
  });
}

void planes_backward(const KernelArgs& args) {
  const View &g = args.in[0], &index = args.in[1], &gx = args.out[0];
  const std::int64_t in = g.size(2) * g.size(3), out = gx.size(2) * gx.size(3);
  parallel_for(g.size(0) * g.size(1), std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, out)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      float* to = gx.ptr<float>() + plane * out;
      std::fill_n(to, out, 0.f);
      for (std::int64_t i = plane * in; i < (plane + 1) * in; ++i)
        if (const std::int64_t at = index.ptr<std::int64_t>()[i]; at >= 0) to[at] += g.ptr<float>()[i];
    }
  });
}

// --- channels_last ------------------------------------------------------------------------------------------------------------
constexpr std::int64_t some_channels = 64;  // best values and winners of so many stay in the first cache

void rows_forward(const KernelArgs& args) {
  const auto& q = args.get<PoolParams>();
  const View &vx = args.in[0], &vy = args.out[0];
  const std::int64_t channels = vx.size(1), h = vx.size(2), w = vx.size(3), oh = vy.size(2), ow = vy.size(3);
  parallel_for(vx.size(0) * oh, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t pixel = begin * ow; pixel < end * ow; ++pixel) {
      const float* picture = vx.ptr<float>() + pixel / (oh * ow) * h * w * channels;
      const std::int64_t top = pixel / ow % oh * q.stride[0] - q.padding[0], left = pixel % ow * q.stride[1] - q.padding[1];
      for (std::int64_t c0 = 0; c0 < channels; c0 += some_channels) {
        const std::int64_t count = std::min(some_channels, channels - c0);
        float best[some_channels];
        std::int32_t at[some_channels];
        std::fill_n(best, count, -std::numeric_limits<float>::infinity());
        std::fill_n(at, count, -1);
        for (std::int64_t i = 0; i < q.kernel[0]; ++i)
          for (std::int64_t j = 0; j < q.kernel[1]; ++j) {
            const std::int64_t y = top + i * q.dilation[0], x = left + j * q.dilation[1];
            if (y < 0 || y >= h || x < 0 || x >= w) continue;
            const float* from = picture + (y * w + x) * channels + c0;
            const auto here = static_cast<std::int32_t>(y * w + x);
            for (std::int64_t c = 0; c < count; ++c) {  // the first of equals wins, the first NaN wins over numbers
              const float v = from[c], b = best[c];
              const bool wins = (at[c] < 0) | (v > b) | ((v != v) & (b == b));
              best[c] = wins ? v : b;
              at[c] = wins ? here : at[c];
            }
          }
        std::copy_n(best, count, vy.ptr<float>() + pixel * channels + c0);
        std::int64_t* index = args.out[1].ptr<std::int64_t>() + pixel * channels + c0;
        for (std::int64_t c = 0; c < count; ++c) index[c] = at[c];
      }
    }
  });
}

// The gradient may be a slice of the channels of a wider picture, as the parts of a concat get it.
void rows_backward(const KernelArgs& args) {
  const View &g = args.in[0], &gx = args.out[0];
  const std::int64_t channels = gx.size(1), in = g.size(2) * g.size(3), out = gx.size(2) * gx.size(3), step = pixel_step(g);
  parallel_for(gx.size(0), 1, [&](std::int64_t n, std::int64_t) {
    float* to = gx.ptr<float>() + n * out * channels;
    std::fill_n(to, out * channels, 0.f);
    for (std::int64_t p = n * in; p < (n + 1) * in; ++p) {
      const float* from = g.ptr<float>() + p * step;
      const std::int64_t* index = args.in[1].ptr<std::int64_t>() + p * channels;
      for (std::int64_t c = 0; c < channels; ++c)
        if (index[c] >= 0) to[index[c] * channels + c] += from[c];
    }
  });
}

// --- entries ------------------------------------------------------------------------------------------------------------------
bool all_contiguous(const KernelArgs& args) {
  const auto contiguous = [](const View& v) { return v.is_contiguous(); };
  return std::all_of(args.in.begin(), args.in.end(), contiguous) && std::all_of(args.out.begin(), args.out.end(), contiguous);
}
void run(const KernelArgs& args) { all_contiguous(args) ? planes_forward(args) : rows_forward(args); }
void run_backward(const KernelArgs& args) { all_contiguous(args) ? planes_backward(args) : rows_backward(args); }
const char* decline(const KernelArgs& args) {
  if (args.in[0].dtype != DType::f32) return "f32 only";
  if (all_contiguous(args)) return nullptr;
  if (args.in[0].size(2) * args.in[0].size(3) > std::numeric_limits<std::int32_t>::max()) return "a picture of more than 2^31 pixels";
  return args.in[0].numel() > 0 && args.in[0].is_channels_last() && args.out[0].is_channels_last() && args.out[1].is_channels_last() ? nullptr : "neither contiguous nor channels_last";
}
const char* decline_backward(const KernelArgs& args) {
  if (args.in[0].dtype != DType::f32) return "f32 only";
  if (all_contiguous(args)) return nullptr;
  return args.in[0].numel() > 0 && pixel_step(args.in[0]) > 0 && args.in[1].is_channels_last() && args.out[0].is_channels_last() ? nullptr : "neither contiguous nor channels_last";
}

}  // namespace

extern const KernelEntry max_pool2d_entry{run, decline};
extern const KernelEntry max_pool2d_backward_entry{run_backward, decline_backward};

}  // namespace mien::MIEN_LEVEL
