// Max pooling of contiguous planes, one plane at a time.
#include <limits>

#include "mien/kernels/cpu/common.h"

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
    if (index) index[ox] = at;
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
  if (index) index[ox] = at;
}

void run(const KernelArgs& args) {
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
        std::int64_t* index = args.out.size() > 1 ? args.out[1].ptr<std::int64_t>() + (plane * p.oh + r) * p.ow : nullptr;
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

void run_backward(const KernelArgs& args) {
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

const char* decline(const KernelArgs& args) {
  if (args.in[0].dtype != DType::f32) return "f32 only";
  for (const auto& v : args.in)
    if (!v.is_contiguous()) return "not contiguous";
  for (const auto& v : args.out)
    if (!v.is_contiguous()) return "not contiguous";
  return nullptr;
}

}  // namespace

extern const KernelEntry max_pool2d_entry{run, decline};
extern const KernelEntry max_pool2d_backward_entry{run_backward, decline};

}  // namespace mien::MIEN_LEVEL
