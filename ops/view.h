// Other ways to look at the same memory: no copy (reshape copies when the strides do not allow a view), all differentiable.
#pragma once

#include <optional>

#include "mien/tensor/tensor.h"

namespace mien {

// Parameters of reshape, expand (the new shape) and permute (the order of the dimensions).
struct ShapeParams {
  Shape shape;
};

// One size may be -1: it follows from the others.
Tensor reshape(const Tensor& x, const Shape& shape);
// Dims first..last (inclusive, negative allowed) become one.
Tensor flatten(const Tensor& x, std::int64_t first = 0, std::int64_t last = -1);
Tensor permute(const Tensor& x, const Shape& order);
Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b);
// Sizes of 1 repeat (stride 0); new dimensions come first.
Tensor expand(const Tensor& x, const Shape& shape);
// Elements start, start+step, ... below stop; negative start and stop count from the end; step >= 1.
Tensor slice(const Tensor& x, std::int64_t dim, std::int64_t start, std::optional<std::int64_t> stop = {}, std::int64_t step = 1);
Tensor squeeze(const Tensor& x, std::int64_t dim);    // ShapeError unless its size is 1
Tensor unsqueeze(const Tensor& x, std::int64_t dim);

}  // namespace mien
