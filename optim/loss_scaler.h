// Loss scaling for training in f16, whose smallest normal number is 6e-5: gradients below it would vanish.
//
//   LossScaler scaler;
//   backward(scaler.scale(loss));
//   if (scaler.unscale(parameters)) optimizer.step();     // false: a gradient overflowed, this step is left out and the factor halved
//   optimizer.zero_grad();
//
// Source: Micikevicius et al., "Mixed precision training", ICLR 2018; the rule of torch.amp.GradScaler. Thread safety: none.
#pragma once

#include <vector>

#include "mien/layers/module.h"

namespace mien {

struct LossScalerOptions {
  double start = 65536;            // 2^16
  double growth = 2, backoff = .5;  // after `interval` good steps, after an overflow
  std::int64_t interval = 2000;
};

class LossScaler {
 public:
  explicit LossScaler(const LossScalerOptions& options = {});  // ValueError unless start > 0, growth > 1, 0 < backoff < 1, interval >= 1
  Tensor scale(const Tensor& loss) const;
  // Divides the gradients and tells whether all of them are finite; moves the factor. Reads one number from the device.
  bool unscale(const std::vector<NamedTensor>& parameters);
  double factor() const noexcept { return factor_; }
  std::int64_t good_steps() const noexcept { return good_; }  // since the factor moved
  void restore(double factor, std::int64_t good_steps);       // from a checkpoint; ValueError unless factor > 0 and 0 <= good_steps < interval

 private:
  LossScalerOptions options_;
  double factor_;
  std::int64_t good_ = 0;
};

}  // namespace mien
