// Windows of channels_last pictures, written out as rows: what convolutions do where reading in place does not pay.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/conv_paths.h"

namespace mien::MIEN_LEVEL {

// Windows of the output pixels [first, first + count), kh * kw * C values each at distance ld. Zeros outside the picture.
inline void gather_rows(const float* x, const ConvSizes& s, std::int64_t first, std::int64_t count, float* out, std::int64_t ld) {
  std::int64_t n = first / (s.oh * s.ow), oy = first / s.ow % s.oh, ox = first % s.ow;
  for (std::int64_t r = 0; r < count; ++r, out += ld) {
    float* to = out;
    const std::int64_t x0 = ox * s.sw - s.pw;
    const bool inside = x0 >= 0 && x0 + (s.kw - 1) * s.dw < s.w;
    for (std::int64_t i = 0; i < s.kh; ++i) {
      const std::int64_t y = oy * s.sh - s.ph + i * s.dh;
      if (y < 0 || y >= s.h) {
        for (std::int64_t t = 0; t < s.kw * s.c; ++t) to[t] = 0;
        to += s.kw * s.c;
        continue;
      }
      const float* from = x + ((n * s.h + y) * s.w + x0) * s.c;
      if (inside && s.dw == 1) {
        std::copy_n(from, s.kw * s.c, to);
        to += s.kw * s.c;
        continue;
      }
      for (std::int64_t j = 0; j < s.kw; ++j, to += s.c) {
        const std::int64_t at = x0 + j * s.dw;
        if (at >= 0 && at < s.w) std::copy_n(from + j * s.dw * s.c, s.c, to);
        else std::fill_n(to, s.c, 0.f);
      }
    }
    if (++ox < s.ow) continue;
    ox = 0;
    if (++oy < s.oh) continue;
    oy = 0;
    ++n;
  }
}

}  // namespace mien::MIEN_LEVEL
