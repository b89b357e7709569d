// Sizes and memory of one packed convolution, shared by its ways: the packed product (packed_conv.cpp), depthwise (packed_depthwise.cpp) and Winograd
// (packed_winograd.cpp).
#pragma once

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

struct PackedSizes {
  std::int64_t n, c, h, w, oh, ow;
  std::int64_t kh, kw, sh, sw, top, left, dh, dw;
  std::int64_t taps() const { return kh * kw; }
  std::int64_t depth() const { return kh * kw * c; }
  std::int64_t reach_h() const { return dh * (kh - 1); }  // from the first tap to the last
  std::int64_t reach_w() const { return dw * (kw - 1); }
  // Whether some window leaves the picture.
  bool leaves() const { return top > 0 || left > 0 || (oh - 1) * sh + reach_h() - top >= h || (ow - 1) * sw + reach_w() - left >= w; }
};
inline PackedSizes packed_sizes(const KernelArgs& a) {
  const View &x = a.in[0], &y = a.out[0];
  const auto& p = a.get<PackedConvParams>();
  return {x.size(0), x.size(1), x.size(2), x.size(3), y.size(2), y.size(3), p.kernel[0], p.kernel[1],
          p.stride[0], p.stride[1], p.padding[0], p.padding[2], p.dilation[0], p.dilation[1]};
}

// Operands after x and packed weights.
struct PackedExtras {
  const float* bias;
  const float* slope;     // null without
  const View* residual;   // null without
};
inline PackedExtras packed_extras(const KernelArgs& a) {
  const auto& p = a.get<PackedConvParams>();
  const bool slope = p.activation == Activation::prelu;
  return {a.in[2].ptr<float>(), slope ? a.in[3].ptr<float>() : nullptr, p.residual ? &a.in[slope ? 4 : 3] : nullptr};
}

// What every way needs, or null.
inline const char* decline_packed(const KernelArgs& a) {
  for (const View& v : a.in)
    if (v.dtype != DType::f32) return "f32 only";
  for (const View& v : a.out)
    if (v.dtype != DType::f32 || !pixel_step(v)) return "an output is not f32 channels_last";
  if (a.in[0].numel() == 0 || a.out[0].numel() == 0) return "empty";
  const View* residual = packed_extras(a).residual;
  return residual && !pixel_step(*residual) ? "the residual is not channels_last" : nullptr;
}

extern const KernelEntry packed_depthwise, packed_winograd;

}  // namespace mien::MIEN_LEVEL
