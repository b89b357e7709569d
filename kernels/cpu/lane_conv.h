// The inner loop of convolutions whose lanes are independent positions (neighbouring pixels of a plane, or pictures of a batch): inputs are loaded, every weight
// is broadcast. No lane is ever wasted on a number of channels that is no multiple of the vector: 3, 10 or 28 channels cost what they are.
#pragma once

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

// A tile is `lane_outputs` channels x `lane_positions` vectors: each broadcast serves 2 or 3 multiplications (one a broadcast would be bound by loads), and the
// accumulators, one vector a position and one broadcast fill the registers: 28 of 32, 16 of 16; the base level needs a register for the product too.
#if MIEN_LEVEL_IS_avx512
inline constexpr int lane_outputs = 8, lane_positions = 3;
#elif MIEN_LEVEL_IS_avx2
inline constexpr int lane_outputs = 4, lane_positions = 3;
#else
inline constexpr int lane_outputs = 4, lane_positions = 2;
#endif

// acc[o][r] += sum over i < count of w[i * step + o] * x[r][i * stride ..]
template <int O, int R>
[[gnu::always_inline]] inline void accumulate(const float* const (&x)[R], std::int64_t count, std::int64_t stride, const float* w, std::int64_t step, Vec (&acc)[O][R]) {
  for (std::int64_t i = 0; i < count; ++i, w += step) {
    Vec in[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) in[r] = Load(x[r] + i * stride);
#pragma GCC unroll 16
    for (int o = 0; o < O; ++o) {
      const Vec weight = Set(w[o]);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[o][r] = MulAdd(weight, in[r], acc[o][r]);
    }
  }
}

template <int O, int R>
[[gnu::always_inline]] inline void start(Vec (&acc)[O][R], const float* bias) {
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[o][r] = Set(bias[o]);
}

inline Vec prelu_of(Vec x, Vec slope) { return MulAdd(slope, Min(Set(0.f), x), Max(Set(0.f), x)); }  // NaN stays NaN

}  // namespace mien::MIEN_LEVEL
