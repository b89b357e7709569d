// The micro-kernel of the packed products: a tile of rows (pixels) times one or two panels of 16 columns, summed in registers.
//
//   C[r, n] = sum over k of A(r, k) * B[k, n]        r < rows <= tile_rows, n < panels * 16
//
// B is packed in panels [K][16] (see pack_conv_weights). A is read where it lies, one broadcast a value, in two parts:
//   rows   come in groups of three: row r begins at group[r / 3] + r % 3 * step. Pixels side by side are one run (left_rows); maps that are three
//          pixels wide put a group on each of their rows.
//   depth  comes in segments of equal length: value k of segment s is at offset[s] + k. A 1x1 convolution has one segment; k x k has one a tap,
//          or one a kernel row where the taps lie side by side. There is no im2col.
// Each element is summed over k in order and nothing else, so a product may be cut into tiles in any way without changing a bit. The tile is finished in
// registers: bias, residual, activation. The sum is not cut along k: streaming a panel pair from L2 costs 9 bytes a cycle, which the machine hides.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

inline constexpr int panel_cols = 16;
inline constexpr int panel_vecs = panel_cols / lanes;
#if MIEN_LEVEL_IS_avx512
inline constexpr int tile_rows = 14, tile_panels = 2;  // 28 accumulators, 2 of B, 1 broadcast: 31 of 32 registers
#elif MIEN_LEVEL_IS_avx2
inline constexpr int tile_rows = 6, tile_panels = 1;   // 12 accumulators, 2 of B, 1 broadcast: 15 of 16 registers
#else
inline constexpr int tile_rows = 3, tile_panels = 1;   // 12 accumulators, 1 of B, 3 broadcasts
#endif
inline constexpr int row_groups = (tile_rows + 2) / 3;

struct LeftRows {
  const float* group[row_groups];
  std::int64_t step;
};
// Rows that all lie `step` apart.
inline LeftRows left_rows(const float* first, std::int64_t step) {
  LeftRows left;
  for (int q = 0; q < row_groups; ++q) left.group[q] = first + 3 * q * step;
  left.step = step;
  return left;
}
struct Segments {
  const std::int64_t* offset;
  std::int64_t count, length;
};

// Where a panel of the tile goes. Columns past `cols` are not stored; bias and slope have `cols` values.
struct PanelOut {
  float* y;                // first column of the tile's first row
  std::int64_t step;       // of rows
  std::int64_t cols;       // 1 to 16
  const float* bias;
  const float* slope;      // of PReLU; null without
  const float* residual;   // added before the activation; null without
  std::int64_t residual_step;
  bool relu;
};

inline PanelOut moved(PanelOut o, std::int64_t pixels) {
  o.y += pixels * o.step;
  if (o.residual) o.residual += pixels * o.residual_step;
  return o;
}

// Memory that is wanted soon: for every k one line and another `second` bytes behind it, `step` bytes further each time. A step of 0 fetches nothing new.
struct Ahead {
  const char* data;
  std::int64_t step, second;
};

namespace panel_tile_detail {

inline Vec activated(Vec v, const PanelOut& o, Vec slope) {
  if (o.slope) return MulAdd(slope, Min(Set(0), v), Max(Set(0), v));
  return o.relu ? Max(Set(0), v) : v;
}

template <int ROWS, int PANELS>
inline void finish(Vec (&acc)[ROWS][PANELS * panel_vecs], const PanelOut* out) {
#pragma GCC unroll 2
  for (int p = 0; p < PANELS; ++p) {
    const PanelOut o = out[p];
#pragma GCC unroll 4
    for (int v = 0; v < panel_vecs; ++v) {
      const std::int64_t at = v * lanes, left = o.cols - at;
      if (left >= lanes) {
        const Vec bias = Load(o.bias + at), slope = o.slope ? Load(o.slope + at) : Set(0);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          Vec x = Add(acc[r][p * panel_vecs + v], bias);
          if (o.residual) x = Add(x, Load(o.residual + r * o.residual_step + at));
          Store(activated(x, o, slope), o.y + r * o.step + at);
        }
      } else if (left > 0) {
        const Vec bias = LoadFirst(o.bias + at, left), slope = o.slope ? LoadFirst(o.slope + at, left) : Set(0);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          Vec x = Add(acc[r][p * panel_vecs + v], bias);
          if (o.residual) x = Add(x, LoadFirst(o.residual + r * o.residual_step + at, left));
          StoreFirst(activated(x, o, slope), o.y + r * o.step + at, left);
        }
      }
    }
  }
}

// b_step: distance of two panels.
template <int ROWS, int PANELS>
[[gnu::noinline]] inline void tile(const LeftRows& left, const Segments& segments, const float* b, [[maybe_unused]] std::int64_t b_step, const PanelOut* out,
                                   Ahead ahead) {
  constexpr int groups = (ROWS + 2) / 3, vecs = PANELS * panel_vecs;
  Vec acc[ROWS][vecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vecs; ++v) acc[r][v] = Set(0);
  // Where the tile goes, and what is added there: on its way while the sums are made.
#pragma GCC unroll 2
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      __builtin_prefetch(out[p].y + r * out[p].step, 1);
      if (out[p].residual) __builtin_prefetch(out[p].residual + r * out[p].residual_step);
    }
  const std::int64_t step = left.step, length = segments.length;
  const std::int64_t* offset = segments.offset;
  for (const std::int64_t* end = offset + segments.count; offset != end; ++offset) {
    const float* a[groups];
#pragma GCC unroll 8
    for (int q = 0; q < groups; ++q) a[q] = left.group[q] + *offset;
    for (const float* stop = b + length * panel_cols; b != stop; b += panel_cols) {
      __builtin_prefetch(ahead.data, 0, 2);
      __builtin_prefetch(ahead.data + ahead.second, 0, 2);
      ahead.data += ahead.step;
#if MIEN_LEVEL_IS_avx512 || MIEN_LEVEL_IS_avx2
      Vec y[vecs];
#pragma GCC unroll 4
      for (int v = 0; v < vecs; ++v) y[v] = Load(b + v / panel_vecs * b_step + v % panel_vecs * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vec x = Set(a[r / 3][r % 3 * step]);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) acc[r][v] = MulAdd(x, y[v], acc[r][v]);
      }
#else
      Vec x[ROWS];
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) x[r] = Set(a[r / 3][r % 3 * step]);
#pragma GCC unroll 4
      for (int v = 0; v < vecs; ++v) {
        const Vec y = Load(b + v * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) acc[r][v] = MulAdd(x[r], y, acc[r][v]);
      }
#endif
#pragma GCC unroll 8
      for (int q = 0; q < groups; ++q) ++a[q];
    }
  }
  finish<ROWS, PANELS>(acc, out);
}

}  // namespace panel_tile_detail

using TileKernel = void (*)(const LeftRows&, const Segments&, const float* b, std::int64_t b_step, const PanelOut*, Ahead);

namespace panel_tile_detail {
// At namespace scope: a static inside an inline function would be a symbol that the linker merges across levels.
#if MIEN_LEVEL_IS_avx512
constexpr TileKernel one_panel[] = {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>, tile<7, 1>,
                                    tile<8, 1>, tile<9, 1>, tile<10, 1>, tile<11, 1>, tile<12, 1>, tile<13, 1>, tile<14, 1>};
constexpr TileKernel two_panels[] = {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>, tile<7, 2>,
                                     tile<8, 2>, tile<9, 2>, tile<10, 2>, tile<11, 2>, tile<12, 2>, tile<13, 2>, tile<14, 2>};
#elif MIEN_LEVEL_IS_avx2
constexpr TileKernel one_panel[] = {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>};
#else
constexpr TileKernel one_panel[] = {tile<1, 1>, tile<2, 1>, tile<3, 1>};
#endif
}  // namespace panel_tile_detail

// The kernel of a tile of `rows` rows (1 to tile_rows) and `panels` panels (1 to tile_panels).
inline TileKernel tile_kernel_of(std::int64_t rows, [[maybe_unused]] std::int64_t panels) {
#if MIEN_LEVEL_IS_avx512
  if (panels == 2) return panel_tile_detail::two_panels[rows - 1];
#endif
  return panel_tile_detail::one_panel[rows - 1];
}

}  // namespace mien::MIEN_LEVEL
