// Other picture sizes. x [N, C, H, W] with pixels. ShapeError for other ranks and shapes (boxes and matrices of another dtype, too), DTypeError for pictures of other
// dtypes, ValueError for a size below 1x1.
#pragma once

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// Mean over the window floor(i*H/h) .. ceil((i+1)*H/h) of each output pixel: PyTorch's adaptive_avg_pool2d, also "area" resizing, up and down.
// f32, f64, bf16 and f16 with a derivative, in the memory order of x; u8 pictures give contiguous f32.
Tensor adaptive_avg_pool2d(const Tensor& x, Pair size);
inline Tensor resize_area(const Tensor& x, Pair size) { return adaptive_avg_pool2d(x, size); }
// f32, f64, bf16 and f16 with a derivative, in the memory order of x.
Tensor resize_bilinear(const Tensor& x, Pair size, bool align_corners = false);
// All crops of one picture in one call: image u8 or f32 [C, H, W] (any strides), boxes i64 [K, 4] = x1, y1, x2, y2 half-open and inside the
// picture (ShapeError otherwise) -> f32 [K, C, h, w] = (area resize - mean) * scale. No derivative.
Tensor crop_resize_area(const Tensor& image, const Tensor& boxes, Pair size, float mean = 0, float scale = 1);
// K affine crops of one picture: image u8 or f32 [C, H, W] (any strides), matrices f64 [K, 2, 3] from output (x, y, 1) to picture (x, y), pixel centres at
// whole numbers (OpenCV's inverse map) -> f32 [K, C, h, w] = (bilinear sample - mean) * scale, zeros outside the picture. A map that shrinks by 1.5 or
// more averages a grid of samples inside each output pixel, at most 128x128. No derivative.
Tensor warp_affine(const Tensor& image, const Tensor& matrices, Pair size, float mean = 0, float scale = 1);

}  // namespace mien
