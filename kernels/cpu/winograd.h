// 3x3 convolution with stride 1 by Winograd, channels_last, f32: F(4x4, 3x3) (kernels/winograd.h), and F(3x3, 3x3) for maps that it divides better.
//
// Note [How it runs]: output patches of 4x4 or 3x3, across all pictures, are cut into blocks. A block transforms its input once, [product][patch][C], which
// stays in L2; then for each pair of panels the 36 or 25 products are made by the tiles of panel_tile.h, [product][patch][32], and turned into finished pixels
// before the next pair. A patch is computed alike in whatever block it stands: cutting changes no bit.
#pragma once

#include "mien/kernels/cpu/panel_tile.h"
#include "mien/kernels/cpu/scratch.h"
#include "mien/kernels/cpu/winograd_forms.h"

namespace mien::MIEN_LEVEL {

struct WinogradSizes {
  std::int64_t n, h, w, c;             // input
  std::int64_t oh, ow;                 // output
  std::int64_t top, left;              // padding
  std::int64_t panels;                 // of 16 outputs
};

namespace winograd_detail {

inline constexpr std::int64_t tile_cols = tile_panels * panel_cols;
inline constexpr std::int64_t block_floats = 256 * 1024;  // of a block's transformed input and products
inline constexpr std::int64_t least_tiles = 2, most_tiles = 4;  // of a product

template <class F>
std::int64_t patches_y(const WinogradSizes& s) { return ceil_div(s.oh, F::outputs); }
template <class F>
std::int64_t patches_x(const WinogradSizes& s) { return ceil_div(s.ow, F::outputs); }
template <class F>
std::int64_t patches(const WinogradSizes& s) { return s.n * patches_y<F>(s) * patches_x<F>(s); }

// Patches that are made together, and how they lie.
struct Block {
  std::int64_t patches;
  std::int64_t input_step, product_step;  // between two products, in floats; not a power of two: they would meet in the same sets of the cache
  std::int64_t floats;
};
template <class F>
Block block_of(std::int64_t patches, std::int64_t channels) {
  const std::int64_t input = patches * channels + 16, product = patches * tile_cols + 16;
  return {patches, input, product, round_up(F::products * (input + product), 16)};
}
template <class F>
std::int64_t most_patches(std::int64_t channels) {
  const std::int64_t room = block_floats / (F::products * (channels + tile_cols));
  return std::clamp<std::int64_t>(room / tile_rows, least_tiles, most_tiles) * tile_rows;
}

// How all patches are cut into blocks. Sizes alone decide.
struct Cut {
  Block block;
  std::int64_t blocks;
  std::int64_t shares_of_panels;  // too few blocks for the threads: the panels are dealt out as well
};
template <class F>
Cut cut_of(const WinogradSizes& s) {
  const std::int64_t all = patches<F>(s), even = ceil_div(all, ceil_div(all, most_patches<F>(s.c)));
  Cut cut{block_of<F>(std::min(all, round_up(even, tile_rows)), s.c), 0, 0};
  cut.blocks = ceil_div(all, cut.block.patches);
  cut.shares_of_panels = cut.blocks >= 8 ? 1 : std::min(ceil_div(s.panels, tile_panels), ceil_div(8, cut.blocks));
  return cut;
}

constexpr float no_bias[panel_cols] = {};
// Where a panel of y goes, pixels `step` floats apart. bias: null, or a value for each column.
inline PanelOut plain_panel(std::int64_t panel, float* y, std::int64_t step, std::int64_t cols, const float* bias) {
  const std::int64_t column = panel * panel_cols;
  PanelOut o{};
  o.y = y + column, o.step = step, o.cols = std::min<std::int64_t>(panel_cols, cols - column), o.bias = bias ? bias + column : no_bias;
  return o;
}
struct Patch {
  std::int64_t image, y, x;  // first output pixel
};
template <class F>
Patch patch_at(const WinogradSizes& s, std::int64_t index) {
  const std::int64_t columns = patches_x<F>(s), row = index / columns;
  return {row / patches_y<F>(s), row % patches_y<F>(s) * F::outputs, index % columns * F::outputs};
}

// x: pixels `pixel` floats apart. zeros: at least C of them.
template <class F>
void transform_input(const WinogradSizes& s, const float* x, std::int64_t pixel, const Patch& at, const float* zeros, float* to, std::int64_t step) {
  constexpr int side = F::side;
  const float* from[side][side];
  for (std::int64_t i = 0; i < side; ++i) {
    const std::int64_t y = at.y - s.top + i;
    const float* row = x + ((at.image * s.h + y) * s.w + at.x - s.left) * pixel;
    for (std::int64_t j = 0; j < side; ++j) {
      const std::int64_t column = at.x - s.left + j;
      from[i][j] = y >= 0 && y < s.h && column >= 0 && column < s.w ? row + j * pixel : zeros;
    }
  }
  const auto put = [&](std::int64_t c) { return [=](int i, int j, Vec v) { Store(v, to + (i * side + j) * step + c); }; };
  std::int64_t c = 0;
  for (; c + lanes <= s.c; c += lanes) both_axes<side, side>(F::input, [&](int i, int j) { return Load(from[i][j] + c); }, put(c));
  // Past the last channel zeros go where the next patch begins, which is written later.
  if (c < s.c) both_axes<side, side>(F::input, [&](int i, int j) { return LoadFirst(from[i][j] + c, s.c - c); }, put(c));
}

// One vector of a patch's outputs, finished. `part`: only the first `width` lanes.
template <class F, bool PART>
void transform_output(const float* products, std::int64_t step, const PanelOut& o, std::int64_t at, std::int64_t width, std::int64_t row_pixels, std::int64_t rows,
                             std::int64_t cols) {
  const auto load = [=](const float* p) { return PART ? LoadFirst(p, width) : Load(p); };
  const Vec bias = load(o.bias + at), slope = o.slope ? load(o.slope + at) : Set(0);
  both_axes<F::side, F::outputs>(F::output, [&](int i, int j) { return Load(products + (i * F::side + j) * step); },
                  [&](int i, int j, Vec y) {
                    if (i >= rows || j >= cols) return;
                    const std::int64_t pixel = i * row_pixels + j;
                    Vec v = Add(y, bias);
                    if (o.residual) v = Add(v, load(o.residual + pixel * o.residual_step + at));
                    v = panel_tile_detail::activated(v, o, slope);
                    if (PART) StoreFirst(v, o.y + pixel * o.step + at, width);
                    else Store(v, o.y + pixel * o.step + at);
                  });
}

// A gY A^T of one patch and one vector of channels, zeros past the map. PART: only the first `width` lanes.
template <class F, bool PART>
void transform_gradient(const float* gy, std::int64_t row_step, std::int64_t pixel, std::int64_t rows, std::int64_t cols, std::int64_t width, float* to, std::int64_t step) {
  both_axes<F::outputs, F::side>(F::gradient,
                                 [&](int i, int j) {
                                   const float* from = gy + i * row_step + j * pixel;
                                   return i >= rows || j >= cols ? Set(0) : PART ? LoadFirst(from, width) : Load(from);
                                 },
                                 [&](int i, int j, Vec v) {
                                   if (PART) StoreFirst(v, to + (i * F::side + j) * step, width);
                                   else Store(v, to + (i * F::side + j) * step);
                                 });
}

// Panels [panel, end) of the patches [first, first + count), whose transformed input lies at `input`.
template <class F, class OutOf>
void finish_block(const WinogradSizes& s, const Block& block, std::int64_t first, std::int64_t count, const float* input, std::int64_t panel, std::int64_t end, const float* weights,
                  const OutOf& out_of, float* products) {
  const std::int64_t product_floats = s.c * panel_cols, panel_floats = F::products * product_floats, tiles = ceil_div(count, tile_rows);
  const std::int64_t zero = 0;
  const Segments segment{&zero, 1, s.c};
  std::int64_t begin_of[most_tiles + 1];
  for (std::int64_t t = 0; t <= tiles; ++t) begin_of[t] = count * t / tiles;
  for (; panel < end; panel += tile_panels) {
    const std::int64_t panels = std::min<std::int64_t>(tile_panels, end - panel);
    const float* right = weights + panel * panel_floats;
    // The tiles of a product fetch the panels of the next one.
    Ahead next[most_tiles];
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t mine = t % panels, parts = ceil_div(tiles - mine, panels), bytes = ceil_div(4 * product_floats, parts), step = ceil_div(bytes * fetch_every, s.c);
      next[t] = {reinterpret_cast<const char*>(right + product_floats + mine * panel_floats) + t / panels * bytes, step, step > 64 ? step / 2 : 0};
    }
    for (std::int64_t k = 0; k < F::products; ++k, right += product_floats)
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t at = begin_of[t], rows = begin_of[t + 1] - at;
        PanelOut out[2];
        for (std::int64_t i = 0; i < panels; ++i) {
          out[i] = {};
          out[i].y = products + k * block.product_step + at * tile_cols + i * panel_cols;
          out[i].step = tile_cols;
          out[i].cols = panel_cols;
          out[i].bias = no_bias;
        }
        tile_kernel_of(rows, panels, tiles == 1)(left_rows(input + k * block.input_step + at * s.c, s.c), segment, right, panel_floats, out, next[t]);
        next[t].data += 4 * product_floats;
      }
    for (std::int64_t i = 0; i < panels; ++i) {
      const PanelOut whole = out_of(panel + i);
      for (std::int64_t t = 0; t < count; ++t) {
        const Patch patch = patch_at<F>(s, first + t);
        const std::int64_t start = (patch.image * s.oh + patch.y) * s.ow + patch.x, rows = s.oh - patch.y, cols = s.ow - patch.x;
        const PanelOut o = moved(whole, start);
        const float* from = products + t * tile_cols + i * panel_cols;
        for (std::int64_t at = 0; at < o.cols; at += lanes) {
          const std::int64_t width = o.cols - at;
          if (width >= lanes) transform_output<F, false>(from + at, block.product_step, o, at, lanes, s.ow, rows, cols);
          else transform_output<F, true>(from + at, block.product_step, o, at, width, s.ow, rows, cols);
        }
      }
    }
  }
}

}  // namespace winograd_detail

// 3x3 weights as they lie: w[column * col + row * i + tap * j + channel * c]; negative steps turn the kernel.
struct WinogradWeights {
  const float* data;
  std::int64_t cols, channels;
  std::int64_t col, row, tap, channel;
  std::int64_t panels() const { return ceil_div(cols, panel_cols); }
};
template <class F>
std::int64_t winograd_weight_floats(std::int64_t cols, std::int64_t channels) { return ceil_div(cols, panel_cols) * F::products * channels * panel_cols; }
// G g G^T in panels: [panel][product][channel][16].
template <class F>
void pack_winograd(const WinogradWeights& w, float* out) {
  parallel_for(w.panels(), 1, [&](std::int64_t panel, std::int64_t) {
    float* to = out + panel * F::products * w.channels * panel_cols;
    const float* first = w.data + panel * panel_cols * w.col;
    const std::int64_t full = std::min<std::int64_t>(panel_cols, w.cols - panel * panel_cols), step = w.channels * panel_cols;
    for (std::int64_t c = 0; c < w.channels; ++c, to += panel_cols) {
      float taps[3][3][panel_cols] = {};
      for (std::int64_t t = 0; t < full; ++t)
        for (std::int64_t i = 0; i < 3; ++i)
          for (std::int64_t j = 0; j < 3; ++j) taps[i][j][t] = first[t * w.col + c * w.channel + i * w.row + j * w.tap];
      for (std::int64_t t = 0; t < panel_cols; t += lanes) {
        Vec g[3][3], u[F::side][F::side];
        for (int k = 0; k < 9; ++k) g[k / 3][k % 3] = Load(taps[k / 3][k % 3] + t);
        winograd_kernel<F>(g, u);
        for (int k = 0; k < F::products; ++k) Store(u[k / F::side][k % F::side], to + k * step + t);
      }
    }
  });
}

template <class F>
std::int64_t winograd_floats(const WinogradSizes& s) {
  const winograd_detail::Cut cut = winograd_detail::cut_of<F>(s);
  return round_up(s.c, 16) + shares_of(cut.blocks * cut.shares_of_panels) * cut.block.floats;
}

// x: pixels `pixel` floats apart, pictures dense. weights: pack_winograd's. out_of(panel): where the panel goes, for the first pixel of the first picture.
// workspace: winograd_floats(s).
template <class F, class OutOf>
void run_winograd(const WinogradSizes& s, const float* x, std::int64_t pixel, const float* weights, const OutOf& out_of, float* workspace) {
  using namespace winograd_detail;
  const Cut cut = cut_of<F>(s);
  float *zeros = workspace, *scratch = workspace + round_up(s.c, 16);
  std::fill_n(zeros, s.c, 0.f);
  const std::int64_t all = patches<F>(s), pairs = ceil_div(s.panels, tile_panels);
  ScratchSlots slots(shares_of(cut.blocks * cut.shares_of_panels));
  for_shares(cut.blocks * cut.shares_of_panels, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *input = scratch + slot.number() * cut.block.floats, *products = input + F::products * cut.block.input_step;
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t part = item % cut.shares_of_panels, first = item / cut.shares_of_panels * cut.block.patches, count = std::min(cut.block.patches, all - first);
      if (part == 0 || item == begin)
        for (std::int64_t t = 0; t < count; ++t) transform_input<F>(s, x, pixel, patch_at<F>(s, first + t), zeros, input + t * s.c, cut.block.input_step);
      const auto panel_at = [&](std::int64_t of) { return std::min(s.panels, pairs * of / cut.shares_of_panels * tile_panels); };
      finish_block<F>(s, cut.block, first, count, input, panel_at(part), panel_at(part + 1), weights, out_of, products);
    }
  });
}

}  // namespace mien::MIEN_LEVEL
