// The end of a residual block in one pass. Semantics: kernels/ref/residual.cpp.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

void run(const KernelArgs& args) {
  const auto& p = args.get<ResidualParams>();
  const float scale = static_cast<float>(p.scale);
  const bool relu = p.relu;
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    const float *__restrict x = args.in[0].ptr<float>(), *__restrict h = args.in[1].ptr<float>();
    float* __restrict y = args.out[0].ptr<float>();
    stream(begin, end, {x, h, y}, [=](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        const float v = x[i] + scale * h[i];
        y[i] = relu && v <= 0 ? 0 : v;
      }
    });
  });
}
const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  const View views[] = {args.out[0], args.in[0], args.in[1]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry residual_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
