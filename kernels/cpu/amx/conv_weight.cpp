// conv2d_grad_weight on tiles, channels_last: gW[o][c][tap] = sum over pixels of gy[pixel][o] * x[pixel moved by the tap][c].
// The sum runs over the places of a grid that is as wide as the padded picture; gy is zero where the grid has no output pixel. gy becomes tiles of the left side
// (o along the rows, places along k). x becomes planes [16 channels][pair of places][16][2] of the right side, one set for each residue modulo the stride, so that
// a tap is nothing but a moved start in a plane; a start can move by pairs only, so a second copy begins one place later where some tap is an odd number of
// places away. All are made once for a chunk of pictures that stays in the second cache and serve all taps. A 1x1 convolution needs no grid.
#include "mien/kernels/cpu/amx/pack.h"
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

// Places of a chunk. Both sides then stay near the tiles; sums that don't stay in the second cache are fetched and stored less often.
inline std::int64_t most_places(std::int64_t share_sums) { return 4 * share_sums > (std::int64_t{1} << 20) ? 1024 : 256; }

struct Plan {
  ConvSizes s;
  View x, gy;                             // f32 or bf16
  bool pointwise;
  std::int64_t grid_h, grid_w, residues;  // of one picture
  std::int64_t copies;                    // of x's planes
  std::int64_t group;                     // pictures of a chunk; pointwise: pixels
  std::int64_t rows, row_chunks;          // of the output that a chunk takes of each; large pictures are cut into several chunks
  std::int64_t chunks, range;             // places of the grid that are summed over, padded to whole steps
  std::int64_t plane;                     // places of a plane
  std::int64_t pixel_shares, channel_shares;
  int parts;
  bool direct;                            // sums end in gW itself: one share, whole tiles, rows that lie there as they are

  std::int64_t shares() const { return pixel_shares * channel_shares; }
  // Sums: [tap][tile of o][tile of c][16][16].
  std::int64_t sum_row() const { return tiles_of(s.c) * tile_size * tile_size; }
  std::int64_t tap_sums() const { return tiles_of(s.o) * sum_row(); }
  std::int64_t share_sums() const { return s.taps() * tap_sums(); }
  std::int64_t tiles_per_share() const { return ceil_div(tiles_of(s.o), channel_shares); }
  std::int64_t left_part() const { return tiles_of(s.o) * tile_size * range; }
  std::int64_t panel() const { return tile_size * plane; }
  std::int64_t copy_values() const { return tiles_of(s.c) * panel(); }
  std::int64_t right_part() const { return residues * copies * copy_values(); }
  std::int64_t zeros() const { return round_up(std::max(s.o, s.c), tile_depth); }  // values of what stands for a pixel outside
  // Of one thread: both sides, zeros (of up to 4 bytes), and where the pixels of a plane lie.
  std::int64_t scratch_bytes() const { return round_up(2 * parts * (left_part() + right_part()) + 4 * zeros() + 8 * (plane + 1 + tile_depth), 64); }
  std::int64_t bytes() const { return 4 * pixel_shares * share_sums() + shares() * scratch_bytes(); }
  // How far from the first tap's place a tap's lies, and in which planes.
  std::int64_t tap_place(std::int64_t tap) const { return tap / s.kw * s.dh / s.sh * grid_w + tap % s.kw * s.dw / s.sw; }
  std::int64_t tap_residue(std::int64_t tap) const { return tap / s.kw * s.dh % s.sh * residues_wide() + tap % s.kw * s.dw % s.sw; }
  std::int64_t residues_wide() const { return std::min(s.sw, (s.kw - 1) * s.dw + 1); }
};

Plan make_plan(const KernelArgs& a) {
  Plan p{};
  p.gy = a.in[0];
  p.x = a.in[1];
  p.s = conv_sizes(p.x, a.out[0], p.gy, a.get<ConvParams>());
  const ConvSizes& s = p.s;
  p.pointwise = s.pointwise();
  p.parts = p.x.dtype == DType::bf16 ? 1 : parts_of(a.precision);
  p.copies = p.row_chunks = 1;
  p.rows = s.oh;
  const std::int64_t budget = std::int64_t{1} << 19, most = most_places(p.share_sums());  // values and places of a chunk
  if (p.pointwise) {
    p.residues = 1;
    p.group = std::clamp(budget / (p.parts * (s.c + s.o)) / 128 * 128, std::int64_t{128}, most);
    p.group = std::min(p.group, round_up(s.pixels(), tile_depth));
    p.chunks = ceil_div(s.pixels(), p.group);
    p.range = p.plane = p.group;
  } else {
    p.residues = std::min(s.sh, (s.kh - 1) * s.dh + 1) * p.residues_wide();
    p.grid_h = s.oh + (s.kh - 1) * s.dh / s.sh;
    p.grid_w = s.ow + (s.kw - 1) * s.dw / s.sw;
    for (std::int64_t tap = 0; tap < s.taps(); ++tap) p.copies = p.tap_place(tap) % 2 == 1 ? 2 : p.copies;
    const auto range = [&](std::int64_t g) { return round_up((g - 1) * p.grid_h * p.grid_w + s.oh * p.grid_w, tile_depth); };
    const auto fits = [&](std::int64_t g) { return g <= s.n && range(g) <= most && p.parts * (p.residues * p.copies * s.c + s.o) * range(g) <= budget; };
    double best = 0;
    for (std::int64_t g = 1; g == 1 || fits(g); ++g) {
      const double cost = (static_cast<double>(range(g)) + 128) / static_cast<double>(g);  // 128: for fetching and storing sums
      if (g > 1 && cost >= best) continue;
      best = cost;
      p.group = g;
    }
    p.range = range(p.group);
    if (p.range > most) {
      p.row_chunks = std::min(s.oh, ceil_div(p.range, most));
      p.rows = ceil_div(s.oh, p.row_chunks);
      p.row_chunks = ceil_div(s.oh, p.rows);
      p.range = round_up(p.rows * p.grid_w, tile_depth);
    }
    p.chunks = ceil_div(s.n, p.group) * p.row_chunks;
    p.plane = p.range + round_up(p.tap_place(s.taps() - 1), tile_depth);  // a tap reads up to here
  }
  // Shares of the pixels have sums of their own, worth it while these are small beside what is read; shares of the channels cost a second look at x.
  const std::int64_t values = s.n * (s.h * s.w * s.c + s.oh * s.ow * s.o);
  p.pixel_shares = std::clamp(std::min(values / (8 * p.share_sums() + 1), p.chunks), std::int64_t{1}, std::int64_t{8});
  p.direct = p.pointwise && p.pixel_shares == 1 && s.o % tile_size == 0 && s.c % tile_size == 0 && a.out[0].is_contiguous();
  p.channel_shares = std::clamp(std::min(4 / p.pixel_shares, tiles_of(s.o) / 2), std::int64_t{1}, std::int64_t{4});
  return p;
}

// Rows [row, row + rows) of the output in pictures [first, last); pointwise: pixels.
struct Chunk {
  std::int64_t first, last, row = 0;
};
Chunk chunk_of(const Plan& p, std::int64_t number) {
  const std::int64_t group = number / p.row_chunks, items = p.pointwise ? p.s.pixels() : p.s.n;
  return {group * p.group, std::min(items, (group + 1) * p.group), number % p.row_chunks * p.rows};
}

// How the places of a grid lie in a map: place (y, x) is pixel (y * sy + y0, x * sx + x0).
struct Lattice {
  const View& map;
  std::int64_t sy, y0, sx, x0;
};
// Where the pixels of the next `count` places of a chunk's grid lie, `rows` of them in each picture; `zeros` for those outside. Divisions only at the start: they
// would cost more than the packing of a few channels.
template <class T>
void find_pixels(const Plan& p, const Chunk& k, const Lattice& l, std::int64_t rows, std::int64_t count, const T* zeros, const T** pixels) {
  const T* data = l.map.ptr<T>();
  const std::int64_t h = l.map.size(2), w = l.map.size(3), c = l.map.size(1);
  std::int64_t i = 0;
  if (p.pointwise)
    for (; i < std::min(count, k.last - k.first); ++i) pixels[i] = data + (k.first + i) * c;
  else
    for (std::int64_t n = k.first; n < k.last && i < count; ++n)
      for (std::int64_t gy = k.row; gy < k.row + rows && i < count; ++gy) {
        const std::int64_t y = gy * l.sy + l.y0;
        const T* line = y >= 0 && y < h ? data + (n * h + y) * w * c : nullptr;
        for (std::int64_t gx = 0; gx < p.grid_w && i < count; ++gx, ++i) {
          const std::int64_t x = gx * l.sx + l.x0;
          pixels[i] = line && x >= 0 && x < w ? line + x * c : zeros;
        }
      }
  for (; i < count; ++i) pixels[i] = zeros;
}

// Calls up what a chunk reads, some lines of memory at a time, while the one before it is multiplied.
class Ahead {
 public:
  // `times`: how often step() will be called.
  Ahead(const Plan& p, const Chunk& k, std::int64_t times) {
    const ConvSizes& s = p.s;
    const auto stretch = [&](Stretch& t, const View& map, std::int64_t pixel, std::int64_t last) {
      const std::int64_t bytes = item_size(map.dtype) * map.size(1), all = map.numel() / map.size(1);
      pixel = std::clamp<std::int64_t>(pixel, 0, all);
      t.at = static_cast<const char*>(map.data) + pixel * bytes;
      t.lines = (std::clamp(last, pixel, all) - pixel) * bytes / 64;
      t.at_once = ceil_div(t.lines, times);
    };
    if (p.pointwise) {
      stretch(gy_, p.gy, k.first, k.last);
      stretch(x_, p.x, k.first, k.last);
    } else if (p.row_chunks == 1) {
      stretch(gy_, p.gy, k.first * s.oh * s.ow, k.last * s.oh * s.ow);
      stretch(x_, p.x, k.first * s.h * s.w, k.last * s.h * s.w);
    } else {
      stretch(gy_, p.gy, (k.first * s.oh + k.row) * s.ow, (k.first * s.oh + k.row + p.rows) * s.ow);
      stretch(x_, p.x, (k.first * s.h + k.row * s.sh) * s.w, (k.first * s.h + (k.row + p.rows) * s.sh) * s.w);
    }
  }
  void step() {
    gy_.step();
    x_.step();
  }

 private:
  struct Stretch {
    const char* at = nullptr;
    std::int64_t lines = 0, at_once = 0;
    void step() {
      for (std::int64_t i = std::min(at_once, lines); i > 0; --i, --lines, at += 64) call_up(at);
    }
  };
  Stretch gy_, x_;
};

// Scratch memory of one thread.
template <class T>
struct Sides {
  Sides(const Plan& p, void* scratch)
      : left(static_cast<Bf16*>(scratch)), right(left + p.parts * p.left_part()), zeros(reinterpret_cast<T*>(right + p.parts * p.right_part())),
        pixels(reinterpret_cast<const T**>(reinterpret_cast<std::byte*>(zeros) + 4 * p.zeros())) {
    std::fill_n(zeros, p.zeros(), T{0});
  }
  Bf16 *left, *right;
  T* zeros;
  const T** pixels;
};

// Adds a chunk to the sums of row tiles [tile, tile + tiles); `next` comes after it. gw: where the sums go instead, after the last chunk; null otherwise.
template <class T>
void add_chunk(const Plan& p, const Chunk& k, const Chunk& next, std::int64_t tile, std::int64_t tiles, bool first, float* gw, const Sides<T>& at, float* sums) {
  const ConvSizes& s = p.s;
  const std::int64_t steps = p.range / tile_depth;
  const bool whole = p.row_chunks == 1;
  const std::int64_t gy_rows = whole ? p.grid_h : std::min(p.rows, s.oh - k.row), x_rows = whole ? p.grid_h : p.rows + p.grid_h - s.oh;
  find_pixels(p, k, {p.gy, 1, 0, 1, 0}, gy_rows, p.range + tile_depth, at.zeros, at.pixels);
  for (std::int64_t i = 0; i < p.range; i += tile_depth)
    for (std::int64_t t = 0; t < tiles; ++t) {
      if (t % 2 == 0)
        for (std::int64_t line = 0; line < tile_depth; ++line) call_up(at.pixels[i + tile_depth + line] + (tile + t) * tile_size);
      pack_lines(at.pixels + i, (tile + t) * tile_size, s.o - (tile + t) * tile_size, Side::left, {at.left, p.left_part(), p.parts}, (t * steps + i / tile_depth) * tile_values);
    }
  for (std::int64_t residue = 0; residue < p.residues; ++residue) {
    find_pixels(p, k, {p.x, s.sh, residue / p.residues_wide() - s.ph, s.sw, residue % p.residues_wide() - s.pw}, x_rows, p.plane + 1 + tile_depth, at.zeros, at.pixels);
    for (std::int64_t copy = 0; copy < p.copies; ++copy)
      for (std::int64_t i = 0; i < p.plane; i += tile_depth)
        pack_pairs(at.pixels + copy + i, s.c, {at.right + (residue * p.copies + copy) * p.copy_values(), p.right_part(), p.parts}, i * tile_size, p.panel());
  }
  Ahead ahead(p, next, ceil_div(tiles, 2) * ceil_div(s.c, 2 * tile_size) * s.taps() * steps);
  for (std::int64_t t = 0; t < tiles; t += 2)
    for (std::int64_t c = 0; c < s.c; c += 2 * tile_size)
      for (std::int64_t tap = 0; tap < s.taps(); ++tap)
        with_tiles(tiles - t, tiles_of(s.c - c), [&](auto rows, auto columns) {
          constexpr int R = decltype(rows)::value, C = decltype(columns)::value;
          float* sum = sums + tap * p.tap_sums() + (tile + t) * p.sum_row() + c * tile_size;
          if (first) zero_tiles<R, C>();
          else load_blocks<R, C>(sum, p.sum_row());
          const std::int64_t place = p.pointwise ? 0 : p.tap_place(tap), planes = p.pointwise ? 0 : p.tap_residue(tap) * p.copies + place % 2;
          const Bf16* x = at.right + planes * p.copy_values() + c * p.plane + place / 2 * 2 * tile_size;
          multiply_parts<R, C>(steps, {at.left + t * steps * tile_values, steps * tile_values}, p.left_part(), {x, p.panel()}, p.right_part(), p.parts, [&] { ahead.step(); });
          if (gw) store_tiles<R, C>(gw + (tile + t) * tile_size * s.c + c, 4 * s.c);
          else store_blocks<R, C>(sum, p.sum_row());
        });
}

// The shares' sums are added in order into gW.
void write(const Plan& p, const float* sums, const View& gw) {
  const std::int64_t taps = p.s.taps(), step = gw.stride(1);
  parallel_for(p.s.o, 8, [&](std::int64_t o, std::int64_t last) {
    for (; o < last; ++o)
      for (std::int64_t c = 0; c < p.s.c; c += 16)
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const float* from = sums + tap * p.tap_sums() + o / tile_size * p.sum_row() + o % tile_size * tile_size + c * tile_size;
          __m512 sum = _mm512_loadu_ps(from);
          for (std::int64_t share = 1; share < p.pixel_shares; ++share) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + share * p.share_sums()));
          float* to = gw.ptr<float>() + o * gw.stride(0) + c * step + tap / p.s.kw * gw.stride(2) + tap % p.s.kw * gw.stride(3);
          const std::int64_t count = std::min<std::int64_t>(16, p.s.c - c);
          if (step == 1) {
            _mm512_mask_storeu_ps(to, first_lanes(count), sum);
            continue;
          }
          alignas(64) float values[16];
          _mm512_store_ps(values, sum);
          for (std::int64_t i = 0; i < count; ++i) to[i * step] = values[i];
        }
  });
}

template <class T>
void run(const KernelArgs& a) {
  const Plan p = make_plan(a);
  auto* sums = static_cast<float*>(a.workspace);
  auto* scratch = reinterpret_cast<std::byte*>(sums + p.pixel_shares * p.share_sums());
  // A thread packs x once for several shares of the channels, if there are shares enough for all threads. The sums are the same.
  std::int64_t at_once = p.channel_shares;
  while (at_once > 1 && (p.channel_shares % at_once > 0 || p.shares() / at_once < num_threads())) --at_once;
  ScratchSlots slots(p.shares());
  parallel_for(p.shares(), at_once, [&](std::int64_t share, std::int64_t last) {
    configure_tiles();
    const auto slot = slots.take();
    const Sides<T> sides(p, scratch + slot.number() * p.scratch_bytes());
    const std::int64_t pixels = share / p.channel_shares, tile = share % p.channel_shares * p.tiles_per_share();
    const std::int64_t tiles = std::min((last - share) * p.tiles_per_share(), tiles_of(p.s.o) - tile);
    const std::int64_t begin = p.chunks * pixels / p.pixel_shares, end = p.chunks * (pixels + 1) / p.pixel_shares;
    if (tiles <= 0) return;
    for (std::int64_t chunk = begin; chunk < end; ++chunk)
      add_chunk(p, chunk_of(p, chunk), chunk_of(p, chunk + 1), tile, tiles, chunk == begin, p.direct && chunk + 1 == end ? a.out[0].ptr<float>() : nullptr, sides, sums + pixels * p.share_sums());
  });
  if (!p.direct) write(p, sums, a.out[0]);
}
void run_either(const KernelArgs& a) { a.in[0].dtype == DType::bf16 ? run<Bf16>(a) : run<float>(a); }
std::int64_t workspace(const KernelArgs& a) { return make_plan(a).bytes(); }

const char* decline(const KernelArgs& a) {
  if (a.in[0].dtype == DType::bf16) {
    if (a.in[1].dtype != DType::bf16 || a.out[0].dtype != DType::f32) return "bf16 maps with f32 weights only";
  } else {
    if (a.precision == Precision::f32) return "the precision is f32";
    if (!all_f32(a)) return "f32 only";
  }
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (!a.in[0].is_channels_last() || !a.in[1].is_channels_last()) return "not channels_last";
  return a.in[0].numel() > 0 && a.in[1].numel() > 0 ? nullptr : "empty";
}

}  // namespace

extern const KernelEntry conv2d_grad_weight_entry{run_either, decline, workspace};

}  // namespace mien::MIEN_LEVEL
