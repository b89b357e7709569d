// Depthwise convolution with packed weights [tap][channel], bias, residual and activation. Lanes run along channels; up to eight neighbouring output
// pixels share each load of a weight and stay in registers until they are finished. At the edges a pixel has the taps that lie on the picture.
#include "mien/kernels/cpu/packed_conv.h"
#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t most_taps = 64;
constexpr int most_pixels = 8;
constexpr std::int64_t slide_pixels = 16;  // of a run of 3 columns: its inputs stay in the first cache from one vector of channels to the next

struct Tap {
  const float *x, *w;
};
// A run of output pixels that have the same taps: x moves by `step` from pixel to pixel.
struct Run {
  const Tap* taps;
  std::int64_t count, step;
  const float *bias, *slope, *residual;  // slope and residual may be null
  float* y;
  std::int64_t y_step, residual_step;
  bool relu;
};

inline Vec activated(const Run& r, Vec s, Vec slope) {
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

// A kernel of ROWS x 3 taps with stride 1: every input is loaded once and takes part in three neighbouring sums. One vector of channels.
template <int ROWS, bool PART>
inline void slide_vector(const Run& r, std::int64_t count, std::int64_t c, std::int64_t width) {
  const auto load = [=](const float* p) { return PART ? LoadFirst(p, width) : Load(p); };
  const float* x[ROWS];
  Vec w[ROWS][3];
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i) {
    x[i] = r.taps[3 * i].x + c;
#pragma GCC unroll 4
    for (int j = 0; j < 3; ++j) w[i][j] = load(r.taps[3 * i + j].w + c);
  }
  const Vec bias = load(r.bias + c), slope = r.slope ? load(r.slope + c) : Set(0);
  const std::int64_t step = r.step, y_step = r.y_step;
  float* y = r.y + c;
  // The next column is the last of one sum, in the middle of another and the first of a third.
  const auto column = [&](Vec& last, Vec& middle, Vec& first) __attribute__((always_inline)) {
    first = bias;
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
      const Vec in = load(x[i]);
      last = MulAdd(in, w[i][2], last);
      middle = MulAdd(in, w[i][1], middle);
      first = MulAdd(in, w[i][0], first);
      x[i] += step;
    }
  };
  const auto put = [&](Vec s) __attribute__((always_inline)) {
    s = activated(r, s, slope);
    if constexpr (PART) StoreFirst(s, y, width);
    else Store(s, y);
    y += y_step;
  };
  Vec a = bias, b = bias, d = bias;  // the sums of three neighbours, by turns
  column(d, a, b);
  column(a, b, d);
  for (std::int64_t p = 0;;) {
    column(b, d, a);
    put(b);
    if (++p == count) return;
    column(d, a, b);
    put(d);
    if (++p == count) return;
    column(a, b, d);
    put(a);
    if (++p == count) return;
  }
}
template <int ROWS>
void slide(const Run& r, std::int64_t count, std::int64_t channels) {
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) slide_vector<ROWS, false>(r, count, c, lanes);
  if (c < channels) slide_vector<ROWS, true>(r, count, c, channels - c);
}
bool slides(const PackedSizes& s, const Run& r) { return s.kw == 3 && s.sw == 1 && s.dw == 1 && (r.count == 6 || r.count == 9) && !r.residual; }

// One output row. Columns [first, last) have all their taps on the picture.
struct Row {
  const float* x;  // first pixel of the image
  std::int64_t y0, first, last, ld;
};
void run_row(const PackedSizes& s, const Row& row, const float* weights, Run r) {
  Tap taps[most_taps];
  r.taps = taps;
  const auto move = [&](std::int64_t n) {
    r.y += n * r.y_step;
    if (r.residual) r.residual += n * r.residual_step;
  };
  for (std::int64_t ox = 0; ox < s.ow;) {
    const std::int64_t x0 = ox * s.sw - s.left;
    r.count = 0;
    for (std::int64_t i = 0; i < s.kh; ++i) {
      const std::int64_t y = row.y0 + i * s.dh;
      if (y < 0 || y >= s.h) continue;
      for (std::int64_t j = 0; j < s.kw; ++j) {
        const std::int64_t x = x0 + j * s.dw;
        if (x >= 0 && x < s.w) taps[r.count++] = {row.x + (y * s.w + x) * row.ld, weights + (i * s.kw + j) * s.c};
      }
    }
    const std::int64_t run = ox >= row.first && ox < row.last ? row.last - ox : 1;
    const bool sliding = run > 2 && slides(s, r);
    const std::int64_t parts = ceil_div(run, sliding ? slide_pixels : most_pixels);
    for (std::int64_t k = 0; k < parts; ++k) {
      const std::int64_t count = run * (k + 1) / parts - run * k / parts;
      if (!sliding) run_pixels(r, count, s.c);
      else if (r.count == 9) slide<3>(r, count, s.c);
      else slide<2>(r, count, s.c);
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
  const std::int64_t room = s.w - 1 + s.left - s.reach_w(), first = std::min(s.ow, (s.left + s.sw - 1) / s.sw),
                     last = std::max(first, room < 0 ? 0 : std::min(s.ow, room / s.sw + 1));
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
  const std::int64_t work = std::max<std::int64_t>(1, s.ow * s.c * s.taps());
  parallel_for(s.n * s.oh, std::max<std::int64_t>(1, (1 << 19) / work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      run_row(s, {x + row / s.oh * s.h * s.w * ld, row % s.oh * s.sh - s.top, first, last, ld}, weights, moved(row * s.ow));
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
