// Element-wise functions of one tensor. f32 and f64; the result keeps shape, dtype and layout. Formulas: kernels/unary_table.h.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

Tensor neg(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor abs(const Tensor& x);                              // derivative 0 at 0
Tensor square(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor acos(const Tensor& x);                             // infinite derivative at -1 and 1: clamp first
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor relu(const Tensor& x);                             // derivative 0 at 0; NaN stays NaN
Tensor leaky_relu(const Tensor& x, double slope = .01);
Tensor softplus(const Tensor& x);                         // linear above 20
Tensor silu(const Tensor& x);
Tensor clamp(const Tensor& x, double low, double high);   // ValueError if low > high
Tensor affine(const Tensor& x, double scale, double shift);  // scale * x + shift
Tensor pow(const Tensor& x, double exponent);
Tensor sign(const Tensor& x);

inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace mien
