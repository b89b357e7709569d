// PReLU and its gradient. The sums for the slope are made in fixed parts that are added in order.
#include "mien/kernels/cpu/channels.h"
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

// --- contiguous [N, C, ...]: one slope for a run of `size` values ---------------------------------------------------------
struct Planes {
  std::int64_t n, c, size;
  std::int64_t count() const { return n * c; }
};
Planes planes(const View& x) {
  const std::int64_t n = x.rank() > 1 ? x.size(0) : 1, c = x.rank() > 1 ? x.size(1) : x.rank() == 1 ? x.size(0) : 1;
  return {n, c, n * c > 0 ? x.numel() / (n * c) : 0};
}
std::int64_t grain(const Planes& p) { return std::max<std::int64_t>(1, block / std::max<std::int64_t>(p.size, 1)); }
float slope_of(const View& slope, std::int64_t c) { return slope.ptr<float>()[slope.size(0) == 1 ? 0 : c * slope.stride(0)]; }

void planes_forward(const KernelArgs& args) {
  const Planes p = planes(args.in[0]);
  parallel_for(p.count(), grain(p), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float a = slope_of(args.in[1], plane % p.c);
      const float* x = args.in[0].ptr<float>() + plane * p.size;
      float* y = args.out[0].ptr<float>() + plane * p.size;
      for (std::int64_t i = 0; i < p.size; ++i) y[i] = x[i] > 0 ? x[i] : a * x[i];
    }
  });
}

void planes_backward(const KernelArgs& args) {
  const Planes p = planes(args.in[1]);
  auto* sums = static_cast<float*>(args.workspace);
  parallel_for(p.count(), grain(p), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float a = slope_of(args.in[2], plane % p.c);
      const float *g = args.in[0].ptr<float>() + plane * p.size, *x = args.in[1].ptr<float>() + plane * p.size;
      float* gx = args.out[0].ptr<float>() + plane * p.size;
      sums[plane] = sum_run(p.size, [=](std::int64_t i) {
        const float v = x[i], d = g[i];
        gx[i] = v > 0 ? d : a * d;
        return v > 0 ? 0.f : d * v;
      });
    }
  });
  const View& ga = args.out[1];
  for (std::int64_t c = 0; c < ga.size(0); ++c) {
    double sum = 0;
    for (std::int64_t n = 0; n < p.n; ++n)
      for (std::int64_t k = ga.size(0) == 1 ? 0 : c; k < (ga.size(0) == 1 ? p.c : c + 1); ++k) sum += static_cast<double>(sums[n * p.c + k]);
    ga.ptr<float>()[c * ga.stride(0)] = static_cast<float>(sum);
  }
}

// --- channels_last: slopes side by side, laid out in the workspace ----------------------------------------------------------
void lay_out_slopes(const View& slope, std::int64_t channels, float* out) {
  for (std::int64_t c = 0; c < channels; ++c) out[c] = slope_of(slope, c);
}

void rows_forward(const KernelArgs& args) {
  const PixelRows r = pixel_rows(args.in[0]);
  auto* slopes = static_cast<float*>(args.workspace);
  lay_out_slopes(args.in[1], r.channels, slopes);
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const float *__restrict x = args.in[0].ptr<float>() + p * r.channels, *__restrict a = slopes;
      float* __restrict y = args.out[0].ptr<float>() + p * r.channels;
      for (std::int64_t c = 0; c < r.channels; ++c) {
        const float v = x[c], low = a[c] * v;
        y[c] = v > 0 ? v : low;
      }
    }
  });
}

constexpr std::int64_t chunk_floats = 1 << 13;  // summed in floats while they are in the first cache
// Workspace: slopes; for each share the chunk's sums in float; for each share the sums in double.
void rows_backward(const KernelArgs& args) {
  const PixelRows r = pixel_rows(args.in[1]);
  const std::int64_t step = std::max<std::int64_t>(4, chunk_floats / r.channels), chunks = (r.pixels + step - 1) / step, padded = (r.channels + 1) / 2 * 2;
  auto* slopes = static_cast<float*>(args.workspace);
  float* parts = slopes + padded;
  auto* sums = reinterpret_cast<double*>(parts + max_shares * padded);
  lay_out_slopes(args.in[2], r.channels, slopes);
  for_shares(chunks, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* part = parts + share * padded;
    double* sum = sums + share * r.channels;
    std::fill_n(sum, r.channels, 0.0);
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t pixels = std::min(step, r.pixels - k * step), at = k * step * r.channels;
      const float *g = args.in[0].ptr<float>() + at, *x = args.in[1].ptr<float>() + at;
      for (std::int64_t p = 0; p < pixels; ++p) {
        const float *__restrict gs = g + p * r.channels, *__restrict xs = x + p * r.channels, *__restrict a = slopes;
        float* __restrict to = args.out[0].ptr<float>() + at + p * r.channels;
        for (std::int64_t c = 0; c < r.channels; ++c) {
          const float d = gs[c], low = a[c] * d;
          to[c] = xs[c] > 0 ? d : low;
        }
      }
      sum_rows(pixels, r.channels, part, [=, n = r.channels](std::int64_t row, std::int64_t c) {
        const float v = x[row * n + c], product = g[row * n + c] * v;
        return v > 0 ? 0.f : product;
      });
      for (std::int64_t c = 0; c < r.channels; ++c) sum[c] += static_cast<double>(part[c]);
    }
  });
  const View& ga = args.out[1];
  for (std::int64_t c = 0; c < ga.size(0); ++c) {
    double sum = 0;
    for (std::int64_t share = 0; share < shares_of(chunks); ++share)
      for (std::int64_t k = ga.size(0) == 1 ? 0 : c; k < (ga.size(0) == 1 ? r.channels : c + 1); ++k) sum += sums[share * r.channels + k];
    ga.ptr<float>()[c * ga.stride(0)] = static_cast<float>(sum);
  }
}

// --- entries ----------------------------------------------------------------------------------------------------------------
bool last(const KernelArgs& a) {
  return a.in[0].numel() > 0 && all_pixel_rows(a.in[0], a.out[0]) && (a.in.size() < 3 || has_pixel_rows(a.in[1]));
}
void run(const KernelArgs& a) { last(a) ? rows_forward(a) : planes_forward(a); }
void run_backward(const KernelArgs& a) { last(a) ? rows_backward(a) : planes_backward(a); }
const char* decline(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  if (last(a)) return nullptr;
  for (const View* v : {&a.in[0], &a.out[0]})
    if (!v->is_contiguous()) return "neither all channels_last nor all contiguous";
  return a.in.size() > 2 && !a.in[1].is_contiguous() ? "neither all channels_last nor all contiguous" : nullptr;
}
std::int64_t workspace(const KernelArgs& a) { return last(a) ? 4 * a.in[0].size(1) : 0; }
std::int64_t workspace_backward(const KernelArgs& a) {
  if (!last(a)) return 4 * planes(a.in[1]).count();
  const std::int64_t padded = (a.in[1].size(1) + 1) / 2 * 2;
  return 4 * padded * (1 + max_shares) + 8 * max_shares * padded;
}

}  // namespace

extern const KernelEntry prelu_entry{run, decline, workspace};
extern const KernelEntry prelu_backward_entry{run_backward, decline, workspace_backward};

}  // namespace mien::MIEN_LEVEL
