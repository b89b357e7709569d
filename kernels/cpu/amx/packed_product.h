// The product of output pixels x (tap, channel) with packed weights, then bias, residual and activation of 32 x 32 sums at a time: what packed_conv2d and the
// convolutions of training share. The arguments are those of packed_conv2d (params.h), but x may be f32, and where the weights lie is said apart.
//
// Between the steps of one block's products some rows of the block before are finished, and some of the next columns' weights are fetched: left to itself, the
// processor does not look far enough ahead to do both at once.
#pragma once

#include "mien/kernels/cpu/amx/packed_rows.h"

namespace mien::MIEN_LEVEL {

inline constexpr std::int64_t block_rows = 2 * tile_size, block_columns = 2 * tile_size;

struct ProductPlan {
  PackedPlan rows;
  std::int64_t panels = 0, pairs = 0;  // of all outputs; a pair is up to 32 columns of one output
  std::int64_t panel_values() const { return rows.steps() * tile_values; }
  std::int64_t column_floats() const { return (panels + 1) * tile_size; }  // of bias or slope: the last pair may have one panel
  std::int64_t row_values() const { return round_up(rows.values(), tile_depth); }
  std::int64_t row_numbers() const { return rows.tiles(rows.at_once) * tile_size; }
  std::int64_t bytes() const { return 2 * 4 * column_floats() + 2 * (row_values() + tile_values) + 8 * row_numbers(); }
};
inline ProductPlan product_plan(const KernelArgs& a) {
  ProductPlan p{packed_rows_plan(a)};
  for (const View& y : a.out) {
    p.panels += tiles_of(y.size(1));
    p.pairs += (tiles_of(y.size(1)) + 1) / 2;
  }
  return p;
}

// Up to 32 neighbouring columns of one output.
struct Columns {
  const Bf16* weights;
  const float *bias, *slope;
  const Bf16* residual;  // of pixel 0; null without
  void* y;               // of pixel 0
  std::int64_t residual_step, y_step, count;
};
using Finish = void (*)(const float* sums, const std::int64_t* pixels, std::int64_t rows, const Columns& c);

template <Activation ACTIVATION, bool RESIDUAL, class Y>
void finish(const float* sums, const std::int64_t* pixels, std::int64_t rows, const Columns& c) {
  const __mmask32 mask = first_halves(c.count);
  const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  const __m512 bias[] = {_mm512_loadu_ps(c.bias), _mm512_loadu_ps(c.bias + 16)}, zero = _mm512_setzero_ps();
  const __m512 slope[] = {ACTIVATION == Activation::prelu ? _mm512_loadu_ps(c.slope) : zero, ACTIVATION == Activation::prelu ? _mm512_loadu_ps(c.slope + 16) : zero};
  for (std::int64_t i = 0; i < rows; ++i) {
    if (pixels[i] < 0) continue;
    __m512 v[] = {_mm512_add_ps(_mm512_load_ps(sums + i * block_columns), bias[0]), _mm512_add_ps(_mm512_load_ps(sums + i * block_columns + 16), bias[1])};
    if constexpr (RESIDUAL) {
      const __m512i r = _mm512_maskz_loadu_epi16(mask, c.residual + pixels[i] * c.residual_step);
      v[0] = _mm512_add_ps(v[0], widen(_mm512_castsi512_si256(r)));
      v[1] = _mm512_add_ps(v[1], widen(_mm512_extracti64x4_epi64(r, 1)));
    }
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      if constexpr (ACTIVATION == Activation::relu) v[k] = _mm512_max_ps(zero, v[k]);  // in this order NaN stays
      if constexpr (ACTIVATION == Activation::prelu) v[k] = _mm512_mask_mul_ps(v[k], _mm512_cmp_ps_mask(v[k], zero, _CMP_LT_OQ), v[k], slope[k]);
    }
    Y* to = static_cast<Y*>(c.y) + pixels[i] * c.y_step;
    if constexpr (sizeof(Y) == 4) {
      _mm512_mask_storeu_ps(to, low, v[0]);
      _mm512_mask_storeu_ps(to + 16, high, v[1]);
    } else {
      _mm512_mask_storeu_epi16(to, mask, to_bf16(v[0], v[1]));
    }
  }
}
template <bool RESIDUAL, class Y>
inline Finish finish_of(Activation a) {
  return a == Activation::none   ? finish<Activation::none, RESIDUAL, Y>
         : a == Activation::relu ? finish<Activation::relu, RESIDUAL, Y>
                                 : finish<Activation::prelu, RESIDUAL, Y>;
}
template <class Y>
inline Finish finish_of(Activation a, bool residual) {
  return residual ? finish_of<true, Y>(a) : finish_of<false, Y>(a);
}

// What is done between two steps of a product.
struct Between {
  // The block before.
  Finish finish = nullptr;
  const float* sums = nullptr;
  const std::int64_t* pixels = nullptr;
  std::int64_t rows = 0, at_once = 0;
  Columns columns{};
  // Where this block's sums will go: rows of y that are fetched to be written.
  const std::int64_t* ahead = nullptr;
  const std::byte* y = nullptr;
  std::int64_t y_bytes = 0, to_fetch = 0;  // a row's
  // Weights that are fetched into the second cache.
  const char* next = nullptr;
  std::int64_t lines = 0;

  void step() {
    for (std::int64_t i = 0; i < lines; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    for (std::int64_t i = std::min(at_once, to_fetch); i > 0; --i, --to_fetch, ++ahead)
      if (*ahead >= 0) __builtin_prefetch(y + *ahead * y_bytes, 1, 2);
    if (rows > 0) finish_rows(std::min(at_once, rows));
  }
  void finish_rows(std::int64_t n) {
    finish(sums, pixels, n, columns);
    sums += n * block_columns;
    pixels += n;
    rows -= n;
  }
  void finish_all() {
    if (rows > 0) finish_rows(rows);
  }
};

// C += A * B over `steps` steps of k; the row tiles may lie anywhere.
template <int ROWS, int COLS>
inline void add_product(std::int64_t steps, const Bf16* a0, const Bf16* a1, std::int64_t a0_step, std::int64_t a1_step, std::int64_t line, const Bf16* b,
                        std::int64_t b_tile, Between& between) {
  for (std::int64_t s = 0; s < steps; ++s, a0 += a0_step, a1 += a1_step, b += tile_values) {
    MIEN_TILE_LOAD(6, b, std::int64_t{64});
    MIEN_TILE_LOAD(4, a0, line);
    MIEN_TILE_MULTIPLY(0, 4, 6);
    if constexpr (COLS > 1) {
      MIEN_TILE_LOAD(7, b + b_tile, std::int64_t{64});
      MIEN_TILE_MULTIPLY(1, 4, 7);
    }
    if constexpr (ROWS > 1) {
      MIEN_TILE_LOAD(5, a1, line);
      MIEN_TILE_MULTIPLY(2, 5, 6);
      if constexpr (COLS > 1) MIEN_TILE_MULTIPLY(3, 5, 7);
    }
    between.step();
  }
}

// The products of one group of rows with all columns.
template <class T>
class Product {
 public:
  Product(const KernelArgs& a, const ProductPlan& p, const PackedRows<T>& rows, const Bf16* weights, const float* bias, const float* slope, const Bf16* zeros,
          const std::int64_t* pixels)
      : a_(a), p_(p), rows_(rows), weights_(weights), bias_(bias), slope_(slope), zeros_(zeros), pixels_(pixels), tiles_(rows.tiles()), blocks_((tiles_ + 1) / 2),
        rows_first_(a.out[0].dtype == DType::f32 && 2 * p.panels * p.panel_values() <= most_weights),
        row_shares_(rows_first_ ? blocks_ : std::clamp<std::int64_t>(8 / p.pairs, 1, blocks_)) {}

  void run() const {
    for_shares(p_.pairs * row_shares_, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      configure_tiles();
      alignas(64) float sums[2][block_rows * block_columns] = {};
      Between between;
      between.at_once = std::max<std::int64_t>(4, ceil_div(block_rows, p_.rows.steps()));
      int turn = 0;
      const std::int64_t y_size = a_.out[0].dtype == DType::f32 ? 4 : 2;
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t pair = rows_first_ ? item % p_.pairs : item / row_shares_, share = rows_first_ ? item / p_.pairs : item % row_shares_;
        const std::int64_t first = blocks_ * share / row_shares_;
        Finish finish = nullptr;
        const Columns columns = columns_of(pair, finish);
        between.lines = !rows_first_ && pair + 1 < p_.pairs ? ceil_div(2 * tile_size, blocks_) : 0;
        between.next = reinterpret_cast<const char*>(columns.weights + tiles_of(columns.count) * p_.panel_values()) + first * between.lines * p_.rows.steps() * 64;
        for (std::int64_t block = first; block < blocks_ * (share + 1) / row_shares_; ++block, turn ^= 1) {
          const std::int64_t tile = 2 * block, some = std::min<std::int64_t>(2, tiles_ - tile);
          const std::int64_t* pixels = pixels_ + tile * tile_size;
          between.ahead = pixels;
          between.y = static_cast<const std::byte*>(columns.y);
          between.y_bytes = columns.y_step * y_size;
          between.to_fetch = some * tile_size;
          with_tiles(some, tiles_of(columns.count), [&](auto r, auto c) {
            constexpr int R = decltype(r)::value, C = decltype(c)::value;
            multiply<R, C>(tile, columns.weights, between);
            between.finish_all();
            store_tiles<R, C>(sums[turn], 4 * block_columns);
          });
          between.finish = finish;
          between.sums = sums[turn];
          between.pixels = pixels;
          between.rows = some * tile_size;
          between.columns = columns;
        }
      }
      between.finish_all();
    });
  }

 private:
  Columns columns_of(std::int64_t pair, Finish& f) const {
    std::int64_t panel = 0;
    for (const View& y : a_.out) {
      const std::int64_t panels = tiles_of(y.size(1)), pairs = (panels + 1) / 2;
      if (pair >= pairs) {
        pair -= pairs;
        panel += panels;
        continue;
      }
      const bool half = y.dtype == DType::bf16;
      const View* residual = packed_extras(a_).residual;
      const Activation activation = a_.get<PackedConvParams>().activation;
      f = half ? finish_of<Bf16>(activation, residual) : finish_of<float>(activation, residual);
      const std::int64_t col = pair * block_columns, at = (panel + 2 * pair) * tile_size;
      return {weights_ + (panel + 2 * pair) * p_.panel_values(),
              bias_ + at,
              slope_ + at,
              residual ? residual->ptr<Bf16>() + col : nullptr,
              static_cast<std::byte*>(y.data) + col * (half ? 2 : 4),
              residual ? pixel_step(*residual) : 0,
              pixel_step(y),
              std::min(y.size(1) - col, block_columns)};
    }
    return {};
  }

  template <int R, int C>
  void multiply(std::int64_t tile, const Bf16* b, Between& between) const {
    const PackedPlan& p = p_.rows;
    const std::int64_t tap_values = p.tap_steps * tile_values, panel = p_.panel_values();
    zero_tiles<R, C>();
    if (p.way == Way::lines) {
      for (std::int64_t ky = 0; ky < p.s.kh; ++ky)
        for (std::int64_t kx = 0; kx < p.s.kw; ++kx, b += tap_values) {
          const Bf16 *a0 = rows_.under(tile, ky, kx), *a1 = R > 1 ? rows_.under(tile + 1, ky, kx) : nullptr;
          if (a0 || a1) add_product<R, C>(p.tap_steps, a0 ? a0 : zeros_, a1 ? a1 : zeros_, a0 ? tile_values : 0, a1 ? tile_values : 0, 64, b, panel, between);
        }
      return;
    }
    const Tiles a = rows_.at(tile);
    if (p.way != Way::grid) return add_product<R, C>(p.tap_steps, a.data, a.data + a.tile, a.step, a.step, a.line, b, panel, between);
    for (std::int64_t ky = 0; ky < p.s.kh; ++ky)
      for (std::int64_t kx = 0; kx < p.s.kw; ++kx, b += tap_values) {
        const Bf16* from = a.data + rows_.tap_offset(ky, kx);
        add_product<R, C>(p.tap_steps, from, from + a.tile, a.step, a.step, a.line, b, panel, between);
      }
  }

  const KernelArgs& a_;
  const ProductPlan& p_;
  const PackedRows<T>& rows_;
  const Bf16* weights_;
  const float *bias_, *slope_;
  const Bf16* zeros_;
  const std::int64_t* pixels_;
  std::int64_t tiles_, blocks_;
  bool rows_first_;  // all columns of a block of rows, then the next: long f32 rows lie in memory, not in a cache, and are written faster as a whole
  std::int64_t row_shares_;
};

// Outputs that are not all pixels of y: pixel (r, q) of each picture of rows x cols is (r * step_y + first_y, q * step_x + first_x) of one of h x w.
struct OutputLattice {
  std::int64_t rows, cols, h, w, step_y, first_y, step_x, first_x;
  void map(std::int64_t* pixels, std::int64_t count) const {
    const double per_row = 1 / static_cast<double>(cols), per_picture = 1 / static_cast<double>(rows);
    for (std::int64_t i = 0; i < count; ++i) {
      if (pixels[i] < 0) continue;
      const auto line = static_cast<std::int64_t>((static_cast<double>(pixels[i]) + .5) * per_row), n = static_cast<std::int64_t>((static_cast<double>(line) + .5) * per_picture);
      pixels[i] = (n * h + (line - n * rows) * step_y + first_y) * w + (pixels[i] - line * cols) * step_x + first_x;
    }
  }
};

// The whole convolution. `weights`: [panel][tap][step][16 pairs][16][2]. `workspace`: the plan's bytes(). With a lattice the outputs have its rows and columns, and
// y's memory is that of the whole map.
template <class T>
void run_product(const KernelArgs& a, const ProductPlan& p, const Bf16* weights, void* workspace, const OutputLattice* lattice = nullptr) {
  auto* bias = static_cast<float*>(workspace);
  float* slope = bias + p.column_floats();
  auto* rows = reinterpret_cast<Bf16*>(slope + p.column_floats());
  Bf16* zeros = rows + p.row_values();
  auto* pixels = reinterpret_cast<std::int64_t*>(zeros + tile_values);
  std::fill_n(zeros, tile_values, Bf16{0});
  std::fill_n(bias, 2 * p.column_floats(), 0.f);
  const PackedExtras extras = packed_extras(a);
  std::int64_t channel = 0, at = 0;
  for (const View& y : a.out) {
    if (extras.bias) std::copy_n(extras.bias + channel, y.size(1), bias + at);
    if (extras.slope) std::copy_n(extras.slope + channel, y.size(1), slope + at);
    channel += y.size(1);
    at += tiles_of(y.size(1)) * tile_size;
  }
  for (std::int64_t first = 0; first < p.rows.units; first += p.rows.at_once) {
    const PackedRows<T> group(p.rows, a.in[0], first, std::min(p.rows.at_once, p.rows.units - first), rows, pixels);
    group.make();
    if (lattice) lattice->map(pixels, group.tiles() * tile_size);
    Product<T>(a, p, group, weights, bias, slope, zeros, pixels).run();
  }
}

}  // namespace mien::MIEN_LEVEL
