// The matrix product that reads both sides where they lie: C[rows, cols] (+)= A * B with lanes along the columns. Convolution in channels_last is made
// of it: pixels are rows, or what is summed over. Each element of C is summed over k in order.
//
// k comes in runs of one length. In run r, A(i, k) = a[i * row_step + runs.left[r] + k * k_step] and vector v of B(k) = b[v * panel_step + runs.right[r] + k * step]:
// so neither the windows of a picture nor the rows of a band have to lie side by side.
#pragma once

#include <array>
#include <utility>

#include "mien/kernels/cpu/gemm.h"

namespace mien::MIEN_LEVEL {

struct Runs {
  std::int64_t count, length;
  const std::int64_t *left, *right;  // where each run begins, in floats
};
struct Left {
  const float* data;
  std::int64_t row_step, k_step;
};
struct Right {
  const float* data;
  std::int64_t step, panel_step;  // from k to k + 1, and from one vector of columns to the next
};

#if MIEN_LEVEL_IS_avx512
inline constexpr int most_rows = 14, few_rows = 7;  // 14 x 2 or 9 x 3 or 6 x 4 accumulators, the vectors of B and a broadcast: up to 31 of 32 registers
inline constexpr int rows_for(int vectors) { return vectors <= 2 ? 14 : vectors == 3 ? 9 : 6; }
#elif MIEN_LEVEL_IS_avx2
inline constexpr int most_rows = 6, few_rows = 4;
inline constexpr int rows_for(int vectors) { return vectors <= 2 ? 6 : vectors == 3 ? 4 : 2; }
#else
inline constexpr int most_rows = 4, few_rows = 2;
inline constexpr int rows_for(int vectors) { return vectors <= 2 ? 4 : vectors == 3 ? 3 : 2; }
#endif
inline constexpr int most_vectors = 4;

// ROWS x VECTORS accumulators stay in registers. Three rows share a pointer: x86 addresses them as p, p + s and p + 2 s. DENSE: A is packed
// as [k][row]: one pointer is enough. There a run's left side begins at that many k, or all runs lie one after the other (no list).
template <int ROWS, int VECTORS, bool DENSE>
[[gnu::noinline]] void row_kernel(const Runs& runs, const Left& a, const Right& b, const Tile& t) {
  constexpr int groups = DENSE ? 1 : (ROWS + 2) / 3;
  Vec acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v)
      acc[i][v] = t.start == Start::accumulate ? Load(t.c + i * t.ldc + v * lanes) : t.start == Start::column_bias ? Load(t.bias + v * lanes) : Set(0);
  // Where the tile goes is on its way while the sums are made: a row now and then, as all at once would keep what comes from the second cache waiting. Short sums,
  // and packed ones, whose C is in the cache, have no time for that.
  const bool at_once = DENSE || runs.count * runs.length < 8 * ROWS;
  const std::int64_t pace = at_once ? runs.length : runs.count * runs.length / (t.start == Start::last ? 2 * ROWS : ROWS);  // what is added last has to be there
  const float *ahead = t.c, *const past = t.c + ROWS * t.ldc;
  const auto call_row_up = [&] {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(ahead + v * lanes, 1);
    ahead += t.ldc;
  };
  if (at_once)
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) call_row_up();
  const std::int64_t row_step = DENSE ? 1 : a.row_step, k_step = DENSE ? ROWS : a.k_step, step = b.step, panel_step = b.panel_step, length = runs.length;
  const float* base[groups] = {a.data};
  for (std::int64_t r = 0; r < runs.count; ++r) {
    if (!DENSE)
#pragma GCC unroll 8
      for (int q = 0; q < groups; ++q) base[q] = a.data + runs.left[r] + 3 * q * row_step;
    else if (runs.left) base[0] = a.data + runs.left[r] * ROWS;
    const float* right = b.data + runs.right[r];
    const float* third = right + 2 * panel_step;
    for (std::int64_t k = 0, stop = DENSE ? length : std::min(pace, length); k < length; stop = std::min(stop + pace, length)) {
      if (!DENSE && ahead < past) call_row_up();
      for (; k < stop; ++k) {
        Vec y[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) y[v] = v < 2 ? Load(right + v * panel_step) : Load(third + (v - 2) * panel_step);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
          const Vec x = Set(DENSE ? base[0][i] : base[DENSE ? 0 : i / 3][i % 3 * row_step]);
#pragma GCC unroll 4
          for (int v = 0; v < VECTORS; ++v) acc[i][v] = MulAdd(x, y[v], acc[i][v]);
        }
#pragma GCC unroll 8
        for (int q = 0; q < groups; ++q) base[q] += k_step;
        right += step;
        if (VECTORS > 2) third += step;
      }
    }
  }
  if (t.start == Start::last)
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) acc[i][v] = Add(acc[i][v], Load(t.c + i * t.ldc + v * lanes));
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) Store(acc[i][v], t.c + i * t.ldc + v * lanes);
}

using RowKernel = void (*)(const Runs&, const Left&, const Right&, const Tile&);
namespace detail_rows {
template <int VECTORS, bool DENSE, std::size_t... I>
constexpr std::array<RowKernel, sizeof...(I)> kernels(std::index_sequence<I...>) {
  return {(static_cast<int>(I) < rows_for(VECTORS) ? &row_kernel<(static_cast<int>(I) < rows_for(VECTORS) ? static_cast<int>(I) + 1 : 1), VECTORS, DENSE> : nullptr)...};
}
template <bool DENSE>
constexpr std::array<std::array<RowKernel, most_rows>, most_vectors> table{
    kernels<1, DENSE>(std::make_index_sequence<most_rows>()), kernels<2, DENSE>(std::make_index_sequence<most_rows>()),
    kernels<3, DENSE>(std::make_index_sequence<most_rows>()), kernels<4, DENSE>(std::make_index_sequence<most_rows>())};
}  // namespace detail_rows

// One tile of at most rows_for(vectors of columns) rows. Ragged columns go through a full buffer: B and the bias are padded to whole vectors, C is not.
template <bool DENSE>
inline void row_tile(const Runs& runs, const Left& a, const Right& b, const Tile& t) {
  const std::int64_t vectors = (t.cols + lanes - 1) / lanes;
  const RowKernel kernel = detail_rows::table<DENSE>[static_cast<std::size_t>(vectors - 1)][static_cast<std::size_t>(t.rows - 1)];
  if (t.cols % lanes == 0) return kernel(runs, a, b, t);
  alignas(64) float buffer[most_rows * most_vectors * lanes] = {};
  Tile full = t;
  full.c = buffer;
  full.ldc = vectors * lanes;
  if (t.start == Start::accumulate || t.start == Start::last)
    for (std::int64_t i = 0; i < t.rows; ++i) std::copy_n(t.c + i * t.ldc, t.cols, buffer + i * full.ldc);
  kernel(runs, a, b, full);
  for (std::int64_t i = 0; i < t.rows; ++i) std::copy_n(buffer + i * full.ldc, t.cols, t.c + i * t.ldc);
}

// Vectors of columns that go best with tiles of so many rows.
inline int vectors_for(std::int64_t rows) {
  int v = most_vectors;
  while (v > 1 && rows > rows_for(v)) --v;
  return v;
}

}  // namespace mien::MIEN_LEVEL
