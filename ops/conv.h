// Convolution (cross-correlation, as every framework). Plain, grouped, depthwise (groups == C), dilated, transposed; rectangular kernels and
// strides, asymmetric zero padding. Source of the transposed form: Dumoulin and Visin, "A guide to convolution arithmetic", 2016.
#pragma once

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// x [N, C, H, W], weight [O, C/groups, kh, kw], bias [O] (may be undefined) -> [N, O, OH, OW],
// OH = (H + top + bottom - dilation*(kh-1) - 1) / stride + 1 rounded down. Keeps channels_last. Throws ShapeError, DTypeError.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvParams& params = {});

// weight [C, O/groups, kh, kw]; OH = (H-1)*stride - 2*padding + dilation*(kh-1) + output_padding + 1, output_padding < max(stride, dilation).
struct ConvTransposeOptions {
  Pair stride{1, 1}, padding{0, 0}, output_padding{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
};
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const ConvTransposeOptions& options = {});

}  // namespace mien
