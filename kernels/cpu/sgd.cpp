// One pass over gradient, momentum and parameter. Semantics: kernels/ref/optim.cpp.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

void run(const KernelArgs& args) {
  const auto& p = args.get<SgdParams>();
  const float lr = static_cast<float>(p.lr), momentum = static_cast<float>(p.momentum), decay = static_cast<float>(p.weight_decay);
  const float fresh = p.first_step ? 1.f : static_cast<float>(1 - p.dampening), keep = p.first_step ? 0.f : momentum;
  const float* g = args.in[0].ptr<float>();
  float *w = args.out[0].ptr<float>(), *m = args.out[1].ptr<float>();
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    if (momentum == 0) {
      for (std::int64_t i = begin; i < end; ++i) w[i] -= lr * (g[i] + decay * w[i]);
    } else {
      for (std::int64_t i = begin; i < end; ++i) {
        const float d = g[i] + decay * w[i], b = keep * m[i] + fresh * d;
        m[i] = b;
        w[i] -= lr * (p.nesterov ? d + momentum * b : b);
      }
    }
  });
}
const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  const View views[] = {args.out[0], args.in[0], args.out[1]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry sgd_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
