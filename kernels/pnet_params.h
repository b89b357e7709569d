// What the op pnet_candidates passes to kernels beside its threshold: the sizes of the scales, which lie in a tensor too. A kernel on a GPU runs before anyone could
// read that tensor, and must know how much to launch.
#pragma once

#include "mien/kernels/params.h"

namespace mien {

inline constexpr int max_pnet_scales = 40;  // at a factor of .709 enough for pictures of 10^7 pixels a side
struct PnetPyramidParams : PnetParams {
  std::int16_t scales = 0;                                     // more than max_pnet_scales: none are listed, and GPUs decline
  std::array<std::array<std::int16_t, 2>, max_pnet_scales> size{};  // height, width
};

}  // namespace mien
