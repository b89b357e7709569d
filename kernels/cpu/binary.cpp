// Arithmetic of two tensors. Rows along what is densest in the output; each operand runs along it (stride 1), stands still (0), or steps.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class F>
void rows(const KernelArgs& args, const F& f) {
  const View &a = args.in[0], &b = args.in[1], &y = args.out[0];
  const View same[] = {y, a, b};
  if (same_dense(same)) {
    dense_loop<2>({&a, &b}, y, [&](std::int64_t count, const auto& in, float* to) {
      const float *p = in[0], *q = in[1];
      for (std::int64_t i = 0; i < count; ++i) to[i] = f(p[i], q[i]);
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
  if (!all_f32(args)) {
    const View same[] = {args.out[0], args.in[0], args.in[1]};
    if (!all_bf16(args) || !same_dense(same)) return "neither f32 nor bf16 in one dense order";
  }
  if (args.get<BinaryParams>().kind > BinaryKind::div) return "add, sub, mul and div only";
  return nullptr;
}

}  // namespace

extern const KernelEntry binary_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
