// conv2d_grad_weight on tiles, channels_last: gW[o][c][tap] = sum over pixels of gy[pixel][o] * x[pixel moved by the tap][c].
// The sum runs over the pixels of a grid that is as wide as the padded picture; gy is zero where the grid has no output pixel. x becomes planes [c][grid],
// one set for each residue modulo the stride, so that a tap is nothing but a moved start in a plane; gy becomes pairs of pixels. Both are made once
// for a chunk of pictures that stays in the second cache and serve all taps. A 1x1 convolution needs no grid: x and gy then swap places, and the
// sums are rows of gW as they are.
#include "mien/kernels/cpu/amx/pack.h"
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

inline constexpr std::int64_t most_pixels = 4096;

struct Plan {
  ConvSizes s;
  bool pointwise;
  View left, right;                       // x and gy, or swapped; f32 or bf16
  std::int64_t left_c, right_c;           // their channels
  std::int64_t grid_h, grid_w, residues;  // of one picture
  std::int64_t group;                     // pictures of a chunk; pointwise: pixels
  std::int64_t chunks, range;             // pixels of the grid that are summed over, padded to whole steps
  std::int64_t plane;                     // length of a plane
  std::int64_t pixel_shares, channel_shares;
  int parts;

  std::int64_t shares() const { return pixel_shares * channel_shares; }
  std::int64_t sum_line() const { return round_up(right_c, tile_size); }
  std::int64_t tap_sums() const { return round_up(left_c, tile_size) * sum_line(); }
  std::int64_t share_sums() const { return s.taps() * tap_sums(); }
  std::int64_t tiles_per_share() const { return (tiles_of(left_c) + channel_shares - 1) / channel_shares; }
  std::int64_t left_part() const { return residues * tiles_per_share() * tile_size * plane; }
  std::int64_t right_part() const { return tiles_of(right_c) * tile_size * range; }
  std::int64_t share_bytes() const { return 2 * parts * round_up(left_part() + right_part(), 32); }
  std::int64_t bytes() const { return 4 * pixel_shares * share_sums() + shares() * share_bytes(); }
};

Plan make_plan(const KernelArgs& a) {
  const View &gy = a.in[0], &x = a.in[1], &gw = a.out[0];
  Plan p{};
  p.s = conv_sizes(x, gw, gy, a.get<ConvParams>());
  const ConvSizes& s = p.s;
  p.pointwise = s.pointwise();
  p.parts = x.dtype == DType::bf16 ? 1 : parts_of(a.precision);
  p.left = p.pointwise ? gy : x;
  p.right = p.pointwise ? x : gy;
  p.left_c = p.pointwise ? s.o : s.c;
  p.right_c = p.pointwise ? s.c : s.o;
  const std::int64_t budget = std::int64_t{1} << 19;  // values of a chunk
  if (p.pointwise) {
    p.residues = 1;
    p.group = std::clamp(budget / (p.parts * (s.c + s.o)) / 128 * 128, std::int64_t{128}, most_pixels);
    p.group = std::min(p.group, round_up(s.pixels(), tile_depth));
    p.chunks = (s.pixels() + p.group - 1) / p.group;
    p.range = p.plane = p.group;
  } else {
    p.residues = std::min(s.sh, (s.kh - 1) * s.dh + 1) * std::min(s.sw, (s.kw - 1) * s.dw + 1);
    p.grid_h = s.oh + (s.kh - 1) * s.dh / s.sh;
    p.grid_w = s.ow + (s.kw - 1) * s.dw / s.sw;
    const auto range = [&](std::int64_t g) { return round_up((g - 1) * p.grid_h * p.grid_w + s.oh * p.grid_w, tile_depth); };
    const auto fits = [&](std::int64_t g) { return g <= s.n && range(g) <= most_pixels && p.parts * (p.residues * s.c + s.o) * range(g) <= budget; };
    double best = 0;
    for (std::int64_t g = 1; g == 1 || fits(g); ++g) {
      const double cost = (static_cast<double>(range(g)) + 128) / static_cast<double>(g);  // 128: for fetching and storing sums
      if (g > 1 && cost >= best) continue;
      best = cost;
      p.group = g;
    }
    p.chunks = (s.n + p.group - 1) / p.group;
    p.range = range(p.group);
    // A tap reads up to this far; the distance of planes is an odd number of cache lines, or all meet in the same few sets.
    p.plane = round_up(p.range + (s.kh - 1) * s.dh / s.sh * p.grid_w + (s.kw - 1) * s.dw / s.sw, 32);
    if (p.plane / 32 % 2 == 0) p.plane += 32;
  }
  // Shares of the pixels have sums of their own, worth it while these are small beside what is read; shares of the channels cost a second look at gy.
  const std::int64_t values = s.n * (s.h * s.w * s.c + s.oh * s.ow * s.o);
  p.pixel_shares = std::clamp(std::min(values / (8 * p.share_sums() + 1), p.chunks), std::int64_t{1}, std::int64_t{8});
  p.channel_shares = std::clamp(std::min(4 / p.pixel_shares, tiles_of(p.left_c) / 2), std::int64_t{1}, std::int64_t{4});
  return p;
}

// Pictures [first, last), pointwise: pixels.
struct Chunk {
  std::int64_t first, last;
};

// Walks over the places of a chunk's grid and says where the pixel of each lies, null outside. Divisions only at the start: they would cost more than
// the packing of a few channels.
template <class T>
class Walk {
 public:
  // of `data` with pictures of h x w pixels of c channels; place (y, x) of the grid is pixel (y * sy + y0, x * sx + x0).
  Walk(const Plan& p, const Chunk& k, const View& data, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t sy, std::int64_t y0, std::int64_t sx, std::int64_t x0)
      : data_(data.ptr<T>()), last_(k.last), grid_h_(p.grid_h), grid_w_(p.grid_w), h_(h), w_(w), c_(c), sy_(sy), y0_(y0), sx_(sx), x0_(x0), n_(k.first), flat_(p.pointwise) {}
  // The next 32 places.
  void next(const T** lines) {
    for (std::int64_t i = 0; i < tile_depth; ++i) {
      if (flat_) {
        lines[i] = n_ < last_ ? data_ + n_ * c_ : nullptr;
        ++n_;
        continue;
      }
      const std::int64_t y = y_ * sy_ + y0_, x = x_ * sx_ + x0_;
      lines[i] = n_ < last_ && y >= 0 && y < h_ && x >= 0 && x < w_ ? data_ + ((n_ * h_ + y) * w_ + x) * c_ : nullptr;
      if (++x_ < grid_w_) continue;
      x_ = 0;
      if (++y_ < grid_h_) continue;
      y_ = 0;
      ++n_;
    }
  }

 private:
  const T* data_;
  std::int64_t last_, grid_h_, grid_w_, h_, w_, c_, sy_, y0_, sx_, x0_;
  std::int64_t n_, y_ = 0, x_ = 0;
  bool flat_;
};

// Adds a chunk to the sums of row tiles [tile, tile + tiles).
template <class T>
void add_chunk(const Plan& p, const Chunk& k, std::int64_t tile, std::int64_t tiles, bool first, Bf16* left, Bf16* right, float* sums) {
  const ConvSizes& s = p.s;
  const T* lines[tile_depth];
  const std::int64_t wide_x = std::min(s.sw, (s.kw - 1) * s.dw + 1), residue_values = p.tiles_per_share() * tile_size * p.plane, steps = p.range / tile_depth;
  const Parts to_left{left, p.left_part(), p.parts}, to_right{right, p.right_part(), p.parts};
  for (std::int64_t residue = 0; residue < p.residues; ++residue) {
    Walk<T> walk(p, k, p.left, s.h, s.w, p.left_c, s.sh, residue / wide_x - s.ph, s.sw, residue % wide_x - s.pw);
    for (std::int64_t at = 0; at < p.plane; at += tile_depth) {
      walk.next(lines);
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t c = (tile + t) * tile_size;
        // Moved starts need planes; whole tiles in a row are read faster.
        if (p.pointwise) pack_lines(lines, c, p.left_c - c, Side::left, to_left, (t * steps + at / tile_depth) * tile_values);
        else pack_lines(lines, c, p.left_c - c, Side::left, to_left, residue * residue_values + t * tile_size * p.plane + at, p.plane);
      }
    }
  }
  Walk<T> walk(p, k, p.right, s.oh, s.ow, p.right_c, 1, 0, 1, 0);
  for (std::int64_t at = 0; at < p.range; at += tile_depth) {
    walk.next(lines);
    for (std::int64_t o = 0; o < p.right_c; o += tile_size)
      pack_lines(lines, o, p.right_c - o, Side::right, to_right, (o / tile_size * steps + at / tile_depth) * tile_values);
  }
  for (std::int64_t o = 0; o < p.right_c; o += 2 * tile_size)
    for (std::int64_t t = 0; t < tiles; t += 2)
      for (std::int64_t tap = 0; tap < s.taps(); ++tap)
        with_tiles(tiles - t, tiles_of(p.right_c - o), [&](auto r, auto c) {
          constexpr int R = decltype(r)::value, C = decltype(c)::value;
          float* sum = sums + tap * p.tap_sums() + (tile + t) * tile_size * p.sum_line() + o;
          if (first) zero_tiles<R, C>();
          else load_tiles<R, C>(sum, 4 * p.sum_line());
          Tiles a{left + t * steps * tile_values, steps * tile_values};
          if (!p.pointwise) {
            const std::int64_t y = tap / s.kw * s.dh, x = tap % s.kw * s.dw, residue = y % s.sh * wide_x + x % s.sw;
            a = {left + residue * residue_values + t * tile_size * p.plane + y / s.sh * p.grid_w + x / s.sw, tile_size * p.plane, tile_depth, 2 * p.plane};
          }
          multiply_parts<R, C>(steps, a, p.left_part(), {right + o / tile_size * steps * tile_values, steps * tile_values}, p.right_part(), p.parts);
          store_tiles<R, C>(sum, 4 * p.sum_line());
        });
}

// The shares' sums are added in order into gW.
void write(const Plan& p, const float* sums, const View& gw) {
  const std::int64_t line = p.sum_line(), taps = p.s.taps();
  const std::int64_t o_step = gw.stride(0), c_step = gw.stride(1);
  parallel_for(tiles_of(p.left_c), 1, [&](std::int64_t tile, std::int64_t) {
    for (std::int64_t l = tile * tile_size; l < std::min((tile + 1) * tile_size, p.left_c); ++l)
      for (std::int64_t r = 0; r < p.right_c; r += 16)
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const float* from = sums + tap * p.tap_sums() + l * line + r;
          __m512 sum = _mm512_loadu_ps(from);
          for (std::int64_t share = 1; share < p.pixel_shares; ++share) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + share * p.share_sums()));
          float* to = gw.ptr<float>() + tap / p.s.kw * gw.stride(2) + tap % p.s.kw * gw.stride(3) + (p.pointwise ? l * o_step + r * c_step : r * o_step + l * c_step);
          const std::int64_t step = p.pointwise ? c_step : o_step, count = std::min<std::int64_t>(16, p.right_c - r);
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
  auto* scratch = reinterpret_cast<Bf16*>(sums + p.pixel_shares * p.share_sums());
  const std::int64_t items = p.pointwise ? p.s.pixels() : p.s.n;
  ScratchSlots slots;
  parallel_for(p.shares(), 1, [&](std::int64_t share, std::int64_t) {
    configure_tiles();
    const auto slot = slots.take();
    Bf16* left = scratch + slot.number() * p.share_bytes() / 2;
    Bf16* right = left + p.parts * p.left_part();
    const std::int64_t pixels = share / p.channel_shares, channels = share % p.channel_shares;
    const std::int64_t tile = channels * p.tiles_per_share(), tiles = std::min(p.tiles_per_share(), tiles_of(p.left_c) - tile);
    const std::int64_t begin = p.chunks * pixels / p.pixel_shares, end = p.chunks * (pixels + 1) / p.pixel_shares;
    if (tiles <= 0) return;
    for (std::int64_t chunk = begin; chunk < end; ++chunk)
      add_chunk<T>(p, {chunk * p.group, std::min(items, (chunk + 1) * p.group)}, tile, tiles, chunk == begin, left, right, sums + pixels * p.share_sums());
  });
  write(p, sums, a.out[0]);
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
