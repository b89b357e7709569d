// Sums, means, extrema. `dims` empty: all dimensions. keepdim keeps them with size 1. Sums are trees over fixed chunks: the same bits for any number of threads.
#pragma once

#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

// Sums of integers and bools are i64: the sum of a bool tensor counts.
Tensor sum(const Tensor& x, const std::vector<std::int64_t>& dims = {}, bool keepdim = false);
Tensor mean(const Tensor& x, const std::vector<std::int64_t>& dims = {}, bool keepdim = false);
Tensor max(const Tensor& x, const std::vector<std::int64_t>& dims = {}, bool keepdim = false);  // ties share the gradient equally
Tensor min(const Tensor& x, const std::vector<std::int64_t>& dims = {}, bool keepdim = false);
Tensor argmax(const Tensor& x, std::int64_t dim, bool keepdim = false);                         // i64, first on ties
Tensor argmin(const Tensor& x, std::int64_t dim, bool keepdim = false);
// Adds up what broadcasting repeated: the inverse of expand for gradients.
Tensor sum_to(const Tensor& x, const Shape& shape);
// (sum |x|^p)^(1/p) along `dims` (empty: all), p >= 1 (ValueError); derivative 0 at the zero vector.
Tensor norm(const Tensor& x, double p = 2, const std::vector<std::int64_t>& dims = {}, bool keepdim = false);
// Square root of x >= 0 whose derivative at 0 is 0 instead of infinity: for distances.
Tensor safe_sqrt(const Tensor& x);

}  // namespace mien
