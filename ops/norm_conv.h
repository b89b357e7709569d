// Convolutions between batch norms, as training wants them: the normalised map is never written (after Jung et al., "Restructuring batch normalization to
// accelerate CNN training", 2019). A convolution normalises and activates its input while it reads it, and its output comes with the moments that the next
// batch norm needs; the derivative does the same on the way back.
#pragma once

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// A map [N, C, H, W], and of each channel its mean and 1/sqrt(biased variance + eps): [C]; undefined where no norm follows.
struct MomentMap {
  Tensor map, mean, invstd;
};
// What a batch norm does with a map: (x - mean) * invstd * weight + bias, then the activation, with slope [C] for prelu.
struct NormOperands {
  Tensor weight, bias, slope;
  Activation activation = Activation::none;
};

// y = conv2d(norm(x), weight) with its moments over N, H, W. Where x.mean is undefined x goes in as it is and `norm` does not matter. f32 or f64 (DTypeError);
// shapes as conv2d and batch_norm want them, and at least two values a channel of y (ShapeError). Fast: f32, channels_last, 1x1 with stride 1 or depthwise 3x3
// with padding 1 and stride 1 or 2, channels in multiples of 32. Not for derivatives of derivatives.
MomentMap norm_conv(const MomentMap& x, const NormOperands& norm, const Tensor& weight, const ConvParams& params = {}, double eps = 1e-5);

// The norm of x without an activation, plus `added` (may be undefined; x's shape): the end of a block. Fast: f32, channels_last, channels in multiples of 16.
Tensor norm_add(const MomentMap& x, const Tensor& weight, const Tensor& bias, const Tensor& added = {});

}  // namespace mien
