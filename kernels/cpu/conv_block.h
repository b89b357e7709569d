// What the two kernels of conv_block share: vectors of channels (conv_block.cpp), and vectors of pictures where those would be part empty (conv_block_pictures.cpp).
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

// The function for a pooling window: of a square one of 1 to 3, or of any other.
template <class F>
F for_window(const Pair& window, F other, F one, F two, F three) {
  if (window == Pair{1, 1}) return one;
  if (window == Pair{2, 2}) return two;
  return window == Pair{3, 3} ? three : other;
}

// What PReLU lets through of gradients, and sums of it and of the slope's gradient.
struct PreluGradient {
  Vec slope, bias_sum, slope_sum;
  Vec pass(Vec g, Vec raw) {
    const Mask on = Positive(raw);
    const Vec d = Select(on, g, Mul(slope, g));
    bias_sum = Add(bias_sum, d);
    slope_sum = Add(slope_sum, Select(on, Set(0), Mul(g, raw)));
    return d;
  }
};
// d where place says so, zeros elsewhere in a window of rows x cols; steps of the map in floats. SIZE: of windows that are mostly square, 0 for any other.
// WRITES: windows do not overlap; otherwise it is added.
template <int SIZE, bool WRITES>
inline void spread_window(float* corner, std::int64_t line, std::int64_t pixel, std::int64_t rows, std::int64_t cols, std::int64_t kernel_cols, Vec d, Ints place) {
  const auto put = [=](std::int64_t i, std::int64_t j, std::int64_t number) {
    float* to = corner + i * line + j * pixel;
    const Vec part = Select(Equal(place, SetInt(static_cast<std::int32_t>(number))), d, Set(0));
    Store(WRITES ? part : Add(Load(to), part), to);
  };
  if constexpr (SIZE > 0)
    if (rows == SIZE && cols == SIZE) {
#pragma GCC unroll 9
      for (int number = 0; number < SIZE * SIZE; ++number) put(number / SIZE, number % SIZE, number);
      return;
    }
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) put(i, j, i * kernel_cols + j);
}

// What neither way takes.
inline const char* decline_picture(const View& x) { return x.is_channels_last() || x.is_contiguous() ? nullptr : "the input is neither channels_last nor contiguous"; }
inline const char* decline_block(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  for (const auto& v : a.out)
    if (!v.is_channels_last()) return "the output is not channels_last";
  return decline_picture(a.in[0]);
}
inline const char* decline_block_backward(const KernelArgs& a) {
  if (!all_f32({a.in.first(5), a.out})) return "f32 only";
  if (a.in[0].stride(1) != 1 && a.in[0].size(1) != 1) return "channels of the gradient do not lie side by side";
  if (!a.in[4].is_channels_last() || !a.in[5].is_channels_last()) return "what was kept is not channels_last";
  if (a.get<ConvBlockParams>().input_gradient && !a.out[0].is_channels_last()) return "the output is not channels_last";
  return decline_picture(a.in[1]);
}

// The two ways: vectors of channels, vectors of pictures.
extern const KernelEntry conv_block_of_channels, conv_block_backward_of_channels, conv_block_of_pictures, conv_block_backward_of_pictures;

}  // namespace mien::MIEN_LEVEL
