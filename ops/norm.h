#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// x [N, C, ...], weight, bias, running_mean, running_var [C] (Ioffe and Szegedy, "Batch normalization", 2015). Training: normalises with the
// batch's biased variance and updates running_* in place with the unbiased one: r = (1 - momentum) * r + momentum * batch. Otherwise uses running_*.
// `relu`: max(y, 0); in training in the same pass, and the derivative keeps x alone (the mask is made anew from it).
struct BatchNormOptions {
  bool training = false;
  double eps = 1e-5, momentum = .1;
  bool relu = false;
};
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean, const Tensor& running_var, const BatchNormOptions& options = {});
// Keeps each element with probability 1 - p and scales it by 1 / (1 - p); the mask comes from `stream` of `seed` (default generator when not training: identity).
Tensor dropout(const Tensor& x, double p, bool training);

}  // namespace mien
