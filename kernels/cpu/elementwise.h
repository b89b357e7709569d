// Loops over tensors that lie densely in one and the same order: then the order does not matter.
#pragma once

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

inline constexpr std::int64_t block = 1 << 14;  // elements a thread takes at a time

// All views have the same strides and no holes.
inline bool same_dense(std::span<const View> views) {
  const View& first = views[0];
  if (!first.is_contiguous() && !first.is_channels_last()) return false;
  for (const auto& v : views.subspan(1)) {
    if (!(v.shape == first.shape)) return false;
    for (int d = 0; d < v.rank(); ++d)
      if (v.shape[d] != 1 && v.strides[d] != first.strides[d]) return false;
  }
  return true;
}

}  // namespace mien::MIEN_LEVEL
