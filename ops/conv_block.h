#pragma once

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// max_pool2d(prelu(conv2d(x, weight, bias), slope), window) in one op, whose largest map never exists: what small networks (MTCNN) are made of.
// x [N, C, H, W] contiguous or channels_last, weight [O, C, kh, kw], bias [O], slope [O] or [1]; the result [N, O, h, w] is channels_last. The convolution has
// stride 1 and no padding. Without a window there is no pooling; a window has no padding, at most 255 places and PyTorch's ceil_mode.
// ShapeError, DTypeError as the three ops; ValueError for another kind of window.
Tensor conv_block(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& slope, const PoolParams& window = {.kernel = {1, 1}, .stride = {1, 1}});

}  // namespace mien
