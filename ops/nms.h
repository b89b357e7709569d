#pragma once

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// Greedy non-maximum suppression. boxes f32/f64 [K, 4] = x1, y1, x2, y2, scores [K] -> kept indices i64, by falling score (ties: lower index
// first). A box is dropped when its overlap with a kept one is > threshold. mode union_: intersection over union; min: over the smaller area.
// offset 1 measures inclusive pixels. No derivative.
Tensor nms(const Tensor& boxes, const Tensor& scores, double threshold, NmsMode mode = NmsMode::union_, int offset = 0);

}  // namespace mien
