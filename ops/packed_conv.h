// The convolution of planned inference: weights packed once, bias, residual and activation in the same pass, several siblings at a time. No derivative.
// Packed forms and memory orders: kernels/params.h.
#pragma once

#include <span>
#include <vector>

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// Parameters of the op. The kernel reads PackedConvParams; the outputs' dtype can't be derived from the inputs, so it travels along.
struct PackedConvOpParams : PackedConvParams {
  DType y_dtype = DType::f32;
};

// weight [O, C/groups, kh, kw] f32 or f64, groups 1 or depthwise (groups == O, C/groups == 1). dtype bf16 gives the form of tile units (groups 1 only).
// Throws ShapeError, DTypeError.
Tensor pack_conv_weights(const Tensor& weight, std::int64_t groups = 1, DType dtype = DType::f32);

// The form for Winograd's F(4x4, 3x3): four times the memory of [O, C, 3, 3], up to four times fewer products. Its rounding error is about twice that of a
// direct sum. For convolutions with stride 1 and dilation 1. Throws ShapeError, DTypeError.
Tensor pack_winograd_weights(const Tensor& weight);

// Side by side: the packed weights of siblings that read the same picture, for one packed_conv2d with an output each.
Tensor join_packed_weights(std::span<const Tensor> packed);

// x [N, C, H, W] in channels_last (or a channel slice of such a map); bias [O] and slope [O] (defined for Activation::prelu only) of all outputs one after
// the other; residual of the one output's shape, or undefined. params.channels[0 .. outputs) are the channels of each output. y_dtype: f32 or bf16 when x
// is bf16, otherwise x's. Outputs are channels_last. Throws ShapeError, DTypeError, ValueError.
struct PackedConvInputs {
  Tensor x, weight, bias, slope, residual;
};
std::vector<Tensor> packed_conv2d(const PackedConvInputs& in, const PackedConvParams& params, DType y_dtype = DType::f32);

}  // namespace mien
