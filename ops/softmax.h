#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

Tensor softmax(const Tensor& x, std::int64_t dim);      // stable: the largest value is subtracted
Tensor log_softmax(const Tensor& x, std::int64_t dim);

}  // namespace mien
