// Gradient of the weights in channels_last: gW[O, K] += gY^T[O, pixels] * X[pixels, K], K = (i, j, c). Pixels are summed over, chunk by chunk; the sums of a tile
// stay in registers for a whole chunk.
//   A tap leaves out the pixels for which it sees the zeros around the picture.
//   gY is packed in tiles of output channels, [pixel][channel], so that one pointer serves a tile.
//   X is packed in panels of `lanes` channels, [pixel][channel], with the zeros of the padding: every tap reads the same panel from another place. Few
//   channels or short rows are gathered (windows written out as rows of K values).
// Threads share out tiles of gW, never pixels: nothing has to be added up between them, and the bits do not depend on their number.
#include "mien/kernels/cpu/conv_gather.h"
#include "mien/kernels/cpu/row_gemm.h"

namespace mien::MIEN_LEVEL {
namespace {

enum class Way { flat, direct, gathered };
struct Plan {
  ConvSizes s;
  Way way = Way::direct;
  std::int64_t panels = 0;                // vectors of K
  std::int64_t pixels = 0;                // of a chunk
  std::int64_t chunks = 0;
  std::int64_t images = 1, rows = 1;      // of a chunk, direct: all rows of some pictures or some rows of one
  std::int64_t in_rows = 0, in_cols = 0;  // what they read of each picture
  std::int64_t channel_panels() const { return ceil_div(s.c, lanes); }
  std::int64_t panel_floats() const { return way == Way::flat ? pixels * lanes : images * in_rows * in_cols * lanes; }
  std::int64_t tiles() const { return ceil_div(s.o, most_rows); }
  std::int64_t tile_begin(std::int64_t t) const { return s.o * t / tiles(); }
  // Distance of rows of X: of gathered ones no power of two, or all rows meet in the same few sets of the cache.
  std::int64_t step() const { return way == Way::gathered ? round_up(s.depth(), lanes) + lanes : s.sw * lanes; }
  std::int64_t x_floats() const { return way == Way::gathered ? pixels * step() : channel_panels() * panel_floats(); }
  std::int64_t gy_floats() const { return round_up(pixels * s.o, lanes); }
  std::int64_t sum_floats() const { return s.o * panels * lanes; }
};

Plan plan_of(const ConvSizes& s) {
  Plan p;
  p.s = s;
  if (s.pointwise()) p.way = Way::flat;
  else if (s.c < lanes || s.ow < few_rows) p.way = Way::gathered;
  const std::int64_t wide = p.way == Way::gathered ? s.depth() : s.c, wanted = std::clamp<std::int64_t>(2 * cache_floats / (wide + s.o), 320, 2048);
  if (p.way != Way::direct) {
    p.panels = ceil_div(s.depth(), lanes);
    p.pixels = ceil_div(s.pixels(), ceil_div(s.pixels(), wanted));
    p.chunks = ceil_div(s.pixels(), p.pixels);
    return p;
  }
  p.panels = s.taps() * p.channel_panels();
  const RowBlocks blocks = row_blocks(s, std::max<std::int64_t>(1, wanted / s.ow));
  p.images = blocks.images;
  p.rows = blocks.rows;
  p.chunks = blocks.count;
  p.pixels = p.images * p.rows * s.ow;
  p.in_rows = (p.rows - 1) * s.sh + (s.kh - 1) * s.dh + 1;
  p.in_cols = (s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1;
  return p;
}

// Rows of `from`, `step` apart, ROWS values each, one after the other.
static_assert(most_rows <= lanes);
template <int ROWS>
void pack_tile(const float* from, std::int64_t step, std::int64_t count, float* out) {
  for (std::int64_t p = 0; p < count; ++p) StoreFirst(LoadFirst(from + p * step, ROWS), out + p * ROWS, ROWS);  // copy_n would be a call of memmove
}
using PackTile = void (*)(const float*, std::int64_t, std::int64_t, float*);
template <std::size_t... I>
constexpr std::array<PackTile, sizeof...(I)> pack_tiles(std::index_sequence<I...>) {
  return {&pack_tile<static_cast<int>(I) + 1>...};
}
constexpr auto pack_tile_of = pack_tiles(std::make_index_sequence<most_rows>());

// One panel of the channels of rows [y0, y0 + rows) of a picture from column x0, zeros outside the picture and past the last channel.
void pack_panel(const float* picture, const ConvSizes& s, std::int64_t channel, std::int64_t y0, std::int64_t x0, std::int64_t rows, std::int64_t cols, float* out) {
  const std::int64_t low = std::clamp<std::int64_t>(-x0, 0, cols), high = std::clamp<std::int64_t>(s.w - x0, low, cols), full = std::min<std::int64_t>(lanes, s.c - channel);
  for (std::int64_t y = y0; y < y0 + rows; ++y, out += cols * lanes) {
    if (y < 0 || y >= s.h) {
      std::fill_n(out, cols * lanes, 0.f);
      continue;
    }
    std::fill_n(out, low * lanes, 0.f);
    const float* from = picture + (y * s.w + x0 + low) * s.c + channel;
    float* to = out + low * lanes;
    if (full == lanes)
      for (std::int64_t x = low; x < high; ++x, from += s.c, to += lanes) Store(Load(from), to);
    else
      for (std::int64_t x = low; x < high; ++x, from += s.c, to += lanes) {
        for (std::int64_t t = 0; t < full; ++t) to[t] = from[t];
        for (std::int64_t t = full; t < lanes; ++t) to[t] = 0;
      }
    std::fill_n(out + high * lanes, (cols - high) * lanes, 0.f);
  }
}

// f(first, count) for some pixels at a time: a map is read along its memory, a panel of a wide map by itself would touch a page a pixel.
template <class F>
void for_few_pixels(std::int64_t pixels, const F& f) {
  constexpr std::int64_t few = 16;
  parallel_for(ceil_div(pixels, few), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) f(k * few, std::min(few, pixels - k * few));
  });
}

ConvSizes sizes(const KernelArgs& a) { return conv_sizes(a.in[1], a.out[0], a.in[0], a.get<ConvParams>()); }
// The runs of each tap, where direct, or one for all: what they are, then where each begins, of an i64 each.
std::int64_t lists(const Plan& p) { return p.way == Way::direct ? p.s.taps() : 1; }
std::int64_t run_floats(const Plan& p) { return round_up(2 * lists(p) * (4 + 2 * p.images * p.rows), lanes); }
static_assert(sizeof(Runs) == 4 * sizeof(std::int64_t));
// gW itself holds the sums where it is [O, C] in memory.
bool in_place(const Plan& p, const View& gw) { return p.way == Way::flat && p.s.c % lanes == 0 && gw.is_contiguous(); }
std::int64_t workspace(const KernelArgs& a) {
  const Plan p = plan_of(sizes(a));
  return 4 * (p.gy_floats() + p.x_floats() + run_floats(p) + (in_place(p, a.out[0]) ? 0 : p.sum_floats()));
}

// One chunk of pixels, packed, and the runs that lead through it.
struct Chunk {
  const float *gy, *x;
  std::int64_t pixels;
  const Runs* runs;
  bool first;
};
void add_chunk(const Plan& p, const Chunk& k, float* sums) {
  const std::int64_t pairs = ceil_div(p.panels, 2), groups = std::min(p.tiles(), ceil_div(8, pairs)), wide = p.panels * lanes;
  const auto panel = [&](std::int64_t q) {
    if (p.way == Way::gathered) return k.x + q * lanes;
    const std::int64_t tap = q / p.channel_panels(), at = q % p.channel_panels() * p.panel_floats();
    return k.x + at + (tap / p.s.kw * p.s.dh * p.in_cols + tap % p.s.kw * p.s.dw) * lanes;
  };
  const auto multiply = [&](std::int64_t pair, std::int64_t t) {
    const std::int64_t q = 2 * pair, vectors = std::min<std::int64_t>(2, p.panels - q), o = p.tile_begin(t), rows = p.tile_begin(t + 1) - o;
    const Tile tile{sums + o * wide + q * lanes, wide, rows, vectors * lanes, k.first ? Start::zero : Start::accumulate};
    row_tile<true>(k.runs[p.way == Way::direct ? q / p.channel_panels() : 0], {k.gy + o * k.pixels, 1, rows}, {panel(q), p.step(), vectors == 2 ? panel(q + 1) - panel(q) : 0}, tile);
  };
  // The smaller operand is the one that is gone through again and again.
  if (p.way == Way::flat && p.s.o > p.s.c) {
    parallel_for(p.tiles(), 1, [&](std::int64_t t, std::int64_t) {
      for (std::int64_t pair = 0; pair < pairs; ++pair) multiply(pair, t);
    });
    return;
  }
  parallel_for(pairs * groups, 1, [&](std::int64_t item, std::int64_t) {
    const std::int64_t group = item % groups;
    for (std::int64_t t = p.tiles() * group / groups; t < p.tiles() * (group + 1) / groups; ++t) multiply(item / groups, t);
  });
}

// The sums [o][panel][lane] as gW wants them.
void finish(const Plan& p, const float* sums, const View& gw) {
  const std::int64_t wide = p.panels * lanes, per_tap = p.way == Way::gathered ? p.s.c : p.channel_panels() * lanes;
  parallel_for(p.s.o, std::max<std::int64_t>(1, 4096 / wide), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o)
      for (std::int64_t tap = 0; tap < p.s.taps(); ++tap) {
        const float* from = sums + o * wide + tap * per_tap;
        float* to = gw.ptr<float>() + o * gw.stride(0) + tap / p.s.kw * gw.stride(2) + tap % p.s.kw * gw.stride(3);
        for (std::int64_t c = 0; c < p.s.c; ++c) to[c * gw.stride(1)] = from[c];
      }
  });
}

void run(const KernelArgs& a) {
  const float *gy = a.in[0].ptr<float>(), *x = a.in[1].ptr<float>();
  const View& gw = a.out[0];
  const Plan p = plan_of(sizes(a));
  const ConvSizes& s = p.s;
  auto* packed_gy = static_cast<float*>(a.workspace);
  float *packed_x = packed_gy + p.gy_floats(), *run_lists = packed_x + p.x_floats();
  float* sums = in_place(p, gw) ? gw.ptr<float>() : run_lists + run_floats(p);
  auto* runs = reinterpret_cast<Runs*>(run_lists);
  auto* places = reinterpret_cast<std::int64_t*>(runs + lists(p));
  for (std::int64_t k = 0; k < p.chunks; ++k) {
    Chunk chunk{packed_gy, packed_x, 0, runs, k == 0};
    std::int64_t pixel = k * p.pixels;
    if (p.way != Way::direct) {
      chunk.pixels = std::min(p.pixels, s.pixels() - pixel);
      places[0] = 0;
      runs[0] = {1, chunk.pixels, nullptr, places};
      if (p.way == Way::flat) {
        ConvSizes line = s;
        line.h = 1, line.w = s.pixels();
        for_few_pixels(chunk.pixels, [&](std::int64_t at, std::int64_t count) {
          for (std::int64_t q = 0; q < p.panels; ++q) pack_panel(x, line, q * lanes, 0, pixel + at, 1, count, packed_x + q * p.panel_floats() + at * lanes);
        });
      } else {
        parallel_for(chunk.pixels, 64, [&](std::int64_t begin, std::int64_t end) { gather_rows(x, s, pixel + begin, end - begin, packed_x + begin * p.step(), p.step()); });
      }
    } else {
      const std::int64_t per_image = p.images > 1 ? 1 : ceil_div(s.oh, p.rows), image = p.images > 1 ? k * p.images : k / per_image, images = std::min(p.images, s.n - image),
                         oy = k % per_image * p.rows, rows = std::min(p.rows, s.oh - oy), in_rows = (rows - 1) * s.sh + (s.kh - 1) * s.dh + 1, picture = p.in_rows * p.in_cols * lanes;
      pixel = (image * s.oh + oy) * s.ow;
      chunk.pixels = images * rows * s.ow;
      const bool pairs_share_taps = p.channel_panels() % 2 == 0;
      for (std::int64_t tap = 0; tap < s.taps(); ++tap) {
        const Seen down = pairs_share_taps ? Seen(oy * s.sh - s.ph + tap / s.kw * s.dh, s.h, rows, s.sh) : Seen(0, rows, rows, 1);
        const Seen across = pairs_share_taps ? Seen(tap % s.kw * s.dw - s.pw, s.w, s.ow, s.sw) : Seen(0, s.ow, s.ow, 1);
        std::int64_t *left = places + 2 * tap * p.images * p.rows, *right = left + p.images * p.rows, count = 0;
        for (std::int64_t n = 0; n < images; ++n)
          for (std::int64_t r = down.first; r < down.last; ++r, ++count) {
            left[count] = (n * rows + r) * s.ow + across.first;
            right[count] = n * picture + (r * s.sh * p.in_cols + across.first * s.sw) * lanes;
          }
        runs[tap] = {count, across.count(), left, right};
      }
      parallel_for(p.channel_panels() * images, 1, [&](std::int64_t item, std::int64_t) {
        const std::int64_t panel = item / images, n = item % images;
        pack_panel(x + (image + n) * s.h * s.w * s.c, s, panel * lanes, oy * s.sh - s.ph, -s.pw, in_rows, p.in_cols, packed_x + panel * p.panel_floats() + n * picture);
      });
    }
    for_few_pixels(chunk.pixels, [&](std::int64_t at, std::int64_t count) {
      for (std::int64_t t = 0; t < p.tiles(); ++t) {
        const std::int64_t o = p.tile_begin(t), rows = p.tile_begin(t + 1) - o;
        pack_tile_of[static_cast<std::size_t>(rows - 1)](gy + (pixel + at) * s.o + o, s.o, count, packed_gy + o * chunk.pixels + at * rows);
      }
    });
    add_chunk(p, chunk, sums);
  }
  if (!in_place(p, gw)) finish(p, sums, gw);
}

const char* decline(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (!a.in[1].is_channels_last() || !a.in[0].is_channels_last()) return "not channels_last";
  return a.in[0].numel() > 0 && a.in[1].numel() > 0 ? nullptr : "empty";
}

}  // namespace

extern const KernelEntry rows_grad_weight{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
