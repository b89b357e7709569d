// The windows of convolutions and pools, and which of them, or what of them, lies on the picture.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

// Of `count` windows along one axis, [first, last) lie on the picture whole. `reach`: from the first tap of a window to its last.
struct WholeWindows {
  std::int64_t first, last;
  WholeWindows(std::int64_t count, std::int64_t size, std::int64_t padding, std::int64_t stride, std::int64_t reach)
      : first(std::min(count, ceil_div(std::max<std::int64_t>(padding, 0), stride))), last(first) {
    if (const std::int64_t room = size - 1 + padding - reach; room >= 0) last = std::max(first, std::min(count, room / stride + 1));
  }
};

// A tap of a depthwise convolution: where the channels of a pixel and those of a weight begin.
struct Tap {
  const float *x, *w;
};
// f(tap, pixel) for those taps of the window with its corner at (y, x) that lie on the picture. S: ConvSizes or PackedSizes.
template <class S, class F>
inline void each_tap(const S& s, std::int64_t y, std::int64_t x, const F& f) {
  for (std::int64_t i = 0; i < s.kh; ++i) {
    const std::int64_t iy = y + i * s.dh;
    if (iy < 0 || iy >= s.h) continue;
    for (std::int64_t j = 0; j < s.kw; ++j)
      if (const std::int64_t ix = x + j * s.dw; ix >= 0 && ix < s.w) f(i * s.kw + j, iy * s.w + ix);
  }
}

}  // namespace mien::MIEN_LEVEL
