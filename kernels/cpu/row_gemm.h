// The matrix product that reads its left side where it lies: C[rows, cols] (+)= A * B with lanes along the columns, A(i, k) = a[i * row_step + k * k_step].
// Convolution in channels_last is made of it: pixels are rows, or what is summed over. Each element of C is summed over k in order.
#pragma once

#include "mien/kernels/cpu/gemm.h"

namespace mien::MIEN_LEVEL {

struct Left {
  const float* data;
  std::int64_t row_step, k_step;
};
struct Right {
  const float* data;  // row k begins at data + k * step and has a whole number of vectors
  std::int64_t step;
};

// ROWS x VECTORS accumulators stay in registers. Three rows share a pointer: x86 addresses them as p, p + s and p + 2 s.
template <int ROWS, int VECTORS>
inline void row_kernel(std::int64_t depth, const Left& a, const Right& b, const Tile& t) {
  constexpr int groups = (ROWS + 2) / 3;
  Vec acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v)
      acc[i][v] = t.start == Start::accumulate ? Load(t.c + i * t.ldc + v * lanes) : t.start == Start::column_bias ? Load(t.bias + v * lanes) : Set(0);
  const float* base[groups];
#pragma GCC unroll 8
  for (int q = 0; q < groups; ++q) base[q] = a.data + 3 * q * a.row_step;
  const std::int64_t row_step = a.row_step, k_step = a.k_step, b_step = b.step;
  const float* right = b.data;
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec y[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) y[v] = Load(right + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      const Vec x = Set(base[i / 3][i % 3 * row_step]);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) acc[i][v] = MulAdd(x, y[v], acc[i][v]);
    }
#pragma GCC unroll 8
    for (int q = 0; q < groups; ++q) base[q] += k_step;
    right += b_step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) Store(acc[i][v], t.c + i * t.ldc + v * lanes);
}

template <int ROWS>
inline void row_kernel(std::int64_t depth, const Left& a, const Right& b, const Tile& t) {
  if (t.cols == gemm_cols) return row_kernel<ROWS, 2>(depth, a, b, t);
  if (t.cols == lanes) return row_kernel<ROWS, 1>(depth, a, b, t);
  // Ragged columns go through a full buffer: B and the bias are padded, C is not.
  alignas(64) float buffer[ROWS * gemm_cols] = {};
  Tile full = t;
  full.c = buffer;
  full.ldc = gemm_cols;
  if (t.start == Start::accumulate)
    for (int i = 0; i < ROWS; ++i) std::copy_n(t.c + i * t.ldc, t.cols, buffer + i * gemm_cols);
  if (t.cols > lanes) row_kernel<ROWS, 2>(depth, a, b, full);
  else row_kernel<ROWS, 1>(depth, a, b, full);
  for (int i = 0; i < ROWS; ++i) std::copy_n(buffer + i * gemm_cols, t.cols, t.c + i * t.ldc);
}

// One panel of at most gemm_cols columns and any number of rows. t.bias, when used, has gemm_cols values.
inline void row_panel(std::int64_t depth, Left a, const Right& b, Tile t) {
  constexpr int some = gemm_rows > 8 ? 4 : 2;
  const auto take = [&](std::int64_t n) {
    a.data += n * a.row_step;
    t.c += n * t.ldc;
    t.rows -= n;
  };
  for (; t.rows >= gemm_rows; take(gemm_rows)) row_kernel<gemm_rows>(depth, a, b, t);
  for (; t.rows >= some; take(some)) row_kernel<some>(depth, a, b, t);
  for (; t.rows > 0; take(1)) row_kernel<1>(depth, a, b, t);
}

}  // namespace mien::MIEN_LEVEL
