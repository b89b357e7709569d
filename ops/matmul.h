#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// a [..., M, K] times b [..., K, N] -> [..., M, N]; leading dimensions broadcast. Rank >= 2.
Tensor matmul(const Tensor& a, const Tensor& b);
// x [..., I] times weight [O, I] transposed, plus bias [O] (may be undefined) -> [..., O].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace mien
