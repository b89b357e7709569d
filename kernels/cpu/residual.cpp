// The end of a residual block in one pass. Semantics: kernels/ref/residual.cpp.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

void run(const KernelArgs& args) {
  const auto& p = args.get<ResidualParams>();
  const float scale = static_cast<float>(p.scale);
  const bool relu = p.relu;
  dense_loop<2>({&args.in[0], &args.in[1]}, args.out[0], [=](std::int64_t n, const auto& in, float* __restrict y) {
    const float *__restrict x = in[0], *__restrict h = in[1];
    for (std::int64_t i = 0; i < n; ++i) {
      const float v = x[i] + scale * h[i];
      y[i] = relu && v <= 0 ? 0 : v;
    }
  });
}
const char* decline(const KernelArgs& args) {
  if (!all_f32(args) && !all_bf16(args)) return "f32 or bf16 only";
  const View views[] = {args.out[0], args.in[0], args.in[1]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry residual_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
