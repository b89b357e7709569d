// What the op pnet_candidates passes to kernels beside its threshold: the sizes of the scales, which lie in a tensor too. A kernel on a GPU is launched before anyone
// could read that tensor, and must know how much to launch.
#pragma once

#include "mien/kernels/params.h"

namespace mien {

// What a GPU takes at once; more scales are more calls (pnet_scales_at_once in ops/pnet.h).
inline constexpr int max_pnet_scales = 40;  // at a factor of .709 enough for pictures of 10^7 pixels a side
inline constexpr std::int64_t max_pnet_pixels = std::int64_t{1} << 30;

struct PnetPyramidParams : PnetParams {
  std::int64_t cells = 0;                                           // of all scales
  std::int16_t scales = 0;                                          // more than max_pnet_scales: none are listed, and GPUs decline
  std::array<std::array<std::int16_t, 2>, max_pnet_scales> size{};  // height, width
};

}  // namespace mien
