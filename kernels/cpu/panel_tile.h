// The micro-kernel of the packed products: a tile of rows (pixels) times one or two panels of 16 columns, summed in registers.
//
//   C[r, n] = sum over k of A(r, k) * B[k, n]        r < rows <= tile_rows, n < panels * 16
//
// B is packed in panels [K][16] (see pack_conv_weights). A is read where it lies, one broadcast a value, in two parts:
//   rows   begin at group[r / group_rows] + r % group_rows * step. With a pointer for each row (avx2, base) a tile takes pixels from wherever they lie; with one for
//          three (avx512: there are more rows than registers for pointers) pixels side by side, or maps that are three pixels wide with a group on each row.
//   depth  comes in segments of equal length: value k of segment s is at offset[s] + k. A 1x1 convolution has one segment; k x k has one a tap,
//          or one a kernel row where the taps lie side by side. There is no im2col.
// Each element is summed over k in order and nothing else, so a product may be cut into tiles in any way without changing a bit. The tile is finished in
// registers: bias, residual, activation. The sum is not cut along k: streaming a panel pair from L2 costs 9 bytes a cycle, which the machine hides.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

inline constexpr int panel_cols = 16;
inline constexpr int panel_vecs = panel_cols / lanes;
// tile_unroll: values of k a turn; fetch_every: so many of them share a prefetch. Blocks of no more than few_tiles tiles have no time to fetch the next panel.
#if MIEN_LEVEL_IS_avx512
inline constexpr int tile_rows = 14, tile_panels = 2, group_rows = 3;  // 28 accumulators, 2 of B, 1 broadcast: 31 of 32 registers
inline constexpr int tile_unroll = 1, fetch_every = 1, few_tiles = 2;
#elif MIEN_LEVEL_IS_avx2
inline constexpr int tile_rows = 6, tile_panels = 1, group_rows = 1;   // 12 accumulators, 2 of B, 1 broadcast: 15 of 16 registers
// 12 multiplications a value leave little room for other instructions, least of all where two threads share a core.
inline constexpr int tile_unroll = 8, fetch_every = 4, few_tiles = 1;
#else
inline constexpr int tile_rows = 3, tile_panels = 1, group_rows = 1;   // 12 accumulators, 1 of B, 3 broadcasts
inline constexpr int tile_unroll = 1, fetch_every = 1, few_tiles = 2;
#endif
constexpr int groups_of(int rows) { return (rows + group_rows - 1) / group_rows; }

struct LeftRows {
  const float* group[groups_of(tile_rows)];
  std::int64_t step;
};
// Rows that all lie `step` apart.
inline LeftRows left_rows(const float* first, std::int64_t step) {
  LeftRows left;
  for (int q = 0; q < groups_of(tile_rows); ++q) left.group[q] = first + group_rows * q * step;
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

// Memory that is wanted soon: every fetch_every values of k one line and another `second` bytes behind it, `step` bytes further each time. A step of 0 fetches
// nothing new.
struct Ahead {
  const char* data;
  std::int64_t step, second;
};

namespace panel_tile_detail {

inline Vec activated(Vec v, const PanelOut& o, Vec slope) {
  if (o.slope) return prelu_of(v, slope);
  return o.relu ? Max(Set(0), v) : v;
}

// One vector of columns of all rows, step by step: with all steps row by row, nets take 2 % longer. `o` comes by value: stores of vectors may change anything that
// has an address. PART: only the first `width` lanes.
template <bool PART, int ROWS, int VECS>
[[gnu::always_inline]] inline void finish_vector(const Vec (&acc)[ROWS][VECS], int v, const PanelOut o, std::int64_t at, std::int64_t width) {
  const auto load = [=](const float* p) __attribute__((always_inline)) { return PART ? LoadFirst(p, width) : Load(p); };
  const Vec bias = load(o.bias + at), slope = o.slope ? load(o.slope + at) : Set(0);
  Vec x[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) x[r] = Add(acc[r][v], bias);
  if (o.residual)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) x[r] = Add(x[r], load(o.residual + r * o.residual_step + at));
  if (o.slope || o.relu)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) x[r] = activated(x[r], o, slope);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    if constexpr (PART) StoreFirst(x[r], o.y + r * o.step + at, width);
    else Store(x[r], o.y + r * o.step + at);
  }
}

template <int ROWS, int PANELS>
[[gnu::always_inline]] inline void finish(const Vec (&acc)[ROWS][PANELS * panel_vecs], const PanelOut* out) {
#pragma GCC unroll 2
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vecs; ++v) {
      const std::int64_t at = v * lanes, left = out[p].cols - at;
      if (left >= lanes) finish_vector<false>(acc, p * panel_vecs + v, out[p], at, lanes);
      else if (left > 0) finish_vector<true>(acc, p * panel_vecs + v, out[p], at, left);
    }
}

// b_step: distance of two panels. STREAM: B itself is fetched, some lines before it is read, and nothing else.
template <int ROWS, int PANELS, bool STREAM>
[[gnu::noinline]] inline void tile(const LeftRows& left, const Segments& segments, const float* b, [[maybe_unused]] std::int64_t b_step, const PanelOut* out,
                                   [[maybe_unused]] Ahead ahead) {
  constexpr int groups = groups_of(ROWS), vecs = PANELS * panel_vecs;
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
    // Value k + u.
    const auto add = [&](int u) __attribute__((always_inline)) {
#if MIEN_LEVEL_IS_avx512 || MIEN_LEVEL_IS_avx2
      Vec y[vecs];
#pragma GCC unroll 4
      for (int v = 0; v < vecs; ++v) y[v] = Load(b + u * panel_cols + v / panel_vecs * b_step + v % panel_vecs * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vec x = Set(a[r / group_rows][r % group_rows * step + u]);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) AddProduct(acc[r][v], x, y[v]);
      }
#else
      Vec x[ROWS];
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) x[r] = Set(a[r / group_rows][r % group_rows * step + u]);
#pragma GCC unroll 4
      for (int v = 0; v < vecs; ++v) {
        const Vec y = Load(b + u * panel_cols + v * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) acc[r][v] = MulAdd(x[r], y, acc[r][v]);
      }
#endif
    };
    const auto advance = [&](int values) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int q = 0; q < groups; ++q) a[q] += values;
      b += values * panel_cols;
    };
    const float* const stop = b + length * panel_cols;
    for (const float* const most = b + length / tile_unroll * tile_unroll * panel_cols; b != most; advance(tile_unroll)) {
#pragma GCC unroll 8
      for (int u = 0; u < tile_unroll; ++u) {
        if constexpr (STREAM) {
#pragma GCC unroll 2
          for (int p = 0; p < PANELS; ++p) __builtin_prefetch(b + u * panel_cols + p * b_step + 1024, 0, 2);
        } else if (u % fetch_every == 0) {
          __builtin_prefetch(ahead.data, 0, 2);
          __builtin_prefetch(ahead.data + ahead.second, 0, 2);
          ahead.data += ahead.step;
        }
        add(u);
      }
    }
    if constexpr (tile_unroll > 1)
      for (; b != stop; advance(1)) add(0);
  }
  finish<ROWS, PANELS>(acc, out);
}

}  // namespace panel_tile_detail

using TileKernel = void (*)(const LeftRows&, const Segments&, const float* b, std::int64_t b_step, const PanelOut*, Ahead);

namespace panel_tile_detail {
// At namespace scope: a static inside an inline function would be a symbol that the linker merges across levels.
template <int PANELS, bool STREAM, std::size_t... I>
constexpr std::array<TileKernel, sizeof...(I)> kernels(std::index_sequence<I...>) {
  return {&tile<static_cast<int>(I) + 1, PANELS, STREAM>...};
}
template <bool STREAM>
constexpr std::array<std::array<TileKernel, tile_rows>, tile_panels> table{
    kernels<1, STREAM>(std::make_index_sequence<tile_rows>()),
#if MIEN_LEVEL_IS_avx512
    kernels<2, STREAM>(std::make_index_sequence<tile_rows>()),
#endif
};
}  // namespace panel_tile_detail

// The kernel of a tile of `rows` rows (1 to tile_rows) and `panels` panels (1 to tile_panels). stream: its B comes from memory, and no tile before had time to
// fetch it.
inline TileKernel tile_kernel_of(std::int64_t rows, std::int64_t panels, bool stream) {
  const auto& table = stream ? panel_tile_detail::table<true> : panel_tile_detail::table<false>;
  return table[static_cast<std::size_t>(panels - 1)][static_cast<std::size_t>(rows - 1)];
}

}  // namespace mien::MIEN_LEVEL
