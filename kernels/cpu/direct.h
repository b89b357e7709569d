// Convolution of channels_last pictures that reads the picture in place: stride 1, and the zeros around it lie in memory. No im2col matrix, no gathering:
// the kw * C values that one kernel row sees are neighbours, and the next pixel's lie C floats further.
//
//   product:  y[pixel, O] = sum over kernel rows i and t in [0, run) of x[pixel + i * line + t] * W[i, t, O]       (run = kw * C)
//   weights:  gW[i, t, O] += sum over pixels of x[pixel + i * line + t] * gy[pixel, O]
//
// Each element is summed in one order whatever the number of threads.
#pragma once

#include "mien/kernels/cpu/gemm.h"
#include "mien/kernels/cpu/select.h"

namespace mien::MIEN_LEVEL {

static_assert(gemm_rows <= 12, "the switches over MIEN_TILE below end there");

// Columns [0, cols) in panels of gemm_cols; what is left over in one of `lanes` columns when it fits. Panels follow one another.
inline std::int64_t padded_channels(std::int64_t cols) { return round_up(cols, lanes); }

// W[i, t, column] = w[column * col + i * row + j * tap + c * channel], t = j * channels + c, packed in panels: [panel][i][t][column].
struct DirectWeights {
  const float* data;
  std::int64_t cols, kh, kw, channels;
  std::int64_t col, row, tap, channel;  // strides; negative ones turn the kernel
  std::int64_t run() const { return kw * channels; }
  std::int64_t packed() const { return kh * run() * padded_channels(cols); }
};
inline void pack_direct(const DirectWeights& w, float* out) {
  for (std::int64_t first = 0; first < w.cols; first += gemm_cols) {
    const std::int64_t width = std::min<std::int64_t>(gemm_cols, padded_channels(w.cols) - first);
    for (std::int64_t i = 0; i < w.kh; ++i)
      for (std::int64_t j = 0; j < w.kw; ++j)
        for (std::int64_t c = 0; c < w.channels; ++c, out += width)
          for (std::int64_t k = 0; k < width; ++k) {
            const std::int64_t column = first + k;
            out[k] = column < w.cols ? w.data[column * w.col + i * w.row + j * w.tap + c * w.channel] : 0;
          }
  }
}

// --- the product --------------------------------------------------------------------------------------------------------
struct DirectRows {
  const float* x;          // what the first pixel sees in its first kernel row
  std::int64_t row_step;   // to the next pixel
  std::int64_t line;       // to the next kernel row
  std::int64_t lines, run;
  float* y;
  std::int64_t ldy;        // to the next pixel
};

// ROWS pixels x VECTORS vectors of channels stay in registers; the last vector has `tail` channels. `w` steps over VECTORS * lanes columns.
template <int ROWS, int VECTORS>
[[gnu::noinline]] inline void direct_tile(const DirectRows& d, const float* w, const float* bias, std::int64_t tail) {
  constexpr int groups = (ROWS + 2) / 3;  // three pixels share a pointer: x86 addresses them as p, p + s and p + 2 s
  Vec acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) acc[r][v] = bias ? Load(bias + v * lanes) : Set(0);
  const std::int64_t step = d.row_step;
  const float* line = d.x;
  for (std::int64_t i = 0; i < d.lines; ++i, line += d.line) {
    const float* base[groups];
#pragma GCC unroll 8
    for (int q = 0; q < groups; ++q) base[q] = line + 3 * q * step;
    // Value t + u of the kernel row.
    const auto add = [&](int u) __attribute__((always_inline)) {
      Vec b[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) b[v] = Load(w + (u * VECTORS + v) * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vec x = Set(base[r / 3][r % 3 * step + u]);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) AddProduct(acc[r][v], x, b[v]);
      }
    };
    const auto advance = [&](int values) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int q = 0; q < groups; ++q) base[q] += values;
      w += values * VECTORS * lanes;
    };
    const float* const stop = w + d.run * VECTORS * lanes;
    for (const float* const most = w + d.run / 4 * 4 * VECTORS * lanes; w != most; advance(4))
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) add(u);
    for (; w != stop; advance(1)) add(0);
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v + 1 < VECTORS; ++v) Store(acc[r][v], d.y + r * d.ldy + v * lanes);
    Store(acc[r][VECTORS - 1], d.y + r * d.ldy + (VECTORS - 1) * lanes, tail);
  }
}

template <int VECTORS>
inline void direct_panel(DirectRows d, std::int64_t rows, const float* w, const float* bias, std::int64_t tail) {
  const std::int64_t tiles = (rows + gemm_rows - 1) / gemm_rows;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {  // cut evenly: a tile of few rows waits for its own sums
    const std::int64_t n = rows * (tile + 1) / tiles - rows * tile / tiles;
    switch (n) {
#define MIEN_TILE(N)                                                        \
  case N:                                                                   \
    if constexpr (N <= gemm_rows) direct_tile<N, VECTORS>(d, w, bias, tail); \
    break;
      MIEN_TILE(1) MIEN_TILE(2) MIEN_TILE(3) MIEN_TILE(4) MIEN_TILE(5) MIEN_TILE(6) MIEN_TILE(7) MIEN_TILE(8) MIEN_TILE(9) MIEN_TILE(10) MIEN_TILE(11) MIEN_TILE(12)
#undef MIEN_TILE
    }
    d.x += n * d.row_step;
    d.y += n * d.ldy;
  }
}

// `rows` pixels, the panel of channels from `col` on of `cols`. `packed` has all of the kernel's `kernel_rows`; d.lines of them, from `first_line` on, are used. `bias` is
// padded or null. d.y: of channel 0.
inline void direct_columns(DirectRows d, std::int64_t rows, std::int64_t col, std::int64_t cols, const float* packed, std::int64_t kernel_rows, std::int64_t first_line,
                           const float* bias) {
  const std::int64_t left = cols - col, width = std::min<std::int64_t>(gemm_cols, round_up(left, lanes));
  const float* w = packed + col * kernel_rows * d.run + first_line * d.run * width;
  const float* b = bias ? bias + col : nullptr;
  d.y += col;
  if (width == gemm_cols) direct_panel<2>(d, rows, w, b, std::min<std::int64_t>(lanes, left - lanes));
  else direct_panel<1>(d, rows, w, b, left);
}
// All channels, the whole kernel.
inline void direct_product(const DirectRows& d, std::int64_t rows, std::int64_t cols, const float* packed, const float* bias) {
  for (std::int64_t col = 0; col < cols; col += gemm_cols) direct_columns(d, rows, col, cols, packed, d.lines, 0, bias);
}

// --- the gradient of the weights --------------------------------------------------------------------------------------------
struct DirectPixels {
  std::int64_t images, lines, pixels;            // pixels of a line
  std::int64_t x_image, x_line, x_pixel;         // steps
  std::int64_t gy_image, gy_line, gy_pixel;
};

// What a pixel's x is to a vector of gy: a number for all of its channels, or (conv_block_pictures.cpp) a vector of pictures as gy's is one.
struct Number {
  static constexpr int floats = 1;
  static Vec at(const float* p) { return Set(*p); }
};
struct Pictures {
  static constexpr int floats = lanes;
  static Vec at(const float* p) { return Load(p); }
};

template <class X, int TAPS, int VECTORS>
inline void direct_weight_tile(const DirectPixels& d, const float* x, const float* gy, float* sums, std::int64_t lds) {
  Vec acc[TAPS][VECTORS];
#pragma GCC unroll 16
  for (int t = 0; t < TAPS; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) acc[t][v] = Load(sums + t * lds + v * lanes);
  const std::int64_t x_pixel = d.x_pixel, gy_pixel = d.gy_pixel;
  for (std::int64_t n = 0; n < d.images; ++n)
    for (std::int64_t line = 0; line < d.lines; ++line) {
      const float *p = x + n * d.x_image + line * d.x_line, *g = gy + n * d.gy_image + line * d.gy_line;
      for (std::int64_t k = 0; k < d.pixels; ++k, p += x_pixel, g += gy_pixel) {
        Vec b[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) b[v] = Load(g + v * lanes);
#pragma GCC unroll 16
        for (int t = 0; t < TAPS; ++t) {
          const Vec a = X::at(p + t * X::floats);
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; ++v) acc[t][v] = MulAdd(a, b[v], acc[t][v]);
        }
      }
    }
#pragma GCC unroll 16
  for (int t = 0; t < TAPS; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) Store(acc[t][v], sums + t * lds + v * lanes);
}

template <class X, int VECTORS>
inline void direct_weight_run(const DirectPixels& d, std::int64_t run, const float* x, const float* gy, float* sums, std::int64_t lds) {
  const std::int64_t tiles = (run + gemm_rows - 1) / gemm_rows;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t t = run * tile / tiles, n = run * (tile + 1) / tiles - t;
    switch (n) {
#define MIEN_TILE(N)                                                                                               \
  case N:                                                                                                          \
    if constexpr (N <= gemm_rows) direct_weight_tile<X, N, VECTORS>(d, x + t * X::floats, gy, sums + t * lds, lds); \
    break;
      MIEN_TILE(1) MIEN_TILE(2) MIEN_TILE(3) MIEN_TILE(4) MIEN_TILE(5) MIEN_TILE(6) MIEN_TILE(7) MIEN_TILE(8) MIEN_TILE(9) MIEN_TILE(10) MIEN_TILE(11) MIEN_TILE(12)
#undef MIEN_TILE
    }
  }
}

// sums[i, t, O] += ...; O is a whole number of vectors (gy has zeros there), `kernel_line` the step of x from one kernel row to the next. A piece of the maps at a time,
// which stays in the first cache while every tile of the sums goes over it.
template <class X = Number>
inline void direct_weights(const DirectPixels& d, std::int64_t kernel_rows, std::int64_t kernel_line, std::int64_t run, std::int64_t padded, const float* x, const float* gy,
                           float* sums) {
  const std::int64_t at_once = std::max<std::int64_t>(1, 6144 / (d.pixels * (d.x_pixel + gemm_cols)));  // lines
  const std::int64_t images = std::max<std::int64_t>(1, at_once / d.lines);
  DirectPixels piece = d;
  for (std::int64_t n = 0; n < d.images; n += images)
    for (std::int64_t line = 0; line < d.lines; line += at_once) {
      piece.images = std::min(images, d.images - n);
      piece.lines = std::min(at_once, d.lines - line);
      const float *x_piece = x + n * d.x_image + line * d.x_line, *gy_piece = gy + n * d.gy_image + line * d.gy_line;
      for (std::int64_t i = 0; i < kernel_rows; ++i)
        for (std::int64_t col = 0; col < padded; col += gemm_cols) {
          float* to = sums + i * run * padded + col;
          if (padded - col >= gemm_cols) direct_weight_run<X, 2>(piece, run, x_piece + i * kernel_line, gy_piece + col, to, padded);
          else direct_weight_run<X, 1>(piece, run, x_piece + i * kernel_line, gy_piece + col, to, padded);
        }
    }
}

}  // namespace mien::MIEN_LEVEL
