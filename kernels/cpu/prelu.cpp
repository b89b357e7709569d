// PReLU and its gradient. The sum for the slope is made per (image, channel) plane and the planes are added in order.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Planes {
  std::int64_t n, c, size;
  std::int64_t count() const { return n * c; }
};
// [N, C, ...] contiguous: one slope per run of `size` values.
Planes planes(const View& x) {
  const std::int64_t n = x.rank() > 1 ? x.size(0) : 1, c = x.rank() > 1 ? x.size(1) : x.rank() == 1 ? x.size(0) : 1;
  return {n, c, n * c > 0 ? x.numel() / (n * c) : 0};
}
std::int64_t grain(const Planes& p) { return std::max<std::int64_t>(1, block / std::max<std::int64_t>(p.size, 1)); }

void run(const KernelArgs& args) {
  const Planes p = planes(args.in[0]);
  const View& slope = args.in[1];
  parallel_for(p.count(), grain(p), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float a = slope.ptr<float>()[slope.size(0) == 1 ? 0 : plane % p.c * slope.stride(0)];
      const float* x = args.in[0].ptr<float>() + plane * p.size;
      float* y = args.out[0].ptr<float>() + plane * p.size;
      for (std::int64_t i = 0; i < p.size; ++i) y[i] = x[i] > 0 ? x[i] : a * x[i];
    }
  });
}

void run_backward(const KernelArgs& args) {
  const Planes p = planes(args.in[1]);
  const View& slope = args.in[2];
  auto* sums = static_cast<float*>(args.workspace);
  parallel_for(p.count(), grain(p), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const float a = slope.ptr<float>()[slope.size(0) == 1 ? 0 : plane % p.c * slope.stride(0)];
      const float *g = args.in[0].ptr<float>() + plane * p.size, *x = args.in[1].ptr<float>() + plane * p.size;
      float* gx = args.out[0].ptr<float>() + plane * p.size;
      float part[16] = {};  // sixteen sums side by side: vectors, and a fixed order
      std::int64_t i = 0;
      for (; i + 16 <= p.size; i += 16)
        for (int k = 0; k < 16; ++k) {
          const float v = x[i + k], d = g[i + k];
          gx[i + k] = v > 0 ? d : a * d;
          part[k] += v > 0 ? 0.f : d * v;
        }
      for (; i < p.size; ++i) {
        gx[i] = x[i] > 0 ? g[i] : a * g[i];
        part[i % 16] += x[i] > 0 ? 0.f : g[i] * x[i];
      }
      double sum = 0;
      for (const float v : part) sum += static_cast<double>(v);
      sums[plane] = static_cast<float>(sum);
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

const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  for (const View* v : {&args.in[0], &args.out[0]})
    if (!v->is_contiguous()) return "not contiguous";
  return args.in.size() > 2 && !args.in[1].is_contiguous() ? "not contiguous" : nullptr;
}
std::int64_t workspace(const KernelArgs& args) { return 4 * planes(args.in[1]).count(); }

}  // namespace

extern const KernelEntry prelu_entry{run, decline};
extern const KernelEntry prelu_backward_entry{run_backward, decline, workspace};

}  // namespace mien::MIEN_LEVEL
