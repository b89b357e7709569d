// The end of a residual block (He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016; the scale from Inception-ResNet, 2017).
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// x + scale * h, and with `relu` max(that, 0), in one pass; the derivative keeps the output alone. x and h of one shape and dtype (f32, f64): ShapeError,
// DTypeError otherwise.
Tensor residual(const Tensor& x, const Tensor& h, double scale, bool relu);

}  // namespace mien
