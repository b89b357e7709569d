// Steps of optimizers in one pass over gradient, state and parameter. Semantics: kernels/ref/optim.cpp.
#include <cmath>

#include "mien/kernels/cpu/elementwise.h"
#include "mien/kernels/cpu/select.h"

namespace mien::MIEN_LEVEL {
namespace {

// One vector of a step; `momentum` is left alone where it is 0.
struct SgdStep {
  Vec rate, momentum, decay, fresh, keep;
  bool with_momentum, nesterov;
  explicit SgdStep(const SgdParams& p)
      : rate(Set(static_cast<float>(-p.lr))), momentum(Set(static_cast<float>(p.momentum))), decay(Set(static_cast<float>(p.weight_decay))),
        fresh(Set(p.first_step ? 1.f : static_cast<float>(1 - p.dampening))), keep(Set(p.first_step ? 0.f : static_cast<float>(p.momentum))),
        with_momentum(p.momentum > 0 || p.momentum < 0), nesterov(p.nesterov) {}
  template <class N>
  void operator()(const float* g, float* w, float* m, N n) const {
    const Vec value = Load(w, n), d = MulAdd(decay, value, Load(g, n));
    if (!with_momentum) return Store(MulAdd(rate, d, value), w, n);
    const Vec sum = MulAdd(keep, Load(m, n), Mul(fresh, d));
    Store(sum, m, n);
    Store(MulAdd(rate, nesterov ? MulAdd(momentum, sum, d) : sum, value), w, n);
  }
};

void run_sgd(const KernelArgs& args) {
  const SgdStep step(args.get<SgdParams>());
  const float* g = args.in[0].ptr<float>();
  float *w = args.out[0].ptr<float>(), *m = args.out[1].ptr<float>();
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    const SgdStep own = step;
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      for (const float* p : {g, static_cast<const float*>(w), static_cast<const float*>(m)}) call_up(p + i + page_floats);
      own(g + i, w + i, m + i, Whole());
    }
    if (i < end) own(g + i, w + i, m + i, end - i);
  });
}

void run_adam(const KernelArgs& args) {
  const auto& p = args.get<AdamParams>();
  const double t = static_cast<double>(p.step), correction1 = 1 - std::pow(p.beta1, t), correction2 = 1 - std::pow(p.beta2, t);
  const float keep1 = static_cast<float>(p.beta1), fresh1 = static_cast<float>(1 - p.beta1), keep2 = static_cast<float>(p.beta2), fresh2 = static_cast<float>(1 - p.beta2);
  const float step = static_cast<float>(p.lr / correction1), norm = static_cast<float>(1 / std::sqrt(correction2)), eps = static_cast<float>(p.eps);
  const float coupled = p.decoupled ? 0 : static_cast<float>(p.weight_decay), shrink = p.decoupled ? static_cast<float>(1 - p.lr * p.weight_decay) : 1;
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    const float* __restrict g = args.in[0].ptr<float>();
    float *__restrict w = args.out[0].ptr<float>(), *__restrict m = args.out[1].ptr<float>(), *__restrict v = args.out[2].ptr<float>();
    stream(begin, end, {g, w, m, v}, [=](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        const float value = w[i] * shrink, d = g[i] + coupled * value, first = keep1 * m[i] + fresh1 * d, second = keep2 * v[i] + fresh2 * d * d;
        m[i] = first;
        v[i] = second;
        w[i] = value - step * first / (std::sqrt(second) * norm + eps);
      }
    });
  });
}

const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  const View views[] = {args.out[0], args.in[0], args.out[1], args.out[args.out.size() > 2 ? 2 : 1]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry sgd_entry{run_sgd, decline};
extern const KernelEntry adam_entry{run_adam, decline};

}  // namespace mien::MIEN_LEVEL
