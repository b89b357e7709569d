// The packed matrix product that convolution, linear and matmul share. C[M, N] with lanes along N.
//
// A is packed in panels of gemm_rows rows, [k][row]; B in panels of gemm_cols columns, [k][column]; both padded with zeros. One tile of C is
// gemm_rows x gemm_cols and is summed over k in order, whatever the number of threads.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

// How a tile begins: zero, a value per row, values per column, or what C holds; `last` begins with zero and adds what C holds in the end, which gives the bits of
// a product that is added to C (row_kernel only).
enum class Start { zero, row_bias, column_bias, accumulate, last };

struct Tile {
  float* c;            // first element
  std::int64_t ldc;    // distance of rows; columns lie densely
  std::int64_t rows, cols;
  Start start = Start::zero;
  const float* bias = nullptr;  // of the tile's first row or column
};


// Full tile. The accumulators must stay in registers: constant bounds, no calls.
template <int ROWS>
inline void micro_kernel(std::int64_t depth, const float* a, std::int64_t a_step, const float* b, const Tile& t) {
  Vec acc[ROWS][2];
  for (int i = 0; i < ROWS; ++i) {
    if (t.start == Start::zero) acc[i][0] = acc[i][1] = Set(0);
    else if (t.start == Start::row_bias) acc[i][0] = acc[i][1] = Set(t.bias[i]);
    else if (t.start == Start::column_bias) { acc[i][0] = Load(t.bias); acc[i][1] = Load(t.bias + lanes); }
    else { acc[i][0] = Load(t.c + i * t.ldc); acc[i][1] = Load(t.c + i * t.ldc + lanes); }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec b0 = Load(b), b1 = Load(b + lanes);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      const Vec x = Set(a[i]);
      acc[i][0] = MulAdd(x, b0, acc[i][0]);
      acc[i][1] = MulAdd(x, b1, acc[i][1]);
    }
    a += a_step;
    b += gemm_cols;
  }
  for (int i = 0; i < ROWS; ++i) {
    Store(acc[i][0], t.c + i * t.ldc);
    Store(acc[i][1], t.c + i * t.ldc + lanes);
  }
}

// Any tile: a ragged one is computed in a full buffer and copied. Few rows use a kernel of half the height.
inline void tile_kernel(std::int64_t depth, const float* a, const float* b, const Tile& t) {
  constexpr int half = gemm_rows / 2;
  if (t.rows == gemm_rows && t.cols == gemm_cols) {
    micro_kernel<gemm_rows>(depth, a, gemm_rows, b, t);
    return;
  }
  if (t.rows == half && t.cols == gemm_cols) {
    micro_kernel<half>(depth, a, gemm_rows, b, t);
    return;
  }
  alignas(64) float buffer[gemm_rows * gemm_cols];
  alignas(64) float bias[gemm_cols > gemm_rows ? gemm_cols : gemm_rows] = {};
  Tile full{buffer, gemm_cols, gemm_rows, gemm_cols, t.start, bias};
  if (t.start == Start::row_bias) std::copy_n(t.bias, t.rows, bias);
  if (t.start == Start::column_bias) std::copy_n(t.bias, t.cols, bias);
  if (t.start == Start::accumulate) {
    std::fill_n(buffer, gemm_rows * gemm_cols, 0.f);
    for (std::int64_t i = 0; i < t.rows; ++i) std::copy_n(t.c + i * t.ldc, t.cols, buffer + i * gemm_cols);
  }
  if (t.rows <= half) micro_kernel<half>(depth, a, gemm_rows, b, full);
  else micro_kernel<gemm_rows>(depth, a, gemm_rows, b, full);
  for (std::int64_t i = 0; i < t.rows; ++i) std::copy_n(buffer + i * gemm_cols, t.cols, t.c + i * t.ldc);
}

// Rows [row0, row0 + gemm_rows) of A(row, k) = a[row * rs + k * cs] as [k][row].
inline void pack_rows(const float* a, std::int64_t rs, std::int64_t cs, std::int64_t row0, std::int64_t rows, std::int64_t depth, float* out) {
  const std::int64_t n = std::min<std::int64_t>(gemm_rows, rows - row0);
  for (std::int64_t k = 0; k < depth; ++k, out += gemm_rows) {
    const float* p = a + row0 * rs + k * cs;
    for (std::int64_t i = 0; i < n; ++i) out[i] = p[i * rs];
    for (std::int64_t i = n; i < gemm_rows; ++i) out[i] = 0;
  }
}
// Columns [col0, col0 + gemm_cols) of B(k, col) = b[k * rs + col * cs] as [k][col].
inline void pack_columns(const float* b, std::int64_t rs, std::int64_t cs, std::int64_t col0, std::int64_t cols, std::int64_t depth, float* out) {
  const std::int64_t n = std::min<std::int64_t>(gemm_cols, cols - col0);
  if (cs == 1 || rs != 1) {
    for (std::int64_t k = 0; k < depth; ++k, out += gemm_cols) {
      const float* p = b + k * rs + col0 * cs;
      for (std::int64_t j = 0; j < n; ++j) out[j] = p[j * cs];
      for (std::int64_t j = n; j < gemm_cols; ++j) out[j] = 0;
    }
    return;
  }
  for (std::int64_t j = 0; j < gemm_cols; ++j)  // the source runs along k
    for (std::int64_t k = 0; k < depth; ++k) out[k * gemm_cols + j] = j < n ? b[(col0 + j) * cs + k] : 0;
}

}  // namespace mien::MIEN_LEVEL
