// A chain of small layers over a batch, as many pictures at a time as a vector has lanes: maps are [row][column][channel][lane], so that every load is aligned,
// a row of a kernel's window is one run of memory, and no map is too small and no number of channels too odd to fill the vectors. The maps of such a group stay
// in the L2 cache; where a layer is pooled, only as many rows of it exist at a time as the pool needs. 3x3 layers of enough channels go by Winograd (lane_winograd.h).
#include <algorithm>
#include <utility>

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/lane_pictures.h"
#include "mien/kernels/cpu/lane_winograd.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t largest_kernel = 8;

struct MapSize {
  std::int64_t c, h, w;
  std::int64_t floats() const { return c * (h * w + 1) * lanes; }  // a column to spare, which Winograd's last patch may load
};

// One layer: x convolved is y, y pooled is z (z = y without pooling).
struct Layer {
  MapSize x, y, z;
  std::int64_t kernel, pool;
  const float *weight, *bias, *slope;  // bias and slope with room up to a multiple of lane_outputs; slope null: none
  const float* winograd;               // weights in the transformed domain
  std::int64_t depth() const { return kernel * kernel * x.c; }
  // Rows that are made at a time: of Winograd's patches, which are 2 x 2 or 3 x 3; 1: a direct sum. Of a patch of 3 only the last row and column may lie past the map:
  // what is loaded beyond comes into no other output (winograd_forms.h).
  std::int64_t step() const {
    if (kernel != 3 || y.h < 2 || y.w < 2 || x.c < 8 || y.c % winograd_channels != 0) return 1;
    return y.h % 3 != 1 && y.w % 3 != 1 && winograd_products<WinogradThree>(y.h, y.w) < winograd_products<WinogradTwo>(y.h, y.w) ? 3 : 2;
  }
  bool by_winograd() const { return step() > 1; }
  template <class F>
  void with_form(const F& f) const {
    if (step() == 2) f(WinogradTwo{});
    else if (step() == 3) f(WinogradThree{});
  }
  std::int64_t ring_rows() const { return pool + step() - 1; }
  std::int64_t winograd_floats() const {
    std::int64_t floats = 0;
    with_form([&](auto f) { floats = f.products * x.c * y.c; });
    return floats;
  }
};

// Sizes of the layers; pointers of weights only.
void describe_layers(const KernelArgs& args, Layer* layers) {
  const auto& p = args.get<ConvChainParams>();
  const View& x = args.in[0];
  MapSize now{x.size(1), x.size(2), x.size(3)};
  for (int l = 0, operand = 1; l < p.layers; ++l) {
    const auto& q = p.layer[static_cast<std::size_t>(l)];
    const MapSize y{q.channels, now.h - q.kernel + 1, now.w - q.kernel + 1};
    const MapSize z = q.pool ? MapSize{y.c, pooled_side(y.h, q.pool), pooled_side(y.w, q.pool)} : y;
    layers[l] = {now, y, z, q.kernel, q.pool, args.in[operand].ptr<float>(), nullptr, nullptr, nullptr};
    operand += q.prelu ? 3 : 2;
    now = z;
  }
}

std::int64_t padded(std::int64_t channels) { return round_up(channels, packed_columns); }

// Half-open.
struct Range {
  std::int64_t begin, end;
};

// Channels `of` (its begin a multiple of packed_columns) at R positions, whose windows begin at x[r] and whose results go to y[r]: y[r][channel][lane].
template <int R>
void positions(const Layer& l, Range of, const float* const (&x)[R], float* const (&y)[R]) {
  const std::int64_t run = l.kernel * l.x.c, row = l.x.w * l.x.c * lanes;
  const float* at[largest_kernel][R];
  for (std::int64_t i = 0; i < l.kernel; ++i)
    for (int r = 0; r < R; ++r) at[i][r] = x[r] + i * row;
  const LaneTaps taps{l.kernel, run, lanes, packed_columns};
  for (std::int64_t o = of.begin; o < of.end;) {
    const float *w = l.weight + o / packed_columns * l.depth() * packed_columns + o % packed_columns, *slope = l.slope ? l.slope + o : nullptr;
    float* to[R];
    for (int r = 0; r < R; ++r) to[r] = y[r] + o * lanes;
    const auto tile = [&](auto outputs) {
      lane_tile<outputs, R>(at, taps, w, l.bias + o, slope, to, lanes, of.end - o);
      o += outputs;
    };
    constexpr int most = R == 1 ? 2 * lane_outputs : lane_outputs;  // a lone position needs as many accumulators to keep the multipliers busy
    if (const std::int64_t left = of.end - o; most > 8 && left > 8) tile(std::integral_constant<int, most>{});
    else if (most > 4 && left > 4) tile(std::integral_constant<int, std::min(most, 8)>{});
    else tile(std::integral_constant<int, 4>{});
  }
}

// Rows [begin, end) of the convolution, channels `of`; row i goes to out(i).
template <class Out>
void convolve_rows(const Layer& l, Range of, const float* x, std::int64_t begin, std::int64_t end, const Out& out) {
  const std::int64_t last = (end - begin) * l.y.w;
  const auto from = [&](std::int64_t p) { return x + ((begin + p / l.y.w) * l.x.w + p % l.y.w) * l.x.c * lanes; };
  const auto to = [&](std::int64_t p) { return out(begin + p / l.y.w) + p % l.y.w * l.y.c * lanes; };
  std::int64_t p = 0;
  for (; p + lane_positions <= last; p += lane_positions) {
    const float* in[lane_positions];
    float* at[lane_positions];
    for (int r = 0; r < lane_positions; ++r) in[r] = from(p + r), at[r] = to(p + r);
    positions<lane_positions>(l, of, in, at);
  }
  if (last - p == 2) positions<2>(l, of, {from(p), from(p + 1)}, {to(p), to(p + 1)});
  else if (last - p == 1) positions<1>(l, of, {from(p)}, {to(p)});
}

template <class F>
void pack_winograd(const Layer& l, float* to) {
  for (std::int64_t o = 0; o < l.y.c; o += lanes)
    for (std::int64_t c = 0; c < l.x.c; ++c) {
      Vec g[3][3], u[F::side][F::side];
      const float* from = l.weight + o / packed_columns * l.depth() * packed_columns + o % packed_columns;
      for (std::int64_t k = 0; k < 9; ++k) g[k / 3][k % 3] = Load(from + (k * l.x.c + c) * packed_columns);
      winograd_kernel<F>(g, u);
      for (std::int64_t k = 0; k < F::products; ++k) {
        float values[lanes];
        Store(u[k / F::side][k % F::side], values);
        for (std::int64_t i = o; i < std::min(o + lanes, l.y.c); ++i)
          to[((i / winograd_channels * F::products + k) * l.x.c + c) * winograd_channels + i % winograd_channels] = values[i - o];
      }
    }
}

// Rows [begin, end) of the convolution, begin a multiple of the patches' rows and end, too, or the last; row i goes to out(i). What patches make past the map goes to
// the scratch memory's begin; their loads run a column past it.
template <class F, class Out>
void winograd_rows(const Layer& l, const float* x, std::int64_t begin, std::int64_t end, float* scratch, const Out& out) {
  float *nowhere = scratch, *patches = scratch + l.y.c * lanes;
  const std::int64_t column = l.x.c * lanes;
  for (std::int64_t y = begin; y < end; y += F::outputs) {
    float* rows[F::outputs];
    for (std::int64_t i = 0; i < F::outputs; ++i) rows[i] = y + i < end ? out(y + i) : nullptr;
    for_patches(ceil_div(l.y.w, F::outputs), [&](std::int64_t patch, auto vectors) {
      constexpr int R = decltype(vectors)::value;
      const std::int64_t left = patch * F::outputs;
      WinogradInput<F> in{{}, {}, lanes, F::outputs * column, l.x.c};
      for (std::int64_t i = 0; i < F::side; ++i) {
        in.row[i] = x + (std::min(y + i, l.x.h - 1) * l.x.w + left) * column;
        in.column[i] = i * column;
      }
      WinogradTargets<F, R> to;
      for (std::int64_t r = 0; r < R; ++r)
        for (std::int64_t i = 0; i < F::outputs; ++i)
          for (std::int64_t j = 0; j < F::outputs; ++j) {
            const std::int64_t at = left + F::outputs * r + j;
            to[r][i * F::outputs + j] = rows[i] && at < l.y.w ? rows[i] + at * l.y.c * lanes : nowhere;
          }
      winograd_patches<F, R>(in, l.winograd, l.bias, l.slope, l.y.c, to, lanes, patches);
    });
  }
}

// The best of ROWS x COLUMNS values `column` floats apart, for all channels and lanes of a pixel.
template <int ROWS, int COLUMNS>
void pool_pixel(const float* const* y, std::int64_t at, std::int64_t column, float* z) {
  for (std::int64_t k = 0; k < column; k += lanes) {
    Vec best = Load(y[0] + at + k);
#pragma GCC unroll 3
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 3
      for (int j = i == 0; j < COLUMNS; ++j) best = Max(best, Load(y[i] + at + k + j * column));
    Store(best, z + k);
  }
}
// One row of z out of `rows` (1 to 3) rows of y.
void pool_row(const Layer& l, const float* const* y, std::int64_t rows, float* z) {
  using Pixel = void (*)(const float* const*, std::int64_t, std::int64_t, float*);
  static constexpr Pixel pixel[3][3] = {{pool_pixel<1, 1>, pool_pixel<1, 2>, pool_pixel<1, 3>}, {pool_pixel<2, 1>, pool_pixel<2, 2>, pool_pixel<2, 3>}, {pool_pixel<3, 1>, pool_pixel<3, 2>, pool_pixel<3, 3>}};
  const std::int64_t values = l.y.c * lanes;
  for (std::int64_t ox = 0; ox < l.z.w; ++ox) {
    const std::int64_t columns = std::min(l.pool, l.y.w - 2 * ox);
    pixel[rows - 1][columns - 1](y, 2 * ox * values, values, z + ox * values);
  }
}

// Rows `rows` of z, begun where a patch does if Winograd makes them without pooling; of channels `of` where neither Winograd nor pooling has a part.
void run_layer(const Layer& l, Range rows, Range of, const float* x, float* ring, float* z, float* scratch) {
  const std::int64_t row = l.y.w * l.y.c * lanes;
  const auto convolve = [&](std::int64_t begin, std::int64_t end, const auto& out) {
    if (l.by_winograd()) l.with_form([&](auto f) { winograd_rows<decltype(f)>(l, x, begin, end, scratch, out); });
    else convolve_rows(l, of, x, begin, end, out);
  };
  if (l.pool == 0) return convolve(rows.begin, rows.end, [&](std::int64_t i) { return z + i * row; });
  const std::int64_t ring_rows = l.ring_rows(), step = l.step();
  std::int64_t made = 2 * rows.begin / step * step;
  for (std::int64_t oy = rows.begin; oy < rows.end; ++oy) {
    const std::int64_t end = std::min(2 * oy + l.pool, l.y.h), ahead = std::min(round_up(2 * oy + l.pool, step), l.y.h);
    convolve(made, ahead, [&](std::int64_t i) { return ring + i % ring_rows * row; });
    made = ahead;
    const float* in[3];
    for (std::int64_t i = 2 * oy; i < end; ++i) in[i - 2 * oy] = ring + i % ring_rows * row;
    pool_row(l, in, end - 2 * oy, z + oy * l.z.w * l.z.c * lanes);
  }
}

// f(rows, channels): the parts of a layer that can be made at once, about one for each thread.
template <class F>
void parts_of(const Layer& l, std::int64_t threads, const F& f) {
  if (l.pool == 0 && !l.by_winograd() && l.y.h < 2 * threads) {  // few rows: channels are dealt out
    parallel_for(l.y.c, round_up(ceil_div(l.y.c, threads), packed_columns), [&](std::int64_t begin, std::int64_t end) { f(Range{0, l.z.h}, Range{begin, end}); });
  } else {
    parallel_for(l.z.h, round_up(ceil_div(l.z.h, threads), l.pool ? 1 : l.step()), [&](std::int64_t begin, std::int64_t end) { f(Range{begin, end}, Range{0, l.y.c}); });
  }
}

struct Layout {  // floats
  std::int64_t parameters = 0, maps[2] = {0, 0}, ring = 0, winograd = 0;
  Layout(const Layer* layers, std::int64_t count) {
    maps[0] = layers[0].x.floats();
    for (std::int64_t l = 0; l < count; ++l) {
      parameters += 2 * padded(layers[l].y.c) + round_up(layers[l].winograd_floats(), 16);
      layers[l].with_form([&](auto f) { winograd = std::max(winograd, layers[l].y.c * lanes + winograd_scratch<decltype(f)>(layers[l].x.c)); });
      maps[(l + 1) % 2] = std::max(maps[(l + 1) % 2], layers[l].z.floats());
      if (layers[l].pool) ring = std::max(ring, layers[l].ring_rows() * layers[l].y.w * layers[l].y.c * lanes);
    }
  }
  std::int64_t share() const { return maps[0] + maps[1] + ring + winograd; }
};
// What one thread works in.
struct Share {
  float *map[2], *ring, *tiles;
  Share(float* at, const Layout& l) : map{at, at + l.maps[0]}, ring(at + l.maps[0] + l.maps[1]), tiles(ring + l.ring) {}
};

// Lane k of the first map is picture k of the group; lanes without one repeat the last. `lanes` pixels of one channel of all pictures change places at a time.
void load_group(const View& x, std::int64_t first, std::int64_t count, const MapSize& size, Range part, float* map) {
  const std::int64_t pixels = size.h * size.w;
  const float* from[lanes];
  for (std::int64_t k = 0; k < lanes; ++k) from[k] = x.ptr<float>() + (first + std::min(k, count - 1)) * x.stride(0);
  std::int64_t i = part.begin;
  for (; i + lanes <= part.end; i += lanes)
    for (std::int64_t c = 0; c < size.c; ++c)
      block_to_lanes(map + (i * size.c + c) * lanes, size.c * lanes, [&](int k) {
        const float* p = from[k] + c * pixels + i;
        __builtin_prefetch(p + 64);  // 3 x lanes streams are more than the cache follows by itself
        return Load(p);
      });
  for (; i < part.end; ++i)
    for (std::int64_t c = 0; c < size.c; ++c)
      for (std::int64_t k = 0; k < lanes; ++k) map[(i * size.c + c) * lanes + k] = from[k][c * pixels + i];
}
void store_group(const MapSize& size, const float* map, const View& y, std::int64_t first, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k)
    for (std::int64_t c = 0; c < size.c; ++c)
      for (std::int64_t i = 0; i < size.h * size.w; ++i) y.ptr<float>()[((first + k) * size.c + c) * size.h * size.w + i] = map[(i * size.c + c) * lanes + k];
}

void run(const KernelArgs& args) {
  const std::int64_t count = args.get<ConvChainParams>().layers, n = args.in[0].size(0);
  Layer layers[max_chain_layers];
  describe_layers(args, layers);
  const Layout layout(layers, count);
  auto* at = static_cast<float*>(args.workspace);
  int operand = 2;
  for (std::int64_t l = 0; l < count; ++l) {  // biases and slopes with room for whole tiles
    const bool prelu = args.get<ConvChainParams>().layer[static_cast<std::size_t>(l)].prelu;
    const auto copy = [&](const View& v) {
      float* to = std::exchange(at, at + padded(layers[l].y.c));
      std::fill_n(to, padded(layers[l].y.c), 0.f);
      for (std::int64_t i = 0; i < layers[l].y.c; ++i) to[i] = v.ptr<float>()[i * v.stride(0)];
      return to;
    };
    layers[l].bias = copy(args.in[operand]);
    if (prelu) layers[l].slope = copy(args.in[operand + 1]);
    if (layers[l].by_winograd()) {
      float* to = std::exchange(at, at + round_up(layers[l].winograd_floats(), 16));
      layers[l].with_form([&](auto f) { pack_winograd<decltype(f)>(layers[l], to); });
      layers[l].winograd = to;
    }
    operand += prelu ? 3 : 2;
  }
  float* scratch = static_cast<float*>(args.workspace) + layout.parameters;
  const auto share_of = [&](std::int64_t number) { return Share(scratch + number * layout.share(), layout); };
  const MapSize &first_map = layers[0].x, &last_map = layers[count - 1].z;
  const std::int64_t groups = (n + lanes - 1) / lanes, pixels = first_map.h * first_map.w, threads = std::min<std::int64_t>(num_threads(), max_shares);
  const auto pictures = [&](std::int64_t g) { return std::min<std::int64_t>(lanes, n - g * lanes); };
  const auto alone = [&](const Share& my, std::int64_t g) {
    load_group(args.in[0], g * lanes, pictures(g), first_map, {0, pixels}, my.map[0]);
    for (std::int64_t l = 0; l < count; ++l) run_layer(layers[l], {0, layers[l].z.h}, {0, layers[l].y.c}, my.map[l % 2], my.ring, my.map[(l + 1) % 2], my.tiles);
    store_group(last_map, my.map[count % 2], args.out[0], g * lanes, pictures(g));
  };
  const auto together = [&](std::int64_t g) {
    const Share all = share_of(0);  // the maps; rings and tiles are each thread's own
    parallel_for(pixels, ceil_div(pixels, threads), [&](std::int64_t begin, std::int64_t end) { load_group(args.in[0], g * lanes, pictures(g), first_map, {begin, end}, all.map[0]); });
    for (std::int64_t l = 0; l < count; ++l) {
      ScratchSlots slots(max_shares);
      parts_of(layers[l], threads, [&](Range rows, Range of) {
        const auto slot = slots.take();
        const Share my = share_of(slot.number());
        run_layer(layers[l], rows, of, all.map[l % 2], my.ring, all.map[(l + 1) % 2], my.tiles);
      });
    }
    store_group(last_map, all.map[count % 2], args.out[0], g * lanes, pictures(g));
  };
  // A thread a group; the last few, which would leave half of the threads without one, are made by all threads together, layer after layer.
  const std::int64_t rest = groups % threads, whole = threads > 1 && 2 * rest <= threads ? groups - rest : groups;
  const std::int64_t shares = shares_of(whole);
  ScratchSlots slots(shares);
  parallel_for(whole ? shares : 0, 1, [&](std::int64_t share, std::int64_t) {
    const auto slot = slots.take();
    for (std::int64_t g = share; g < whole; g += shares) alone(share_of(slot.number()), g);
  });
  for (std::int64_t g = whole; g < groups; ++g) together(g);
}

std::int64_t workspace(const KernelArgs& args) {
  Layer layers[max_chain_layers];
  describe_layers(args, layers);
  const Layout layout(layers, args.get<ConvChainParams>().layers);
  return 4 * (layout.parameters + max_shares * layout.share());
}

const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  if (args.in[0].numel() == 0) return "no pictures";
  if (!args.in[0].is_contiguous() || !args.out[0].is_contiguous()) return "not contiguous";
  for (const auto& v : args.in)
    if (v.rank() == 3 && !v.is_contiguous()) return "packed weights are not contiguous";
  const auto& p = args.get<ConvChainParams>();
  for (const ChainLayer& l : std::span(p.layer).first(static_cast<std::size_t>(p.layers)))
    if (l.pool > 3 || l.kernel > largest_kernel) return "a larger pool or kernel";
  return nullptr;
}

}  // namespace

extern const KernelEntry conv_chain_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
