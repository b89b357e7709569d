// 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3): four outputs of a channel pair cost 16 multiplications instead of 36. Lanes are independent
// tiles of 2x2 outputs: neighbours in a row whose even and odd columns lie apart, or pictures. All transforms add and subtract; only the weights are halved.
// Lavin, Gray, "Fast algorithms for convolutional neural networks", 2016.
#pragma once

#include <type_traits>

#include "mien/kernels/cpu/lane_conv.h"

namespace mien::MIEN_LEVEL {

inline constexpr int winograd_outputs = lane_outputs, winograd_vectors = lane_positions;  // at once; vectors of tiles
inline constexpr std::int64_t winograd_products = 16;          // of a tile

// A 3x3 kernel g in the transformed domain, u = G g G^T; T: a number or a vector of kernels.
template <class T>
inline void winograd_kernel(const T (&g)[3][3], T (&u)[4][4]) {
  T rows[4][3];
  for (int j = 0; j < 3; ++j) {
    const T outer = (g[0][j] + g[2][j]) * .5f, inner = g[1][j] * .5f;
    rows[0][j] = g[0][j], rows[1][j] = outer + inner, rows[2][j] = outer - inner, rows[3][j] = g[2][j];
  }
  for (int i = 0; i < 4; ++i) {
    const T outer = (rows[i][0] + rows[i][2]) * .5f, inner = rows[i][1] * .5f;
    u[i][0] = rows[i][0], u[i][1] = outer + inner, u[i][2] = outer - inner, u[i][3] = rows[i][2];
  }
}

// The 4x4 inputs of tiles: input (i, j) of channel c at row[i] + column[j] + c * channel, and those of the next vector of tiles `vector` further on.
struct WinogradInput {
  const float* row[4];
  std::int64_t column[4], channel, vector, channels;
};

// Floats of a product's inputs. A line more than they need: steps of a power of two would lay all products into the same sets of the cache.
constexpr std::int64_t product_step(std::int64_t channels, int vectors) { return channels * vectors * lanes + 16; }

// v[product][channel][vector][lane] = B^T d B of the 4x4 inputs of each tile.
template <int R>
[[gnu::noinline]] void winograd_input(const WinogradInput& x, float* v) {
  const std::int64_t vectors = x.channels * R, product = product_step(x.channels, R);
  for (std::int64_t k = 0; k < vectors; ++k) {
    const std::int64_t offset = k / R * x.channel + k % R * x.vector;
    Vec d[4][4], t[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* at = x.row[i] + offset;
      for (int j = 0; j < 4; ++j) d[i][j] = Load(at + x.column[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      t[0][j] = Sub(d[0][j], d[2][j]), t[1][j] = Add(d[1][j], d[2][j]);
      t[2][j] = Sub(d[2][j], d[1][j]), t[3][j] = Sub(d[1][j], d[3][j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* to = v + 4 * i * product + k * lanes;
      Store(Sub(t[i][0], t[i][2]), to);
      Store(Add(t[i][1], t[i][2]), to + product);
      Store(Sub(t[i][2], t[i][1]), to + 2 * product);
      Store(Sub(t[i][1], t[i][3]), to + 3 * product);
    }
  }
}

// m[product][output][vector][lane] of winograd_outputs outputs; w: [product][channel][output]. The bias joins product (1, 1):
// every output of a tile adds it once.
template <int R>
[[gnu::noinline]] void winograd_multiply(const float* v, std::int64_t channels, const float* w, const float* bias, float* m) {
  constexpr int outputs = winograd_outputs;
  static constexpr float none[outputs] = {};
  for (int k = 0; k < winograd_products; ++k, v += product_step(channels, R), w += channels * outputs, m += outputs * R * lanes) {
    Vec acc[outputs][R];
    const float* at[R];
    for (int r = 0; r < R; ++r) at[r] = v + r * lanes;
    start(acc, k == 5 ? bias : none);
    accumulate<outputs, R>(at, channels, R * lanes, w, outputs, acc);
#pragma GCC unroll 16
    for (int o = 0; o < outputs; ++o)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) Store(acc[o][r], m + (o * R + r) * lanes);
  }
}

// A^T m A, the 2x2 outputs of each tile, through PReLU where there is a slope: to[vector][2 * row + column] + o * step.
template <int R>
[[gnu::noinline]] void winograd_output(const float* m, const float* slope, float* const (&to)[R][4], std::int64_t offset, std::int64_t step) {
  for (std::int64_t k = 0; k < winograd_outputs * R; ++k, m += lanes) {
    const std::int64_t at_output = offset + k / R * step;
    Vec t[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto at = [&](int i) { return Load(m + (4 * i + j) * winograd_outputs * R * lanes); };
      const Vec b = at(1), c = at(2);
      t[0][j] = Add(Add(at(0), b), c);
      t[1][j] = Sub(Sub(b, c), at(3));
    }
    const Vec a = slope ? Set(slope[k / R]) : Set(1.f);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      Store(prelu_of(Add(Add(t[i][0], t[i][1]), t[i][2]), a), to[k % R][2 * i] + at_output);
      Store(prelu_of(Sub(Sub(t[i][1], t[i][2]), t[i][3]), a), to[k % R][2 * i + 1] + at_output);
    }
  }
}

// Floats that a convolution of C channels needs beside its operands.
constexpr std::int64_t winograd_scratch(std::int64_t c) {
  return winograd_products * (product_step(c, winograd_vectors) + winograd_outputs * winograd_vectors * lanes);
}

// All outputs (a multiple of winograd_outputs) at R vectors of tiles; slope null: none. w: [outputs / winograd_outputs][product][channel][winograd_outputs].
template <int R>
void winograd_tiles(const WinogradInput& x, const float* w, const float* bias, const float* slope, std::int64_t outputs, float* const (&to)[R][4], std::int64_t step,
                    float* scratch) {
  float *v = scratch, *m = scratch + winograd_products * product_step(x.channels, R);
  winograd_input<R>(x, v);
  for (std::int64_t o = 0; o < outputs; o += winograd_outputs) {
    winograd_multiply<R>(v, x.channels, w + winograd_products * x.channels * o, bias + o, m);
    winograd_output<R>(m, slope ? slope + o : nullptr, to, o * step, step);
  }
}

// f(first, std::integral_constant of how many) for `count` vectors of tiles, up to Most (2 or 3) at a time: four are halved, as one alone would leave most registers empty.
template <int Most = winograd_vectors, class F>
void for_tiles(std::int64_t count, const F& f) {
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
