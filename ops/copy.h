// Copies: another memory order, another dtype.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

struct CopyParams {  // of the copy op: what the copy is like
  DType dtype = DType::f32;
  Layout layout = Layout::contiguous;
};

Tensor contiguous(const Tensor& x);                    // x itself when it already is
Tensor channels_last(const Tensor& x);                 // [N, C, H, W] in the order N, H, W, C; x itself when it already is
Tensor clone(const Tensor& x);                         // always a copy; keeps the layout
Tensor cast(const Tensor& x, DType dtype);             // x itself when it already is; floating -> integer truncates
Tensor to(const Tensor& x, Device device);             // x itself when it already is there; keeps the layout. Differentiable
// Overwrites `target` with `source` (same shape, any dtypes and devices). In place: bumps the version; NotDifferentiable for a tensor that requires a gradient outside NoGrad.
void copy_into(const Tensor& target, const Tensor& source);
void fill(const Tensor& target, double value);

}  // namespace mien
