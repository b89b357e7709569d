#pragma once

#include "mien/ops/norm_conv.h"
#include "mien/tensor/tensor.h"

namespace mien {

// x [N, C, ...], weight, bias, running_mean, running_var [C] (Ioffe and Szegedy, "Batch normalization", 2015). Training: normalises with the
// batch's biased variance and updates running_* in place with the unbiased one: r = (1 - momentum) * r + momentum * batch. Otherwise uses running_*.
// The activation follows: max(y, 0), or y > 0 ? y : slope[c] * y with `slope` [C]. In training that is the same pass, and the derivative keeps x alone, from
// which the activation's input is made anew.
struct BatchNormOptions {
  bool training = false;
  double eps = 1e-5, momentum = .1;
  Activation activation = Activation::none;
};
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean, const Tensor& running_var, const BatchNormOptions& options = {},
                  const Tensor& slope = {});
// The running statistics' part of it, for a map whose moments are known (norm_conv).
void update_running_moments(const Tensor& running_mean, const Tensor& running_var, const MomentMap& seen, double eps, double momentum);
// Keeps each element with probability 1 - p and scales it by 1 / (1 - p); the mask comes from `stream` of `seed` (default generator when not training: identity).
Tensor dropout(const Tensor& x, double p, bool training);

}  // namespace mien
