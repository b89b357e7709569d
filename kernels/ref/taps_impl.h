// Which inputs a window of a convolution reads.
#pragma once

#include "mien/kernels/ref/iterate_impl.h"

namespace mien::ref {

// Input row or column that tap k of output position o reads; outside [0, size) it is padding.
inline std::int64_t source(std::int64_t o, std::int64_t k, std::int64_t stride, std::int64_t pad, std::int64_t dilation) {
  return o * stride - pad + k * dilation;
}
inline bool inside(std::int64_t i, std::int64_t size) { return i >= 0 && i < size; }

// f(kh, kw, h, w) for the taps of output position (oh, ow) that fall on the picture.
template <class F>
void for_taps(const ConvParams& p, std::int64_t kernel_h, std::int64_t kernel_w, std::int64_t H, std::int64_t W, std::int64_t oh, std::int64_t ow,
              const F& f) {
  for (std::int64_t kh = 0; kh < kernel_h; ++kh) {
    const auto h = source(oh, kh, p.stride[0], p.padding[0], p.dilation[0]);
    if (!inside(h, H)) continue;
    for (std::int64_t kw = 0; kw < kernel_w; ++kw) {
      const auto w = source(ow, kw, p.stride[1], p.padding[2], p.dilation[1]);
      if (inside(w, W)) f(kh, kw, h, w);
    }
  }
}

}  // namespace mien::ref
