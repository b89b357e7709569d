// The grid of samples of warp_affine, one for all CPU levels. (kernels/cuda/resize.cu writes it out: its products must not be contracted.)
#pragma once

#include <algorithm>
#include <cmath>

#include "mien/kernels/params.h"

namespace mien {

// Samples along a side of an output pixel where the map shrinks by `shrinkage`, the root of its determinant; 1 where that is no finite number.
inline std::int64_t warp_grid(double shrinkage) { return std::isfinite(shrinkage) ? std::llround(std::clamp(shrinkage, 1., largest_warp_grid)) : 1; }

}  // namespace mien
