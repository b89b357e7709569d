#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// x / max(||x||_p, eps) along `dim`, p 1 or 2 (ValueError otherwise): vectors of length 1. Any shape, f32 or f64. The zero vector stays zero and its
// derivative is finite, 1 / eps. PyTorch's F.normalize; TensorFlow's l2_normalize takes eps = sqrt(its epsilon).
//
//   Tensor unit = normalize(embeddings);      // [N, D]: every row has Euclidean length 1
Tensor normalize(const Tensor& x, int p = 2, std::int64_t dim = 1, double eps = 1e-12);

}  // namespace mien
