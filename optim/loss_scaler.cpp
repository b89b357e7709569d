#include "mien/optim/loss_scaler.h"

#include <cmath>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"

namespace mien {

LossScaler::LossScaler(const LossScalerOptions& o) : options_(o), factor_(o.start) {
  if (!(o.start > 0 && o.growth > 1 && o.backoff > 0 && o.backoff < 1 && o.interval >= 1)) throw ValueError("LossScaler", "expects start > 0, growth > 1, 0 < backoff < 1 and interval >= 1");
}

void LossScaler::restore(double factor, std::int64_t good_steps) {
  if (!(factor > 0 && std::isfinite(factor)) || good_steps < 0 || good_steps >= options_.interval)
    throw ValueError("LossScaler", "expects a factor > 0 and 0 to " + std::to_string(options_.interval - 1) + " good steps, got " + std::to_string(factor) + " and " + std::to_string(good_steps));
  factor_ = factor;
  good_ = good_steps;
}

Tensor LossScaler::scale(const Tensor& loss) const { return affine(loss, factor_, 0); }

bool LossScaler::unscale(const std::vector<NamedTensor>& parameters) {
  const NoGrad guard;
  Tensor total;  // of |gradient|: one infinity or NaN shows in it
  for (const auto& p : parameters) {
    const Tensor g = grad(p.value);
    if (!g.defined()) continue;
    const Tensor unscaled = affine(g, 1 / factor_, 0), size = max(abs(unscaled));
    set_grad(p.value, unscaled);
    total = total.defined() ? add(total, size) : size;
  }
  const bool finite = !total.defined() || std::isfinite(total.item());
  if (!finite) {
    factor_ *= options_.backoff;
    good_ = 0;
  } else if (++good_ == options_.interval) {
    factor_ *= options_.growth;
    good_ = 0;
  }
  return finite;
}

}  // namespace mien
