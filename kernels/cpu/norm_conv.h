// What the two ways of norm_conv share: the order of their operands, and what is done per channel before and after.
#pragma once

#include <cmath>

#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/norm_rows.h"

namespace mien::MIEN_LEVEL {

extern const KernelEntry norm_conv_pointwise, norm_conv_depthwise, norm_conv_backward_pointwise, norm_conv_backward_depthwise;

// Where the operands stand. Forward: x, w, norm... Backward: gy, gmean, ginvstd, y, mean, invstd, x, w, norm...
inline constexpr std::size_t back_y = 3, back_x = 6, forward_norm = 2, back_norm = 8;

inline float at(const View& v, std::int64_t c) { return v.ptr<float>()[c * v.stride(0)]; }
inline void put(const View& v, std::int64_t c, double value) { v.ptr<float>()[c * v.stride(0)] = static_cast<float>(value); }

// `first`: which input is the mean of x. A map that is not normalised goes through unchanged.
inline void fill(const NormTable& t, const KernelArgs& a, std::size_t first, std::int64_t channels, bool sloped) {
  const bool normed = a.in.size() > first;
  for (std::int64_t c = 0; c < channels; ++c) {
    t.mean[c] = normed ? at(a.in[first], c) : 0;
    t.scale[c] = normed ? static_cast<float>(static_cast<double>(at(a.in[first + 1], c)) * static_cast<double>(at(a.in[first + 2], c))) : 1;
    t.shift[c] = normed ? at(a.in[first + 3], c) : 0;
    t.slope[c] = sloped ? at(a.in[first + 4], c) : 0;
  }
}

// Sums of each share: `kinds` rows of doubles a channel.
struct ShareSums {
  double* data;
  std::int64_t kinds, channels;
  static std::int64_t bytes(std::int64_t kinds, std::int64_t channels) { return 8 * max_shares * kinds * channels; }
  double* of(std::int64_t share, std::int64_t kind) const { return data + (share * kinds + kind) * channels; }
  void clear(std::int64_t share) const { std::fill_n(of(share, 0), kinds * channels, 0.0); }
};

// Mean and 1/std of y from the shares' moments (kinds: mean, squares); rows(share) tells how many values of a channel a share saw.
template <class F>
void store_moments(const KernelArgs& a, const ShareSums& s, std::int64_t shares, const F& rows) {
  for (std::int64_t c = 0; c < s.channels; ++c) {
    Moments m;
    double seen = 0;
    for (std::int64_t share = 0; share < shares; ++share) {
      const double now = static_cast<double>(rows(share));
      join(m, seen, {s.of(share, 0)[c], s.of(share, 1)[c]}, now);
      seen += now;
    }
    put(a.out[1], c, m.mean);
    put(a.out[2], c, 1 / std::sqrt(m.squares / seen + a.get<NormConvParams>().eps));
  }
}

// The whole gradient of y, that of its own mean and 1/std included: gy + rest + (y - mean) * by_y.
struct WholeGradient {
  float *mean, *by_y, *rest;
  static std::int64_t floats(std::int64_t channels) { return 3 * channels; }
  WholeGradient(float* p, std::int64_t channels) : mean(p), by_y(mean + channels), rest(by_y + channels) {}
  void fill(const KernelArgs& a) const {
    const View& y = a.in[back_y];
    const double n = static_cast<double>(y.numel() / y.size(1));
    for (std::int64_t c = 0; c < y.size(1); ++c) {
      const double invstd = static_cast<double>(at(a.in[back_y + 2], c));
      mean[c] = at(a.in[back_y + 1], c);
      by_y[c] = static_cast<float>(-static_cast<double>(at(a.in[2], c)) * invstd * invstd * invstd / n);
      rest[c] = static_cast<float>(static_cast<double>(at(a.in[1], c)) / n);
    }
  }
};
// One vector of channels of it.
struct WholeVector {
  Vec mean, by_y, rest;
  WholeVector(const WholeGradient& t, std::int64_t c) : mean(Load(t.mean + c)), by_y(Load(t.by_y + c)), rest(Load(t.rest + c)) {}
  Vec operator()(const float* gy, const float* y) const { return MulAdd(Load(y) - mean, by_y, Add(Load(gy), rest)); }
};

// Gradients of the norm's operands from the shares' sums (kinds as NormBack has them): inputs from `in` on, outputs from `out` on.
inline void store_norm_gradients(const KernelArgs& a, const ShareSums& s, std::int64_t shares, std::size_t in, std::size_t out) {
  if (a.out.size() <= out) return;
  for (std::int64_t c = 0; c < s.channels; ++c) {
    double sum[3] = {};
    for (std::int64_t share = 0; share < shares; ++share)
      for (std::int64_t k = 0; k < 3; ++k) sum[k] += s.of(share, k)[c];
    const double invstd = static_cast<double>(at(a.in[in + 1], c)), weight = static_cast<double>(at(a.in[in + 2], c));
    put(a.out[out], c, -weight * invstd * sum[0]);
    put(a.out[out + 1], c, weight * sum[1]);
    put(a.out[out + 2], c, invstd * sum[1]);
    put(a.out[out + 3], c, sum[0]);
    if (a.out.size() > out + 4) put(a.out[out + 4], c, sum[2]);
  }
}

inline const char* decline_maps(const KernelArgs& a, const View& x, const View& w, const View& y) {
  if (!all_f32(a)) return "f32 only";
  if (!x.is_channels_last() || !y.is_channels_last()) return "not channels_last";
  if (x.size(1) % gemm_cols != 0 || y.size(1) % gemm_cols != 0) return "channels are no multiple of two vectors";
  if (!w.is_contiguous()) return "strided weights";
  return x.numel() > 0 && y.numel() > 0 ? nullptr : "empty";
}

inline const char* decline_backward_maps(const KernelArgs& a) {
  for (const std::size_t i : {back_y, back_x})
    if (const char* reason = decline_maps(a, a.in[i], a.in[back_x + 1], a.in[0])) return reason;
  return a.out[0].is_channels_last() && a.out[1].is_contiguous() ? nullptr : "outputs lie in another order";
}

// f(activation as a constant)
template <class F>
void with_activation(Activation a, const F& f) {
  if (a == Activation::none) f(std::integral_constant<Activation, Activation::none>());
  else if (a == Activation::relu) f(std::integral_constant<Activation, Activation::relu>());
  else f(std::integral_constant<Activation, Activation::prelu>());
}

}  // namespace mien::MIEN_LEVEL
