// Arithmetic of two tensors. Rows along the last dimension of the output; each operand runs along it (stride 1), stands still (0), or steps.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class F>
void rows(const KernelArgs& args, const F& f) {
  const View &a = args.in[0], &b = args.in[1], &y = args.out[0];
  const View same[] = {y, a, b};
  if (same_dense(same)) {
    parallel_for(y.numel(), block, [&](std::int64_t begin, std::int64_t end) {
      const float *p = a.ptr<float>(), *q = b.ptr<float>();
      float* to = y.ptr<float>();
      for (std::int64_t i = begin; i < end; ++i) to[i] = f(p[i], q[i]);
    });
    return;
  }
  const int r = y.rank();
  const std::int64_t n = y.size(r - 1), as = a.stride(r - 1), bs = b.stride(r - 1), ys = y.stride(r - 1);
  std::int64_t count = 1;
  for (int d = 0; d < r - 1; ++d) count *= y.size(d);
  parallel_for(count, std::max<std::int64_t>(1, block / std::max<std::int64_t>(n, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float *p = a.ptr<float>(), *q = b.ptr<float>();
      float* to = y.ptr<float>();
      std::int64_t rest = row;
      for (int d = r - 2; d >= 0; --d) {
        const std::int64_t i = rest % y.size(d);
        rest /= y.size(d);
        p += i * a.stride(d);
        q += i * b.stride(d);
        to += i * y.stride(d);
      }
      if (as == 1 && bs == 1 && ys == 1)
        for (std::int64_t i = 0; i < n; ++i) to[i] = f(p[i], q[i]);
      else if (as == 1 && bs == 0 && ys == 1)
        for (std::int64_t i = 0; i < n; ++i) to[i] = f(p[i], *q);
      else
        for (std::int64_t i = 0; i < n; ++i) to[i * ys] = f(p[i * as], q[i * bs]);
    }
  });
}

void run(const KernelArgs& args) {
  switch (args.get<BinaryParams>().kind) {
    case BinaryKind::add: return rows(args, [](float a, float b) { return a + b; });
    case BinaryKind::sub: return rows(args, [](float a, float b) { return a - b; });
    case BinaryKind::mul: return rows(args, [](float a, float b) { return a * b; });
    default: return rows(args, [](float a, float b) { return a / b; });
  }
}
const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  if (args.get<BinaryParams>().kind > BinaryKind::div) return "add, sub, mul and div only";
  return args.out[0].rank() > 0 ? nullptr : "a scalar";
}

}  // namespace

extern const KernelEntry binary_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
