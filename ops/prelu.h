#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// x > 0 ? x : weight * x. x [N, C, ...], weight [C] or [1] (He et al., "Delving deep into rectifiers", 2015). Weights may be negative.
Tensor prelu(const Tensor& x, const Tensor& weight);

}  // namespace mien
