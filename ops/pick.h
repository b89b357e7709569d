// One element of each row, chosen by an index: the target's logit, the hardest negative, the diagonal of a matrix.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// x [N, C] f32 or f64, index i64 [N], each in 0..C-1 (ShapeError, DTypeError, ValueError otherwise) -> [N]: x[i, index[i]].
Tensor pick(const Tensor& x, const Tensor& index);
// x [N, C], index i64 [N], values [N] -> [N, C]: x with values[i] added at [i, index[i]].
Tensor pick_add(const Tensor& x, const Tensor& index, const Tensor& values);

}  // namespace mien
