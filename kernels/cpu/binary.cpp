// Arithmetic of two tensors. Rows along what is densest in the output; each operand runs along it (stride 1), stands still (0), or steps.
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
      stream(begin, end, {p, q, to}, [=, &f](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) to[i] = f(p[i], q[i]);
      });
    });
    return;
  }
  const Rows<3> r({&y, &a, &b});
  const std::int64_t n = r.length(), ys = r.step(0), as = r.step(1), bs = r.step(2);
  r.each([&](const std::array<std::int64_t, 3>& at) {
    float* to = y.ptr<float>() + at[0];
    const float *p = a.ptr<float>() + at[1], *q = b.ptr<float>() + at[2];
    if (as == 1 && bs == 1 && ys == 1)
      for (std::int64_t i = 0; i < n; ++i) to[i] = f(p[i], q[i]);
    else if (as == 1 && bs == 0 && ys == 1)
      for (std::int64_t i = 0; i < n; ++i) to[i] = f(p[i], *q);
    else
      for (std::int64_t i = 0; i < n; ++i) to[i * ys] = f(p[i * as], q[i * bs]);
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
  return nullptr;
}

}  // namespace

extern const KernelEntry binary_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
