// Batch norm inside other kernels: maps lie as rows of channels, and one vector of channels is normalised, activated or differentiated at a time.
#pragma once

#include <type_traits>

#include "mien/kernels/cpu/channels.h"
#include "mien/kernels/cpu/select.h"

namespace mien::MIEN_LEVEL {

// What follows the normalised value v, and what of a gradient reaches it. NaN goes through.
template <Activation A>
inline Vec activate(Vec v, Vec slope) {
  if (A == Activation::relu) return Max(Set(0), v);
  return A == Activation::none ? v : Select(Positive(v), v, Mul(slope, v));
}
template <Activation A>
inline Vec gradient(Vec g, Vec v, Vec slope) {
  if (A == Activation::none) return g;
  return Select(Positive(v), g, A == Activation::relu ? Set(0) : Mul(slope, g));
}

// Calls up places of memory in their order, a vector each time, whatever the order of the loops that ask for it: in the order of strided loops the same lines
// came 8 % of a training step more slowly.
struct Cursor {
  const float* at;
  void call() { call_up(at), at += lanes; }
};

// --- moments -----------------------------------------------------------------------------------------------------------
struct Moments {
  double mean = 0, squares = 0;  // squares: sum of squared distances from the mean
};
// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
inline void join(Moments& a, double count_a, const Moments& b, double count_b) {
  const double d = b.mean - a.mean, share = count_b / (count_a + count_b);
  a.mean += d * share;
  a.squares += b.squares + d * d * share * count_a;
}

// Joins the moments of gemm_cols neighbouring channels over rows that lie `step` apart, and are in the cache, to those of `before` rows.
inline void add_moments(const float* rows, std::int64_t step, std::int64_t count, std::int64_t before, double* __restrict mean, double* __restrict squares) {
  constexpr int ways = 4;
  alignas(64) float own_mean[gemm_cols], own_squares[gemm_cols];
  const Vec zero = Set(0), scale = Set(1.f / static_cast<float>(count));
  for (int half = 0; half < 2; ++half) {
    const float* p = rows + half * lanes;
    Vec sum[ways] = {zero, zero, zero, zero};
    std::int64_t r = 0;
    for (; r + ways <= count; r += ways)
#pragma GCC unroll 4
      for (int k = 0; k < ways; ++k) sum[k] = Add(sum[k], Load(p + (r + k) * step));
    for (; r < count; ++r) sum[0] = Add(sum[0], Load(p + r * step));
    const Vec centre = Mul(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])), scale);
    Vec square[ways] = {zero, zero, zero, zero};
    for (r = 0; r + ways <= count; r += ways)
#pragma GCC unroll 4
      for (int k = 0; k < ways; ++k) {
        const Vec d = Load(p + (r + k) * step) - centre;
        square[k] = MulAdd(d, d, square[k]);
      }
    for (; r < count; ++r) {
      const Vec d = Load(p + r * step) - centre;
      square[0] = MulAdd(d, d, square[0]);
    }
    Store(centre, own_mean + half * lanes);
    Store(Add(Add(square[0], square[1]), Add(square[2], square[3])), own_squares + half * lanes);
  }
  const double n = static_cast<double>(before), share = static_cast<double>(count) / static_cast<double>(before + count);
  for (int c = 0; c < gemm_cols; ++c) {
    const double d = static_cast<double>(own_mean[c]) - mean[c];
    mean[c] += d * share;
    squares[c] += static_cast<double>(own_squares[c]) + d * d * share * n;
  }
}

// --- a normalised map as it is read ---------------------------------------------------------------------------------------
// Of each channel, side by side: v = (x - mean) * scale + shift, then the activation with `slope`.
struct NormTable {
  float *mean, *scale, *shift, *slope;
  static std::int64_t floats(std::int64_t channels) { return 4 * channels; }
  NormTable(float* at, std::int64_t channels) : mean(at), scale(mean + channels), shift(scale + channels), slope(shift + channels) {}
};
// One vector of channels of it.
template <Activation A>
struct Normal {
  Vec mean, scale, shift, slope;
  Normal(const NormTable& t, std::int64_t c) : mean(Load(t.mean + c)), scale(Load(t.scale + c)), shift(Load(t.shift + c)), slope(Load(t.slope + c)) {}
  Vec operator()(const float* x) const { return activate<A>(MulAdd(Load(x) - mean, scale, shift), slope); }
};

// The way back through it. Sums over all rows of g' (the gradient before the activation), of g' * (x - mean), and of the slope's.
struct NormBack {
  Vec mean, scale, shift, slope, sum, sum_d, sum_slope;
  NormBack(const NormTable& t, std::int64_t c)
      : mean(Load(t.mean + c)), scale(Load(t.scale + c)), shift(Load(t.shift + c)), slope(Load(t.slope + c)), sum(Set(0)), sum_d(Set(0)), sum_slope(Set(0)) {}
  template <Activation A>
  Vec through(Vec g, Vec x) {
    const Vec d = x - mean, v = MulAdd(d, scale, shift), m = gradient<A>(g, v, slope);
    sum = Add(sum, m);
    sum_d = MulAdd(m, d, sum_d);
    if (A == Activation::prelu) sum_slope = Add(sum_slope, Select(Positive(v), Set(0), Mul(g, v)));
    return Mul(m, scale);
  }
  // Adds to sums[c] of three rows of `channels` doubles.
  void add_to(double* sums, std::int64_t channels) const {
    alignas(64) float part[3][lanes];
    Store(sum, part[0]);
    Store(sum_d, part[1]);
    Store(sum_slope, part[2]);
    for (int k = 0; k < 3; ++k)
      for (int c = 0; c < lanes; ++c) sums[k * channels + c] += static_cast<double>(part[k][c]);
  }
};

}  // namespace mien::MIEN_LEVEL
