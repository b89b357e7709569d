// What the two kernels of conv_block share: vectors of channels (conv_block.cpp), and vectors of pictures where those would be part empty (conv_block_lanes.cpp).
#pragma once

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/select.h"

namespace mien::MIEN_LEVEL {

struct BlockSizes {
  std::int64_t n, c, h, w;  // pictures
  std::int64_t o, kh, kw;   // kernel
  std::int64_t oh, ow;      // map of the convolution
  std::int64_t ph, pw;      // pooled
};
inline BlockSizes block_sizes(const View& x, const View& w, const View& pooled) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), w.size(0), w.size(2), w.size(3), x.size(2) - w.size(2) + 1, x.size(3) - w.size(3) + 1, pooled.size(2), pooled.size(3)};
}

// Value `c` of one for each channel, or of one for all.
inline float value_of(const View& v, std::int64_t c) { return v.ptr<float>()[v.size(0) == 1 ? 0 : c * v.stride(0)]; }

// The winner's place in its window, as it is kept: a byte for each lane.
using Bytes = std::uint8_t __attribute__((vector_size(lanes)));
inline Ints load_places(const std::uint8_t* p, std::int64_t n) {
  Bytes b{};
  if (n == lanes) std::memcpy(&b, p, lanes);
  else std::memcpy(&b, p, static_cast<std::size_t>(n));
  return __builtin_convertvector(b, Ints);
}
inline void store_places(const Ints& places, std::uint8_t* p, std::int64_t n) {
  const Bytes b = __builtin_convertvector(places, Bytes);
  if (n == lanes) std::memcpy(p, &b, lanes);
  else std::memcpy(p, &b, static_cast<std::size_t>(n));
}

extern const KernelEntry conv_block_lanes_entry, conv_block_lanes_backward_entry;

}  // namespace mien::MIEN_LEVEL
