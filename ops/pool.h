// Pooling over x [N, C, H, W], semantics of PyTorch (ceil_mode, count_include_pad). Padding <= kernel / 2. Max pads with -inf; NaN wins over numbers.
//
// f32, f64, bf16 and f16; the result has the dtype and the memory order of x, and a derivative. ShapeError for another rank and for windows larger than the padded
// input, DTypeError for other dtypes, ValueError for kernels, strides, dilations and paddings out of range.
#pragma once

#include <utility>

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

Tensor max_pool2d(const Tensor& x, const PoolParams& params);
// The values and where they came from: i64 h*W + w.
std::pair<Tensor, Tensor> max_pool2d_with_indices(const Tensor& x, const PoolParams& params);
Tensor avg_pool2d(const Tensor& x, const PoolParams& params);
Tensor global_avg_pool2d(const Tensor& x);  // [N, C, 1, 1]; adaptive_avg_pool2d (ops/resize.h), so u8 too

}  // namespace mien
