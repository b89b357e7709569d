// Depthwise convolution with packed weights [tap][channel], bias, residual and activation. Lanes run along channels; up to eight neighbouring output
// pixels share each load of a weight and stay in registers until they are finished. At the edges a pixel has the taps that lie on the picture.
#include "mien/kernels/cpu/packed_conv.h"
#include "mien/kernels/cpu/simd.h"
#include "mien/kernels/cpu/windows.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t most_taps = 64;
constexpr int most_pixels = 8;

// A run of output pixels that have the same taps: x moves by `step` from pixel to pixel.
struct Run {
  const Tap* taps;
  std::int64_t count, step;
  const float *bias, *slope, *residual;  // slope and residual may be null
  float* y;
  std::int64_t y_step, residual_step;
  bool relu;
};

template <class R>  // Run or Slide
inline Vec activated(const R& r, Vec s, Vec slope) {
  if (r.slope) return prelu_of(s, slope);
  return r.relu ? Max(Set(0), s) : s;
}

// VECS vectors of channels from c on, of PIXELS pixels. `part`: only the first `width` lanes.
template <int PIXELS, int VECS, bool PART>
inline void vectors(const Run& r, std::int64_t c, std::int64_t width) {
  const auto load = [=](const float* p) { return PART ? LoadFirst(p, width) : Load(p); };
  Vec acc[PIXELS][VECS];
#pragma GCC unroll 4
  for (int v = 0; v < VECS; ++v) acc[0][v] = load(r.bias + c + v * lanes);
#pragma GCC unroll 8
  for (int p = 1; p < PIXELS; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) acc[p][v] = acc[0][v];
  const std::int64_t step = r.step;
  for (const Tap *t = r.taps, *end = t + r.count; t != end; ++t) {
    const float* x = t->x + c;
    Vec w[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) w[v] = load(t->w + c + v * lanes);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) acc[p][v] = MulAdd(load(x + p * step + v * lanes), w[v], acc[p][v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < VECS; ++v) {
    const std::int64_t at = c + v * lanes;
    const Vec slope = r.slope ? load(r.slope + at) : Set(0);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; ++p) {
      Vec s = acc[p][v];
      if (r.residual) s = Add(s, load(r.residual + p * r.residual_step + at));
      s = activated(r, s, slope);
      if constexpr (PART) StoreFirst(s, r.y + p * r.y_step + at, width);
      else Store(s, r.y + p * r.y_step + at);
    }
  }
}
template <int PIXELS>
void pixels(const Run& r, std::int64_t channels) {
  std::int64_t c = 0;
  if constexpr (PIXELS <= 2)
    for (; c + 4 * lanes <= channels; c += 4 * lanes) vectors<PIXELS, 4, false>(r, c, lanes);
  for (; c + lanes <= channels; c += lanes) vectors<PIXELS, 1, false>(r, c, lanes);
  if (c < channels) vectors<PIXELS, 1, true>(r, c, channels - c);
}
void run_pixels(const Run& r, std::int64_t count, std::int64_t channels) {
  switch (count) {
    case 1: return pixels<1>(r, channels);
    case 2: return pixels<2>(r, channels);
    case 3: return pixels<3>(r, channels);
    case 4: return pixels<4>(r, channels);
    case 5: return pixels<5>(r, channels);
    case 6: return pixels<6>(r, channels);
    case 7: return pixels<7>(r, channels);
    default: return pixels<8>(r, channels);
  }
}

// A kernel of 3x3 with stride 1 over OUTS neighbouring output rows: an input is loaded once and takes part in every sum that it belongs to.
struct Slide {
  const float *x, *weights, *bias, *slope;  // x: the first tap of the first output, also where that is off the picture
  float* y;
  std::int64_t step, row, y_step, y_row;  // from pixel to pixel and from row to row
  std::int64_t channels;
  bool relu, left, right;  // the first output has no input to its left, the last none to its right
};
constexpr std::int64_t slide_pixels = 64;  // its inputs stay in the first cache from one vector of channels to the next
constexpr int slide_rows = 2;

// One vector of channels of `count` outputs a row. Input rows [FIRST, END) of the OUTS + 2 are on the picture.
template <int FIRST, int END, int OUTS, bool PART>
inline void slide_vector(const Slide& r, std::int64_t count, std::int64_t c, std::int64_t width) {
  const auto load = [=](const float* p) { return PART ? LoadFirst(p, width) : Load(p); };
  Vec w[9];
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t) w[t] = load(r.weights + t * r.channels + c);
  const Vec bias = load(r.bias + c), slope = r.slope ? load(r.slope + c) : Set(0);
  const float* x = r.x + c + (r.left ? r.step : 0);
  float* y = r.y + c;
  Vec sum[OUTS][3];  // of three neighbours, by turns
#pragma GCC unroll 2
  for (int o = 0; o < OUTS; ++o) sum[o][0] = sum[o][1] = sum[o][2] = bias;
  // The next column of inputs is the last of one sum, in the middle of another and the first of a third.
  const auto column = [&](int last, int middle, int first) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int o = 0; o < OUTS; ++o) sum[o][first] = bias;
#pragma GCC unroll 4
    for (int i = FIRST; i < END; ++i) {
      const Vec in = load(x + i * r.row);
#pragma GCC unroll 2
      for (int o = 0; o < OUTS; ++o) {
        if (i < o || i - o > 2) continue;
        const Vec* tap = w + 3 * (i - o);
        sum[o][last] = MulAdd(in, tap[2], sum[o][last]);
        sum[o][middle] = MulAdd(in, tap[1], sum[o][middle]);
        sum[o][first] = MulAdd(in, tap[0], sum[o][first]);
      }
    }
    x += r.step;
  };
  const auto put = [&](int which) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int o = 0; o < OUTS; ++o) {
      const Vec s = activated(r, sum[o][which], slope);
      if constexpr (PART) StoreFirst(s, y + o * r.y_row, width);
      else Store(s, y + o * r.y_row);
    }
    y += r.y_step;
  };
  if (!r.left) column(1, 2, 0);
  column(2, 0, 1);
  for (std::int64_t more = count - r.right;;) {  // outputs that have a column to their right
    if (more-- == 0) return r.right ? put(0) : void();
    column(0, 1, 2);
    put(0);
    if (more-- == 0) return r.right ? put(1) : void();
    column(1, 2, 0);
    put(1);
    if (more-- == 0) return r.right ? put(2) : void();
    column(2, 0, 1);
    put(2);
  }
}
template <int FIRST, int END, int OUTS>
void slide(const Slide& r, std::int64_t count) {
  std::int64_t c = 0;
  for (; c + lanes <= r.channels; c += lanes) slide_vector<FIRST, END, OUTS, false>(r, count, c, lanes);
  if (c < r.channels) slide_vector<FIRST, END, OUTS, true>(r, count, c, r.channels - c);
}
bool slides(const PackedSizes& s, const PackedExtras& extras) {
  return s.kh == 3 && s.kw == 3 && s.sh == 1 && s.sw == 1 && s.dh == 1 && s.dw == 1 && s.top <= 1 && s.left <= 1 && s.oh <= s.h - 1 + s.top &&
         s.ow <= s.w - 1 + s.left && !extras.residual;
}
// `outs` output rows from `row` on.
void slide_strip(const PackedSizes& s, Slide r, std::int64_t row, std::int64_t outs) {
  using Way = void (*)(const Slide&, std::int64_t);
  static constexpr Way ways[2][2][2]{{{slide<0, 3, 1>, slide<0, 2, 1>}, {slide<1, 3, 1>, slide<1, 2, 1>}},
                                     {{slide<0, 4, 2>, slide<0, 3, 2>}, {slide<1, 4, 2>, slide<1, 3, 2>}}};
  const std::int64_t y = row - s.top, parts = ceil_div(s.ow, slide_pixels);
  const Way way = ways[outs - 1][y < 0][y + outs + 2 > s.h];
  const Slide whole = r;
  for (std::int64_t k = 0; k < parts; ++k) {
    const std::int64_t begin = s.ow * k / parts, end = s.ow * (k + 1) / parts;
    r.x = whole.x + y * r.row + (begin - s.left) * r.step;
    r.y = whole.y + row * r.y_row + begin * r.y_step;
    r.left = begin < s.left;
    r.right = end + 2 - s.left > s.w;
    way(r, end - begin);
  }
}

// One output row.
struct Row {
  const float* x;  // first pixel of the image
  std::int64_t y0, ld;
  WholeWindows whole;
};
void run_row(const PackedSizes& s, const Row& row, const float* weights, Run r) {
  Tap taps[most_taps];
  r.taps = taps;
  const auto move = [&](std::int64_t n) {
    r.y += n * r.y_step;
    if (r.residual) r.residual += n * r.residual_step;
  };
  for (std::int64_t ox = 0; ox < s.ow;) {
    r.count = 0;
    each_tap(s, row.y0, ox * s.sw - s.left, [&](std::int64_t tap, std::int64_t pixel) { taps[r.count++] = {row.x + pixel * row.ld, weights + tap * s.c}; });
    const std::int64_t run = ox >= row.whole.first && ox < row.whole.last ? row.whole.last - ox : 1;
    const std::int64_t parts = ceil_div(run, most_pixels);
    for (std::int64_t k = 0; k < parts; ++k) {
      const std::int64_t count = run * (k + 1) / parts - run * k / parts;
      run_pixels(r, count, s.c);
      move(count);
      for (std::int64_t t = 0; t < r.count; ++t) taps[t].x += count * r.step;
    }
    ox += run;
  }
}

void run(const KernelArgs& a) {
  PackedSizes s = packed_sizes(a);
  const PackedExtras extras = packed_extras(a);
  const float* x = a.in[0].ptr<float>();
  const std::int64_t ld = pixel_step(a.in[0]);
  Run whole{};
  whole.step = s.sw * ld;
  whole.bias = extras.bias;
  whole.slope = extras.slope;
  whole.y = a.out[0].ptr<float>();
  whole.y_step = pixel_step(a.out[0]);
  whole.residual = extras.residual ? extras.residual->ptr<float>() : nullptr;
  whole.residual_step = extras.residual ? pixel_step(*extras.residual) : 0;
  whole.relu = a.get<PackedConvParams>().activation == Activation::relu;
  const auto moved = [&](std::int64_t pixel) {
    Run r = whole;
    r.y += pixel * r.y_step;
    if (r.residual) r.residual += pixel * r.residual_step;
    return r;
  };
  const float* weights = a.in[1].ptr<float>();
  if (s.oh == 1 && s.ow == 1 && !s.leaves()) {  // a map to one pixel: images are neighbours
    parallel_for(s.n, most_pixels, [&](std::int64_t begin, std::int64_t end) {
      Tap taps[most_taps];
      Run r = moved(begin);
      r.taps = taps;
      r.step = s.h * s.w * ld;
      for (std::int64_t i = 0; i < s.kh; ++i)
        for (std::int64_t j = 0; j < s.kw; ++j)
          taps[r.count++] = {x + begin * r.step + (i * s.dh * s.w + j * s.dw) * ld, weights + (i * s.kw + j) * s.c};
      run_pixels(r, end - begin, s.c);
    });
    return;
  }
  const std::int64_t work = std::max<std::int64_t>(1, s.ow * s.c * s.taps());  // of a row
  if (slides(s, extras)) {
    const Slide all{x, weights, extras.bias, extras.slope, whole.y, ld, s.w * ld, whole.y_step, s.ow * whole.y_step, s.c, whole.relu, false, false};
    const std::int64_t strips = ceil_div(s.oh, slide_rows);
    parallel_for(s.n * strips, std::max<std::int64_t>(1, (1 << 19) / (slide_rows * work)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t strip = begin; strip < end; ++strip) {
        Slide image = all;
        image.x += strip / strips * s.h * all.row;
        image.y += strip / strips * s.oh * all.y_row;
        const std::int64_t row = strip % strips * slide_rows;
        slide_strip(s, image, row, std::min<std::int64_t>(slide_rows, s.oh - row));
      }
    });
    return;
  }
  const WholeWindows columns(s.ow, s.w, s.left, s.sw, s.reach_w());
  parallel_for(s.n * s.oh, std::max<std::int64_t>(1, (1 << 19) / work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) run_row(s, {x + row / s.oh * s.h * s.w * ld, row % s.oh * s.sh - s.top, ld, columns}, weights, moved(row * s.ow));
  });
}

const char* decline(const KernelArgs& a) {
  if (const char* reason = decline_packed(a)) return reason;
  if (packed_sizes(a).taps() > most_taps) return "more than 64 taps";
  return pixel_step(a.in[0]) ? nullptr : "x is not channels_last";
}

}  // namespace

extern const KernelEntry packed_depthwise{run, decline, nullptr};

}  // namespace mien::MIEN_LEVEL
