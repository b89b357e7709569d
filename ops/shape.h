// Ops that put elements elsewhere.
#pragma once

#include <array>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

Tensor concat(const std::vector<Tensor>& parts, std::int64_t dim);
Tensor stack(const std::vector<Tensor>& parts, std::int64_t dim = 0);
// Constant padding: {low, high} per dimension, non-negative.
Tensor pad(const Tensor& x, const std::vector<std::array<std::int64_t, 2>>& pads, double value = 0);
// Rows of dimension 0; index i64 [K], each in 0..N-1 (ShapeError otherwise).
Tensor index_select(const Tensor& x, const Tensor& index);

}  // namespace mien
