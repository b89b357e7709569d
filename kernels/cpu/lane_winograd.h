// 3x3 convolutions of stride 1 by Winograd. Lanes are independent patches: neighbours in a row whose even and odd columns lie apart, or pictures.
#pragma once

#include <type_traits>

#include "mien/kernels/cpu/lane_conv.h"
#include "mien/kernels/cpu/winograd_forms.h"

namespace mien::MIEN_LEVEL {

inline constexpr int winograd_channels = lane_outputs, winograd_vectors = lane_positions;  // outputs at once; vectors of patches

// The side x side inputs of patches: input (i, j) of channel c at row[i] + column[j] + c * channel, and those of the next vector of patches `vector` further on.
template <class F>
struct WinogradInput {
  const float* row[F::side];
  std::int64_t column[F::side], channel, vector, channels;
};

// Floats of a product's inputs. A line more than they need: steps of a power of two would lay all products into the same sets of the cache.
constexpr std::int64_t product_step(std::int64_t channels, int vectors) { return channels * vectors * lanes + 16; }

// v[product][channel][vector][lane] = B^T d B of each patch.
template <class F, int R>
[[gnu::noinline]] void winograd_input(const WinogradInput<F>& x, float* v) {
  const std::int64_t vectors = x.channels * R, product = product_step(x.channels, R);
  for (std::int64_t k = 0; k < vectors; ++k) {
    const std::int64_t offset = k / R * x.channel + k % R * x.vector;
    both_axes<F::side, F::side>(F::input, [&](int i, int j) { return Load(x.row[i] + offset + x.column[j]); },
                                [&](int i, int j, Vec t) { Store(t, v + (i * F::side + j) * product + k * lanes); });
  }
}

// m[product][output][vector][lane] of winograd_channels outputs; w: [product][channel][output].
template <class F, int R>
[[gnu::noinline]] void winograd_multiply(const float* v, std::int64_t channels, const float* w, float* m) {
  constexpr int outputs = winograd_channels;
  for (int k = 0; k < F::products; ++k, v += product_step(channels, R), w += channels * outputs, m += outputs * R * lanes) {
    Vec acc[outputs][R];
    const float* at[R];
    for (int r = 0; r < R; ++r) at[r] = v + r * lanes;
#pragma GCC unroll 16
    for (int o = 0; o < outputs; ++o)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[o][r] = Set(0);
    accumulate<outputs, R>(at, channels, R * lanes, w, outputs, acc);
#pragma GCC unroll 16
    for (int o = 0; o < outputs; ++o)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) Store(acc[o][r], m + (o * R + r) * lanes);
  }
}

// Where the outputs x outputs pixels of R vectors of patches go, row by row.
template <class F, int R>
using WinogradTargets = float* [R][F::outputs * F::outputs];

// A^T m A and the bias, through PReLU where there is a slope: to[vector][pixel] + o * step.
template <class F, int R>
[[gnu::noinline]] void winograd_output(const float* m, const float* bias, const float* slope, const WinogradTargets<F, R>& to, std::int64_t offset, std::int64_t step) {
  for (std::int64_t k = 0; k < winograd_channels * R; ++k, m += lanes) {
    const std::int64_t at_output = offset + k / R * step;
    const Vec b = Set(bias[k / R]), a = slope ? Set(slope[k / R]) : Set(1.f);
    both_axes<F::side, F::outputs>(F::output, [&](int i, int j) { return Load(m + (F::side * i + j) * winograd_channels * R * lanes); },
                                   [&](int i, int j, Vec y) { Store(prelu_of(Add(y, b), a), to[k % R][i * F::outputs + j] + at_output); });
  }
}

// Floats that a convolution of C channels needs beside its operands.
template <class F>
constexpr std::int64_t winograd_scratch(std::int64_t c) {
  return F::products * (product_step(c, winograd_vectors) + winograd_channels * winograd_vectors * lanes);
}

// All outputs (a multiple of winograd_channels) at R vectors of patches; slope null: none. w: [outputs / winograd_channels][product][channel][winograd_channels].
template <class F, int R>
void winograd_patches(const WinogradInput<F>& x, const float* w, const float* bias, const float* slope, std::int64_t outputs, const WinogradTargets<F, R>& to, std::int64_t step,
                      float* scratch) {
  float *v = scratch, *m = scratch + F::products * product_step(x.channels, R);
  winograd_input<F, R>(x, v);
  for (std::int64_t o = 0; o < outputs; o += winograd_channels) {
    winograd_multiply<F, R>(v, x.channels, w + F::products * x.channels * o, m);
    winograd_output<F, R>(m, bias + o, slope ? slope + o : nullptr, to, o * step, step);
  }
}

// f(first, std::integral_constant of how many) for `count` vectors of patches, up to Most (2 or 3) at a time: four are halved, as one alone would leave most registers empty.
template <int Most = winograd_vectors, class F>
void for_patches(std::int64_t count, const F& f) {
  for (std::int64_t first = 0; first < count;) {
    const std::int64_t left = count - first;
    const auto some = [&](auto vectors) {
      f(first, vectors);
      first += vectors;
    };
    if (left == 1) some(std::integral_constant<int, 1>{});
    else if (left == 2 || left == 4) some(std::integral_constant<int, 2>{});
    else some(std::integral_constant<int, Most>{});
  }
}

}  // namespace mien::MIEN_LEVEL
