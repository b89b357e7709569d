// The ways of convolution; each kernel takes the first that does not decline.
//   depthwise   groups == C == O, channels_last: lanes along channels (conv_depthwise.cpp)
//   few         at most 16 input channels, stride 1: direct products on a few lines at a time (conv_few.cpp)
//   rows        groups == 1, channels_last: a matrix product with pixels as rows (conv_rows.cpp, conv_rows_weight.cpp)
//   winograd    rows whose kernel is 3x3 with stride 1 and many channels: inside conv_rows.cpp, and conv_winograd_weight.cpp
//   planes      everything else: lanes along the pixels of a plane (conv.cpp)
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/winograd.h"

namespace mien::MIEN_LEVEL {

extern const KernelEntry depthwise_forward, depthwise_grad_input, depthwise_grad_weight;
extern const KernelEntry few_forward, few_grad_input, few_grad_weight;
extern const KernelEntry rows_forward, rows_grad_input, rows_grad_weight, winograd_grad_weight;

// Sizes of one convolution whose input and output are channels_last.
struct ConvSizes {
  std::int64_t n, h, w, c;     // input
  std::int64_t oh, ow, o;      // output
  std::int64_t kh, kw;
  std::int64_t sh, sw, ph, pw, dh, dw;
  std::int64_t taps() const { return kh * kw; }
  std::int64_t depth() const { return kh * kw * c; }
  std::int64_t pixels() const { return n * oh * ow; }
  bool pointwise() const { return kh == 1 && kw == 1 && sh == 1 && sw == 1 && ph == 0 && pw == 0 && oh == h && ow == w; }
};
inline ConvSizes conv_sizes(const View& x, const View& weight, const View& y, const ConvParams& p) {
  return {x.size(0), x.size(2), x.size(3), x.size(1), y.size(2), y.size(3), y.size(1), weight.size(2), weight.size(3),
          p.stride[0], p.stride[1], p.padding[0], p.padding[2], p.dilation[0], p.dilation[1]};
}
// Of `count` positions at, at + step, ... along one axis, those inside the picture: [first, last).
struct Seen {
  std::int64_t first, last;
  Seen(std::int64_t at, std::int64_t size, std::int64_t all, std::int64_t step)
      : first(std::min(all, at < 0 ? ceil_div(-at, step) : 0)), last(std::max(first, at < size ? std::min(all, ceil_div(size - at, step)) : 0)) {}
  std::int64_t count() const { return last - first; }
};

// The output cut into blocks of about `wanted` rows: all rows of some pictures, or some rows of one.
struct RowBlocks {
  std::int64_t images, rows, count;
};
inline RowBlocks row_blocks(const ConvSizes& s, std::int64_t wanted) {
  if (wanted >= s.oh) {
    const std::int64_t images = std::min(s.n, wanted / s.oh);
    return {images, s.oh, ceil_div(s.n, images)};
  }
  const std::int64_t rows = ceil_div(s.oh, ceil_div(s.oh, wanted));
  return {1, rows, s.n * ceil_div(s.oh, rows)};
}

// Whether Winograd's F(4x4, 3x3) is worth it, with weights that are transformed anew for every batch.
inline bool by_winograd(const ConvSizes& s) {
  constexpr std::int64_t enough = 256;  // pixels
  return s.kh == 3 && s.kw == 3 && s.sh == 1 && s.sw == 1 && s.dh == 1 && s.dw == 1 && s.pixels() >= enough && winograd::pays(s.c, s.o, s.oh, s.ow);
}

// The convolution of gy with turned weights that gives gx when the stride is 1.
inline ConvSizes turned_sizes(const View& gy, const View& weight, const View& gx, const ConvParams& p) {
  return {gy.size(0), gy.size(2), gy.size(3), gy.size(1), gx.size(2), gx.size(3), gx.size(1), weight.size(2), weight.size(3), 1, 1,
          p.dilation[0] * (weight.size(2) - 1) - p.padding[0], p.dilation[1] * (weight.size(3) - 1) - p.padding[2], p.dilation[0], p.dilation[1]};
}
inline bool unit_stride(const ConvParams& p) { return p.stride[0] == 1 && p.stride[1] == 1; }

}  // namespace mien::MIEN_LEVEL
