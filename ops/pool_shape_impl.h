// The shape rule of pooling, for the ops that pool.
#pragma once

#include <string>

#include "mien/kernels/params.h"

namespace mien {

// [N, C, H, W] -> [N, C, OH, OW], PyTorch's rule. ValueError for senseless parameters, ShapeError where nothing would be left.
// `seen` describes the input in the message.
Shape pooled_shape(const char* op, const Shape& x, const PoolParams& p, const std::string& seen);

}  // namespace mien
