// Convolution in channels_last as a matrix product whose rows are pixels: Y[pixels, O] = X[pixels, K] * W[K, O], K = kh * kw * C.
//   flat:      a 1x1 convolution; X is the picture itself
//   direct:    pixels of one output row at a time. The window's rows are runs of kw * C values that lie one after the other in the picture, so nothing is
//              gathered; a padded picture is first copied, band by band, with its zeros around it
//   images:    small maps of many pictures: the same pixel of some pictures at a time. What the window sees of the zeros around the picture is left out, which
//              is a fifth of the sum of a 7x1 on 8x8; nothing is copied
//   gathered:  output rows too short for a tile, few pictures: X is written out
// 3x3 convolutions of many channels with stride 1 go by Winograd's F(4x4, 3x3) instead (winograd.h).
// grad_input is the same product on gy with turned weights. A stride makes it one such product for each phase of the picture (rows and columns modulo the
// stride): a phase sees every stride-th tap only.
#include <numeric>

#include "mien/kernels/cpu/conv_gather.h"
#include "mien/kernels/cpu/row_gemm.h"
#include "mien/kernels/cpu/scratch.h"
#include "mien/kernels/cpu/winograd.h"

namespace mien::MIEN_LEVEL {
namespace {

// B(k, col) in panels of `lanes` columns, [k][column], k = (i, j, c). Strides of the weights: column, c, i, j.
struct Weights {
  const float* data;
  std::int64_t cols, col, c, i, j;
};
std::int64_t packed_floats(std::int64_t depth, std::int64_t cols) { return depth * round_up(cols, lanes); }
void pack_weights(const Weights& w, std::int64_t kh, std::int64_t kw, std::int64_t channels, float* out) {
  const std::int64_t panels = (w.cols + lanes - 1) / lanes, depth = kh * kw * channels;
  parallel_for(panels, 1, [&](std::int64_t panel, std::int64_t) {
    float* to = out + panel * depth * lanes;
    const std::int64_t full = std::min<std::int64_t>(lanes, w.cols - panel * lanes);
    const float* first = w.data + panel * lanes * w.col;
    if (w.c < w.col) {  // the weights run along k: a few k at a time, whose lines stay in the first cache while all columns are read
      constexpr std::int64_t some = 32;
      for (std::int64_t c0 = 0; c0 < channels; c0 += some)
        for (std::int64_t tap = 0; tap < kh * kw; ++tap) {
          const float* from = first + tap / kw * w.i + tap % kw * w.j;
          for (std::int64_t c = c0; c < std::min(channels, c0 + some); ++c) {
            float* row = to + (tap * channels + c) * lanes;
            for (std::int64_t t = 0; t < full; ++t) row[t] = from[t * w.col + c * w.c];
            for (std::int64_t t = full; t < lanes; ++t) row[t] = 0;
          }
        }
      return;
    }
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t tap = 0; tap < kh * kw; ++tap) {
        const float* from = first + c * w.c + tap / kw * w.i + tap % kw * w.j;
        float* row = to + (tap * channels + c) * lanes;
        if (w.col == 1) {
          Store(full == lanes ? Load(from) : LoadFirst(from, full), row);
          continue;
        }
        for (std::int64_t t = 0; t < full; ++t) row[t] = from[t * w.col];
        for (std::int64_t t = full; t < lanes; ++t) row[t] = 0;
      }
  });
}

// Where the outputs lie.
struct Target {
  float* y;
  std::int64_t pixel, row, image;
};

// How one product is cut up: bands of output pixels whose inputs stay in the second cache, tiles of pixels whose sums stay in registers. Sizes alone decide.
enum class Way { flat, direct, images, gathered };
struct Plan {
  ConvSizes s;
  Way way = Way::direct;
  bool padded = false;
  std::int64_t pixels = 0;                // of a band, flat and gathered
  std::int64_t images = 1, rows = 1;      // output rows of a band, direct: all of some pictures, or some of one; images: pictures of a band
  std::int64_t in_rows = 0, in_cols = 0;  // what they read of each picture
  std::int64_t bands = 1, columns = 1;    // a share of the work is a band and a part of the columns
  std::int64_t tile_rows = 1, vectors = 1;
  // Distance of gathered rows: no power of two, or all rows meet in the same few sets of the cache.
  std::int64_t step() const { return way == Way::gathered ? round_up(s.depth(), lanes) + lanes : s.c; }
  std::int64_t copy_floats() const {
    if (way == Way::gathered) return pixels * step();
    return padded ? round_up(images * in_rows * in_cols * s.c, lanes) : 0;
  }
};
constexpr std::int64_t most_pixels = 512;

// Whether an output row cut into even tiles leaves more than a quarter of their rows empty. Windows are written out then, if the products for all output
// channels outweigh that by far.
bool wastes_rows(std::int64_t ow) { return 4 * ow < 3 * ceil_div(ow, most_rows) * most_rows; }

// Whether the map is small enough, and the pictures are enough, for tiles of one pixel of each.
bool by_images(const ConvSizes& s) { return s.oh * s.ow <= 100 && !wastes_rows(s.n); }

Plan plan_of(const ConvSizes& s, bool dense_output) {
  Plan p;
  p.s = s;
  if (s.pointwise() && dense_output) p.way = Way::flat;
  else if (by_images(s)) p.way = Way::images;
  else if (dense_output && (s.ow < few_rows || (wastes_rows(s.ow) && s.o >= 256))) p.way = Way::gathered;
  if (p.way == Way::images) {
    p.bands = ceil_div(s.n, most_rows);
    p.images = p.tile_rows = ceil_div(s.n, p.bands);
  } else if (p.way != Way::direct) {
    const std::int64_t at_once = std::clamp<std::int64_t>(cache_floats / p.step(), 8 * most_rows, most_pixels);
    p.pixels = round_up(ceil_div(s.pixels(), ceil_div(s.pixels(), at_once)), most_rows);
    p.bands = ceil_div(s.pixels(), p.pixels);
    p.tile_rows = most_rows;
  } else {
    p.tile_rows = ceil_div(s.ow, ceil_div(s.ow, most_rows));
    p.in_cols = (s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1;
    p.padded = s.ph > 0 || s.pw > 0 || (s.oh - 1) * s.sh - s.ph + (s.kh - 1) * s.dh >= s.h || p.in_cols - s.pw > s.w;
    const std::int64_t wanted = std::clamp<std::int64_t>(cache_floats / (p.in_cols * s.sh * s.c), 1, ceil_div(most_pixels, s.ow));
    const RowBlocks blocks = row_blocks(s, wanted);
    p.images = blocks.images;
    p.rows = blocks.rows;
    p.bands = blocks.count;
    p.in_rows = (p.rows - 1) * s.sh + (s.kh - 1) * s.dh + 1;
  }
  const std::int64_t panels = ceil_div(s.o, lanes);
  p.vectors = std::min<std::int64_t>(vectors_for(p.tile_rows), panels);
  p.vectors = ceil_div(panels, ceil_div(panels, p.vectors));
  p.columns = std::min(ceil_div(panels, p.vectors), std::max<std::int64_t>(1, 8 / p.bands));
  return p;
}

// Rows [y0, y0 + rows) of one picture from column x0, with zeros outside.
void copy_padded(const float* picture, const ConvSizes& s, std::int64_t y0, std::int64_t x0, std::int64_t rows, std::int64_t cols, float* out) {
  const std::int64_t low = std::clamp<std::int64_t>(-x0, 0, cols), high = std::clamp<std::int64_t>(s.w - x0, low, cols);
  for (std::int64_t y = y0; y < y0 + rows; ++y, out += cols * s.c) {
    if (y < 0 || y >= s.h) {
      std::fill_n(out, cols * s.c, 0.f);
      continue;
    }
    std::fill_n(out, low * s.c, 0.f);
    std::copy_n(picture + (y * s.w + x0 + low) * s.c, (high - low) * s.c, out + low * s.c);
    std::fill_n(out + high * s.c, (cols - high) * s.c, 0.f);
  }
}

struct Product {
  Plan plan;
  const float *x, *packed, *bias;  // bias padded to whole vectors, or null
  Target target;
  Start start = Start::zero;  // without a bias; flat
};
constexpr std::int64_t most_runs = 64;  // taps of a window that are not one run; larger windows are left to conv.cpp

// The runs of a window: its rows where they lie densely, otherwise its taps.
std::int64_t run_count(const ConvSizes& s) { return s.dw == 1 ? s.kh : s.taps(); }

// All tiles of a band of pixels, or of output rows, and the vectors of columns [first, last).
void flat_band(const Product& q, const float* left, std::int64_t pixel, std::int64_t count, std::int64_t first, std::int64_t last) {
  const Plan& p = q.plan;
  const std::int64_t depth = p.s.depth(), zero = 0, tiles = ceil_div(count, p.tile_rows);
  for (std::int64_t v = first; v < last; v += p.vectors) {
    const std::int64_t cols = std::min(p.s.o, std::min(v + p.vectors, last) * lanes) - v * lanes;
    const Right right{q.packed + v * depth * lanes, lanes, depth * lanes};
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t at = count * t / tiles, rows = count * (t + 1) / tiles - at;
      Tile tile{q.target.y + (pixel + at) * p.s.o + v * lanes, p.s.o, rows, cols, q.start};
      if (q.bias) tile.start = Start::column_bias, tile.bias = q.bias + v * lanes;
      row_tile<false>({1, depth, &zero, &zero}, {left + at * p.step(), p.step(), 1}, right, tile);
    }
  }
}

void direct_band(const Product& q, std::int64_t band, float* copy, std::int64_t first, std::int64_t last) {
  const Plan& p = q.plan;
  const ConvSizes& s = p.s;
  const std::int64_t per_image = p.images > 1 ? 1 : ceil_div(s.oh, p.rows), image = p.images > 1 ? band * p.images : band / per_image,
                     images = std::min(p.images, s.n - image), oy = band % per_image * p.rows, rows = std::min(p.rows, s.oh - oy);
  const std::int64_t in_rows = (rows - 1) * s.sh + (s.kh - 1) * s.dh + 1, width = p.padded ? p.in_cols : s.w, picture = s.h * s.w * s.c;
  const float* input = p.padded ? copy : q.x + image * picture + ((oy * s.sh - s.ph) * s.w - s.pw) * s.c;
  if (p.padded)
    for (std::int64_t n = 0; n < images; ++n) copy_padded(q.x + (image + n) * picture, s, oy * s.sh - s.ph, -s.pw, in_rows, width, copy + n * in_rows * width * s.c);
  const std::int64_t image_step = p.padded ? in_rows * width * s.c : picture;
  std::int64_t left[most_runs], right[most_runs];
  const std::int64_t count = run_count(s), length = s.depth() / count;
  for (std::int64_t r = 0; r < count; ++r) {
    left[r] = count == s.kh ? r * s.dh * width * s.c : (r / s.kw * s.dh * width + r % s.kw * s.dw) * s.c;
    right[r] = r * length * lanes;
  }
  const std::int64_t tiles = ceil_div(s.ow, p.tile_rows);
  for (std::int64_t v = first; v < last; v += p.vectors) {
    const std::int64_t cols = std::min(s.o, std::min(v + p.vectors, last) * lanes) - v * lanes;
    const Right b{q.packed + v * s.depth() * lanes, lanes, s.depth() * lanes};
    for (std::int64_t n = 0; n < images; ++n)
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t t = 0; t < tiles; ++t) {
          const std::int64_t at = s.ow * t / tiles;
          Tile tile{q.target.y + (image + n) * q.target.image + (oy + r) * q.target.row + at * q.target.pixel + v * lanes, q.target.pixel, s.ow * (t + 1) / tiles - at, cols};
          if (q.bias) tile.start = Start::column_bias, tile.bias = q.bias + v * lanes;
          row_tile<false>({count, length, left, right}, {input + n * image_step + (r * s.sh * width + at * s.sw) * s.c, s.sw * s.c, 1}, b, tile);
        }
  }
}

void images_band(const Product& q, std::int64_t band, std::int64_t first, std::int64_t last) {
  const Plan& p = q.plan;
  const ConvSizes& s = p.s;
  const std::int64_t image = s.n * band / p.bands, images = s.n * (band + 1) / p.bands - image, picture = s.h * s.w * s.c;
  std::int64_t left[most_runs], right[most_runs];
  for (std::int64_t v = first; v < last; v += p.vectors) {
    const std::int64_t cols = std::min(s.o, std::min(v + p.vectors, last) * lanes) - v * lanes;
    const Right b{q.packed + v * s.depth() * lanes, lanes, s.depth() * lanes};
    for (std::int64_t oy = 0; oy < s.oh; ++oy)
      for (std::int64_t ox = 0; ox < s.ow; ++ox) {
        const std::int64_t y = oy * s.sh - s.ph, x = ox * s.sw - s.pw;
        const Seen i(y, s.h, s.kh, s.dh), j(x, s.w, s.kw, s.dw);
        const std::int64_t at_once = s.dw == 1 ? std::max<std::int64_t>(1, j.count()) : 1;  // taps of a row that lie side by side
        std::int64_t runs = 0;
        for (std::int64_t r = i.first; r < i.last; ++r)
          for (std::int64_t t = j.first; t < j.last; t += at_once, ++runs) {
            left[runs] = ((y + r * s.dh) * s.w + x + t * s.dw) * s.c;
            right[runs] = (r * s.kw + t) * s.c * lanes;
          }
        Tile tile{q.target.y + image * q.target.image + oy * q.target.row + ox * q.target.pixel + v * lanes, q.target.image, images, cols};
        if (q.bias) tile.start = Start::column_bias, tile.bias = q.bias + v * lanes;
        row_tile<false>({runs, at_once * s.c, left, right}, {q.x + image * picture, picture, 1}, b, tile);
      }
  }
}

void run_product(const Product& q, float* copies) {
  const Plan& p = q.plan;
  const std::int64_t panels = ceil_div(p.s.o, lanes);
  ScratchSlots slots(max_shares);
  for_shares(p.bands * p.columns, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float* copy = copies + slot.number() * p.copy_floats();
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t band = item % p.bands, part = item / p.bands, groups = ceil_div(panels, p.vectors);
      const std::int64_t first = groups * part / p.columns * p.vectors, last = std::min(panels, groups * (part + 1) / p.columns * p.vectors);
      if (p.way == Way::direct) {
        direct_band(q, band, copy, first, last);
        continue;
      }
      if (p.way == Way::images) {
        images_band(q, band, first, last);
        continue;
      }
      const std::int64_t pixel = band * p.pixels, count = std::min(p.pixels, p.s.pixels() - pixel);
      if (p.way == Way::gathered) gather_rows(q.x, p.s, pixel, count, copy, p.step());
      flat_band(q, p.way == Way::gathered ? copy : q.x + pixel * p.s.c, pixel, count, first, last);
    }
  });
}

WinogradSizes winograd_sizes(const ConvSizes& s) { return {s.n, s.h, s.w, s.c, s.oh, s.ow, s.ph, s.pw, ceil_div(s.o, panel_cols)}; }

std::int64_t product_floats(const ConvSizes& s, bool dense_output) {
  if (dense_output && by_winograd(s)) return round_up(s.o, panel_cols) + winograd_weight_floats<WinogradFour>(s.o, s.c) + winograd_floats<WinogradFour>(winograd_sizes(s));
  return packed_floats(s.depth(), s.o) + round_up(s.o, lanes) + max_shares * plan_of(s, dense_output).copy_floats();
}
void product(const float* x, const ConvSizes& s, const Weights& w, const float* bias, const Target& target, bool dense_output, float* workspace, Start start = Start::zero) {
  if (dense_output && by_winograd(s)) {
    float *all_bias = workspace, *packed = all_bias + round_up(s.o, panel_cols);
    std::fill_n(all_bias, round_up(s.o, panel_cols), 0.f);
    if (bias) std::copy_n(bias, s.o, all_bias);
    pack_winograd<WinogradFour>({w.data, w.cols, s.c, w.col, w.i, w.j, w.c}, packed);
    const auto out_of = [&](std::int64_t panel) { return winograd_detail::plain_panel(panel, target.y, target.pixel, s.o, all_bias); };
    return run_winograd<WinogradFour>(winograd_sizes(s), x, s.c, packed, out_of, packed + winograd_weight_floats<WinogradFour>(s.o, s.c));
  }
  float *padded_bias = workspace + packed_floats(s.depth(), s.o), *copies = padded_bias + round_up(s.o, lanes);
  pack_weights(w, s.kh, s.kw, s.c, workspace);
  if (bias) {
    std::fill_n(padded_bias, round_up(s.o, lanes), 0.f);
    std::copy_n(bias, s.o, padded_bias);
  }
  run_product({plan_of(s, dense_output), x, workspace, bias ? padded_bias : nullptr, target, start}, copies);
}
Target dense_target(float* y, const ConvSizes& s) { return {y, s.o, s.ow * s.o, s.oh * s.ow * s.o}; }

const char* decline(const KernelArgs& a, const View& x, const View& y) {
  if (!all_f32(a)) return "f32 only";
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (!x.is_channels_last() || !y.is_channels_last()) return "not channels_last";
  return x.numel() > 0 && y.numel() > 0 ? nullptr : "empty";
}
const char* decline_window(const View& w) { return w.size(2) * w.size(3) > most_runs ? "a window of more than 64 taps" : nullptr; }

// --- forward ---------------------------------------------------------------------------------------------------------
ConvSizes forward_sizes(const KernelArgs& a) { return conv_sizes(a.in[0], a.in[1], a.out[0], a.get<ConvParams>()); }
void run_forward(const KernelArgs& a) {
  const View& w = a.in[1];
  const ConvSizes s = forward_sizes(a);
  product(a.in[0].ptr<float>(), s, {w.ptr<float>(), w.size(0), w.stride(0), w.stride(1), w.stride(2), w.stride(3)}, a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr,
          dense_target(a.out[0].ptr<float>(), s), true, static_cast<float*>(a.workspace));
}
std::int64_t forward_workspace(const KernelArgs& a) { return 4 * product_floats(forward_sizes(a), true); }
const char* decline_forward(const KernelArgs& a) {
  if (strided_bias(a)) return "the bias is strided";
  if (const char* reason = decline_window(a.in[1])) return reason;
  return decline(a, a.in[0], a.out[0]);
}

// --- gradient of the input -------------------------------------------------------------------------------------------
// Along one axis, the positions of gx that are `phase` modulo the stride. y + padding = i * dilation + oy * stride: position y sees the taps
// i = first + m * step for which that has a whole oy, and oy falls by `fall` from tap to tap.
struct Phase {
  std::int64_t positions, first, taps, step, fall, oy;  // oy: of position 0 of the phase and its first tap
};
Phase phase_of(std::int64_t phase, std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  const std::int64_t common = std::gcd(stride, dilation);
  Phase f{(size - phase + stride - 1) / stride, 0, 0, stride / common, dilation / common, 0};
  while (f.first < kernel && (phase + padding - f.first * dilation) % stride != 0) ++f.first;
  f.taps = f.first < kernel ? (kernel - f.first + f.step - 1) / f.step : 0;
  f.oy = (phase + padding - f.first * dilation) / stride;
  return f;
}

// gx of one phase: a convolution of gy, stride 1, with every step-th tap in turned order.
struct PhaseProduct {
  ConvSizes s;
  Weights w;
  Target target;
};
PhaseProduct phase_product(const KernelArgs& a, std::int64_t py, std::int64_t px) {
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  const auto& p = a.get<ConvParams>();
  const Phase v = phase_of(py, gx.size(2), w.size(2), p.stride[0], p.padding[0], p.dilation[0]), h = phase_of(px, gx.size(3), w.size(3), p.stride[1], p.padding[2], p.dilation[1]);
  const ConvSizes s{gy.size(0), gy.size(2), gy.size(3), gy.size(1), v.positions, h.positions, gx.size(1), v.taps, h.taps, 1, 1,
                    (v.taps - 1) * v.fall - v.oy, (h.taps - 1) * h.fall - h.oy, v.fall, h.fall};
  const float* last = w.ptr<float>() + (v.first + (v.taps - 1) * v.step) * w.stride(2) + (h.first + (h.taps - 1) * h.step) * w.stride(3);
  const std::int64_t channels = gx.size(1), width = gx.size(3);
  return {s,
          {last, channels, w.stride(1), w.stride(0), -v.step * w.stride(2), -h.step * w.stride(3)},
          {gx.ptr<float>() + (py * width + px) * channels, p.stride[1] * channels, p.stride[0] * width * channels, gx.size(2) * width * channels}};
}
template <class F>
void for_phases(const KernelArgs& a, const F& f) {
  const auto& p = a.get<ConvParams>();
  for (std::int64_t py = 0; py < std::min(p.stride[0], a.out[0].size(2)); ++py)
    for (std::int64_t px = 0; px < std::min(p.stride[1], a.out[0].size(3)); ++px) f(phase_product(a, py, px));
}

void run_grad_input(const KernelArgs& a) {
  const bool dense = unit_stride(a.get<ConvParams>());
  for_phases(a, [&](const PhaseProduct& f) {
    if (f.s.taps() > 0) return product(a.in[0].ptr<float>(), f.s, f.w, nullptr, f.target, dense, static_cast<float*>(a.workspace));
    for (std::int64_t n = 0; n < f.s.n; ++n)
      for (std::int64_t y = 0; y < f.s.oh; ++y)
        for (std::int64_t x = 0; x < f.s.ow; ++x) std::fill_n(f.target.y + n * f.target.image + y * f.target.row + x * f.target.pixel, f.s.o, 0.f);
  });
}
std::int64_t grad_input_workspace(const KernelArgs& a) {
  const bool dense = unit_stride(a.get<ConvParams>());
  std::int64_t floats = 0;
  for_phases(a, [&](const PhaseProduct& f) { floats = f.s.taps() > 0 ? std::max(floats, product_floats(f.s, dense)) : floats; });
  return 4 * floats;
}
const char* decline_grad_input(const KernelArgs& a) {
  if (const char* reason = decline_window(a.in[1])) return reason;
  return decline(a, a.in[0], a.out[0]);
}

// In place, or what it is added to is copied first: 1x1 convolutions only.
void run_grad_input_add(const KernelArgs& a) {
  const float* before = a.in[2].ptr<float>();
  float* sum = a.out[0].ptr<float>();
  if (before != sum) std::copy_n(before, a.out[0].numel(), sum);
  const PhaseProduct f = phase_product(a, 0, 0);
  product(a.in[0].ptr<float>(), f.s, f.w, nullptr, f.target, true, static_cast<float*>(a.workspace), Start::last);
}
const char* decline_grad_input_add(const KernelArgs& a) {
  if (const char* reason = decline(a, a.in[0], a.out[0])) return reason;
  if (!a.in[2].is_channels_last()) return "what it is added to is not channels_last";
  return conv_sizes(a.out[0], a.in[1], a.in[0], a.get<ConvParams>()).pointwise() ? nullptr : "not 1x1";
}

}  // namespace

extern const KernelEntry rows_forward{run_forward, decline_forward, forward_workspace};
extern const KernelEntry rows_grad_input{run_grad_input, decline_grad_input, grad_input_workspace};
extern const KernelEntry conv2d_grad_input_add_entry{run_grad_input_add, decline_grad_input_add, grad_input_workspace};

}  // namespace mien::MIEN_LEVEL
