// Tensors as [pixels][channels] in memory: channels_last images and [N, C]. Loops run along channels. And sums that several kernels make.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

struct PixelRows {
  std::int64_t pixels, channels;
};
inline PixelRows pixel_rows(const View& v) { return {v.size(1) > 0 ? v.numel() / v.size(1) : 0, v.size(1)}; }
inline bool has_pixel_rows(const View& v) { return v.is_channels_last() || (v.rank() == 2 && v.is_contiguous()); }
template <class... V>
bool all_pixel_rows(const V&... views) {
  return (has_pixel_rows(views) && ...);
}
// Kernels that work per channel take two layouts, the same for all operands.
inline const char* decline_layout(const KernelArgs& a, const View& x, const View& y) {
  if (!all_f32(a)) return "f32 only";
  if (x.rank() < 2 || x.numel() == 0) return "no channels";
  return all_pixel_rows(x, y) || (x.is_contiguous() && y.is_contiguous()) ? nullptr : "neither all channels_last nor all contiguous";
}

// Pixels that a thread takes at a time in passes that write every pixel on its own.
inline std::int64_t pixel_grain(const PixelRows& r) { return std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(r.channels, 1)); }

// sum[c] = sum of f(row, c) over the rows, four rows at a time.
template <class F>
inline void sum_rows(std::int64_t rows, std::int64_t channels, float* __restrict sum, const F& f) {
  for (std::int64_t c = 0; c < channels; ++c) sum[c] = 0;
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    for (std::int64_t c = 0; c < channels; ++c) sum[c] += (f(r, c) + f(r + 1, c)) + (f(r + 2, c) + f(r + 3, c));
  for (; r < rows; ++r)
    for (std::int64_t c = 0; c < channels; ++c) sum[c] += f(r, c);
}

// Sum of f(i) over [0, n): sixteen sums side by side, which are vectors and a fixed order.
template <class F>
inline float sum_run(std::int64_t n, const F& f) {
  float part[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int k = 0; k < 16; ++k) part[k] += f(i + k);
  for (; i < n; ++i) part[i % 16] += f(i);
  double sum = 0;
  for (const float v : part) sum += static_cast<double>(v);
  return static_cast<float>(sum);
}

}  // namespace mien::MIEN_LEVEL
