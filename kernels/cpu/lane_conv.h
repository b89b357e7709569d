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

// What a tile reads: `runs` runs of `count` taps, `stride` floats from tap to tap; the weights of a tap are `step` floats after those of the tap before.
struct LaneTaps {
  std::int64_t runs, count, stride, step;
};
// y[r][o * y_step ..] = bias[o] + the sum over all taps, through PReLU where there is a slope; channels from `outputs` on are not stored. at[i][r]: where run i of
// position r begins. A function of its own: inlined into loops, g++ 12 has registers for something else and keeps an input vector in memory.
template <int O, int R>
[[gnu::noinline]] void lane_tile(const float* const (*at)[R], const LaneTaps& taps, const float* w, const float* bias, const float* slope, float* const* y,
                                 std::int64_t y_step, std::int64_t outputs) {
  Vec acc[O][R];
  start(acc, bias);
  const std::int64_t count = taps.count, stride = taps.stride, step = taps.step;
  for (const float* const(*end)[R] = at + taps.runs; at != end; ++at, w += count * step) accumulate<O, R>(*at, count, stride, w, step, acc);
  if (slope)
#pragma GCC unroll 16
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[o][r] = prelu_of(acc[o][r], Set(slope[o]));
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
    if (o < outputs)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) Store(acc[o][r], y[r] + o * y_step);
}

}  // namespace mien::MIEN_LEVEL
