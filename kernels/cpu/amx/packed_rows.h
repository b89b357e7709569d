// The left factor of a convolution on tiles: rows are output pixels, k is (tap, channel). Four ways to have them, so that a map is copied at most once and
// not once a tap:
//   in_place  1x1 with stride 1: the map itself
//   patches   few channels: k without gaps, [row tile][step][16 rows][32]
//   grid      [plane][channel step][place][32]: a plane is the padded picture of one residue modulo the stride, and a tap nothing but a moved start in its
//             plane. Rows run over all places of the grid; those behind the last column or line of the output are thrown away.
//   lines     [tile][y][x][channel step][16 rows][32]: the rows of a tile differ in the image, and in the coordinate along which the kernel does not reach.
//             Nothing is thrown away, and taps that lie outside are left out.
#pragma once

#include "mien/kernels/cpu/amx/pack.h"
#include "mien/kernels/cpu/packed_conv.h"

namespace mien::MIEN_LEVEL {

enum class Way { in_place, patches, grid, lines };

inline __mmask32 first_halves(std::int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }
// Floor and rest of a division that may be of a negative number.
inline std::int64_t floor_div(std::int64_t a, std::int64_t b) { return (a >= 0 ? a : a - b + 1) / b; }

// One side (height or width) of a grid.
struct GridSide {
  std::int64_t planes = 1, places = 0, lowest = 0, highest = 0;  // lowest, highest: of the places that taps reach from place 0 and from the last
  GridSide() = default;
  GridSide(std::int64_t size, std::int64_t out, std::int64_t kernel, std::int64_t stride, std::int64_t dilation, std::int64_t pad) {
    planes = std::min(stride, (kernel - 1) * dilation + 1);
    lowest = std::min<std::int64_t>(0, floor_div(-pad, stride));
    highest = floor_div((kernel - 1) * dilation - pad, stride);
    // What lies left of a line is the end of the one before: the zeros between two lines serve both.
    places = std::max({ceil_div(size, stride) - lowest, out + highest, out});
  }
};

struct PackedPlan {
  PackedSizes s{};
  Way way = Way::grid;
  std::int64_t taps = 1, tap_steps = 0;  // steps of k a tap; patches: one tap that holds them all
  std::int64_t units = 0, at_once = 0;   // grid: images; lines: 16 rows at every place; else: row tiles
  GridSide gy, gx;                       // grid
  bool free_y = false, free_x = false;   // lines: the rows of a tile differ in y, in x

  std::int64_t pixels() const { return s.n * s.oh * s.ow; }
  std::int64_t steps() const { return taps * tap_steps; }
  // grid
  std::int64_t image_places() const { return gy.places * gx.places; }
  std::int64_t lead() const { return -(gy.lowest * gx.places + gx.lowest); }
  std::int64_t plane_places() const {
    const std::int64_t reach = std::max<std::int64_t>(0, gy.highest * gx.places + gx.highest);
    return (lead() + std::max(at_once * image_places(), tiles(at_once) * tile_size + reach)) | 1;  // odd, or the channel steps meet in the same cache sets
  }
  // lines
  std::int64_t free_rows() const { return s.n * (free_y ? s.oh : 1) * (free_x ? s.ow : 1); }
  std::int64_t outer_h() const { return free_y ? 1 : s.oh; }
  std::int64_t outer_w() const { return free_x ? 1 : s.ow; }
  std::int64_t inner_h() const { return free_y ? 1 : s.h; }
  std::int64_t inner_w() const { return free_x ? 1 : s.w; }
  std::int64_t unit_values() const { return inner_h() * inner_w() * tap_steps * tile_values; }

  // Row tiles of `count` units.
  std::int64_t tiles(std::int64_t count) const {
    if (way == Way::grid) return tiles_of((count - 1) * image_places() + s.oh * gx.places);
    return way == Way::lines ? count * outer_h() * outer_w() : count;
  }
  // What the rows of at_once units take.
  std::int64_t values() const {
    switch (way) {
      case Way::in_place: return 2 * tap_steps * tile_values;  // for the last rows
      case Way::patches: return at_once * tap_steps * tile_values;
      case Way::grid: return gy.planes * gx.planes * tap_steps * plane_places() * tile_depth;
      case Way::lines: break;
    }
    return at_once * unit_values();
  }
};

// Pairs of an output place and a tap inside the picture, along one side.
inline std::int64_t hits(std::int64_t size, std::int64_t out, std::int64_t kernel, std::int64_t stride, std::int64_t dilation, std::int64_t pad) {
  std::int64_t n = 0;
  for (std::int64_t k = 0; k < kernel; ++k) {
    const std::int64_t at = k * dilation - pad;
    const std::int64_t first = at < 0 ? ceil_div(-at, stride) : 0, end = at < size ? std::min(out, (size - 1 - at) / stride + 1) : 0;
    n += std::max<std::int64_t>(0, end - first);
  }
  return n;
}

inline constexpr std::int64_t most_weights = std::int64_t{1} << 20;  // bytes; weights that don't fit into the second cache beside the rows are better read once
inline PackedPlan packed_rows_plan(const KernelArgs& a) {
  // Of the second cache, for rows that all columns come back to, and for what is written and added.
  constexpr std::int64_t budget = std::int64_t{1} << 19, map_budget = std::int64_t{1} << 20;
  PackedPlan p;
  const PackedSizes& s = p.s = packed_sizes(a);
  const bool half = a.in[0].dtype == DType::bf16;  // f32 maps are rounded on their way into the rows
  // A gradient of the input crops where the convolution padded more than its kernel reaches: then padding is negative here.
  const bool pointwise = s.taps() == 1 && s.sh == 1 && s.sw == 1 && s.top == 0 && s.left == 0 && s.oh == s.h && s.ow == s.w;
  if (half && pointwise && s.c % tile_depth == 0) {
    p.way = Way::in_place;
    p.tap_steps = s.c / tile_depth;
  } else if (half && !pointwise && s.c <= tile_depth / 2 && s.taps() <= 64) {
    p.way = Way::patches;
    p.tap_steps = steps_of(s.depth());
  } else {
    p.taps = s.taps();
    p.tap_steps = steps_of(s.c);
    p.gy = GridSide(s.h, s.oh, s.kh, s.sh, s.dh, s.top);
    p.gx = GridSide(s.w, s.ow, s.kw, s.sw, s.dw, s.left);
    p.free_y = s.kh == 1 && s.sh == 1 && s.top == 0 && s.oh == s.h;
    p.free_x = s.kw == 1 && s.sw == 1 && s.left == 0 && s.ow == s.w;
    const double hit = static_cast<double>(hits(s.h, s.oh, s.kh, s.sh, s.dh, s.top) * hits(s.w, s.ow, s.kw, s.sw, s.dw, s.left));
    const double inside = hit / static_cast<double>(s.oh * s.ow * s.taps());
    const double by_lines = inside * static_cast<double>(round_up(p.free_rows(), tile_size) * p.outer_h() * p.outer_w());
    p.way = 2 * p.unit_values() <= 2 * budget && by_lines <= static_cast<double>((s.n - 1) * p.image_places() + s.oh * p.gx.places) ? Way::lines : Way::grid;
  }
  std::int64_t beside = 0;  // bytes of a row in the outputs; a residual is often the output's own memory
  for (const View& y : a.out) beside += y.size(1) * (y.dtype == DType::bf16 ? 2 : 4);
  if (2 * a.in[1].numel() > most_weights) beside = 0;
  const std::int64_t step_bytes = 2 * tile_depth;
  if (p.way == Way::grid) {
    p.units = s.n;
    p.at_once = budget / (p.gy.planes * p.gx.planes * p.image_places() * p.tap_steps * step_bytes + s.oh * s.ow * beside);
  } else if (p.way == Way::lines) {
    p.units = tiles_of(p.free_rows());
    p.at_once = budget / (2 * p.unit_values() + p.outer_h() * p.outer_w() * tile_size * beside);
  } else {
    p.units = tiles_of(p.pixels());
    p.at_once = (p.way == Way::in_place ? map_budget : budget) / (tile_size * (p.tap_steps * step_bytes + beside)) / 2 * 2;
  }
  const std::int64_t least = p.way == Way::grid || p.way == Way::lines ? 1 : 2;  // row tiles go in pairs
  p.at_once = std::clamp(p.at_once, least, std::max(least, p.units));
  return p;
}

// 32 values of k from a map, of which `mask` are there.
inline __m512i load_values(const Bf16* from, __mmask32 mask) { return _mm512_maskz_loadu_epi16(mask, from); }
inline __m512i load_values(const float* from, __mmask32 mask) {
  const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  return to_bf16(_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from + 16));
}

// Makes the rows of units [first, first + count) in `to` (values() of them) and writes for each row which output pixel it is, -1 for none. T: of the map.
template <class T>
class PackedRows {
 public:
  PackedRows(const PackedPlan& plan, const View& x, std::int64_t first, std::int64_t count, Bf16* to, std::int64_t* pixels)
      : p_(plan), s_(plan.s), x_(x.ptr<T>()), x_step_(pixel_step(x)), first_(first), count_(count), to_(to), pixels_(pixels), whole_(plan.s.c / tile_depth),
        rest_(first_halves(plan.s.c % tile_depth)) {}

  std::int64_t tiles() const { return p_.tiles(count_); }

  void make() const {
    switch (p_.way) {
      case Way::in_place:
      case Way::patches: return make_patches();
      case Way::grid: return make_grid();
      case Way::lines: return make_lines();
    }
  }

  // The rows of tile `tile` and the next under the first tap; in_place and grid.
  Tiles at(std::int64_t tile) const {
    if (p_.way == Way::grid) return {to_ + (p_.lead() + tile * tile_size) * tile_depth, tile_values, p_.plane_places() * tile_depth};
    if (p_.way == Way::patches) return {to_ + tile * p_.tap_steps * tile_values, p_.tap_steps * tile_values};
    if (tile >= copied_from()) return {to_, p_.tap_steps * tile_values};
    if constexpr (std::is_same_v<T, float>) return {to_, 0};  // never in place
    else return {x_ + (first_ + tile) * tile_size * x_step_, tile_size * x_step_, tile_depth, 2 * x_step_};
  }
  // grid: how far the tap's values lie from those of at().
  std::int64_t tap_offset(std::int64_t ky, std::int64_t kx) const {
    if (p_.way != Way::grid) return 0;
    const std::int64_t y = ky * s_.dh - s_.top, x = kx * s_.dw - s_.left, down = floor_div(y, s_.sh), right = floor_div(x, s_.sw);
    return (plane_of(y - down * s_.sh, x - right * s_.sw) * p_.tap_steps * p_.plane_places() + down * p_.gx.places + right) * tile_depth;
  }
  // lines: the rows of tile `tile` under tap (ky, kx); null outside.
  const Bf16* under(std::int64_t tile, std::int64_t ky, std::int64_t kx) const {
    const std::int64_t place = tile / count_, oy = place / p_.outer_w(), ox = place % p_.outer_w();
    const std::int64_t y = p_.free_y ? 0 : oy * s_.sh + ky * s_.dh - s_.top, x = p_.free_x ? 0 : ox * s_.sw + kx * s_.dw - s_.left;
    if (y < 0 || y >= p_.inner_h() || x < 0 || x >= p_.inner_w()) return nullptr;
    return to_ + ((tile % count_ * p_.inner_h() + y) * p_.inner_w() + x) * p_.tap_steps * tile_values;
  }

 private:
  // in_place: whole tiles only are read where they lie; one that ends behind the last pixel would read what is not there.
  std::int64_t copied_from() const { return (first_ + count_) * tile_size <= p_.pixels() ? count_ : (count_ - 1) / 2 * 2; }
  std::int64_t plane_of(std::int64_t ry, std::int64_t rx) const {
    // Residues that occur, in the order of the taps that reach them.
    return (ry + s_.top) % s_.sh * p_.gx.planes + (rx + s_.left) % s_.sw;
  }

  // A pixel's channels, to lines `step` values apart; zeros past the last one.
  void put(const T* from, Bf16* to, std::int64_t step) const {
    for (std::int64_t k = 0; k < whole_; ++k, to += step) _mm512_store_si512(to, load_values(from + k * tile_depth, ~__mmask32{0}));
    if (rest_) _mm512_store_si512(to, load_values(from + whole_ * tile_depth, rest_));
  }
  // The same 32 channels (or some) of n pixels, as neighbouring lines.
  static void put_lines(const T* from, std::int64_t from_step, std::int64_t n, __mmask32 mask, Bf16* to) {
    for (std::int64_t i = 0; i < n; ++i) _mm512_store_si512(to + i * tile_depth, load_values(from + i * from_step, mask));
  }
  void clear(Bf16* to, std::int64_t step) const {
    for (std::int64_t k = 0; k < p_.tap_steps; ++k, to += step) _mm512_store_si512(to, _mm512_setzero_si512());
  }

  void make_patches() const {
    const bool copies = p_.way == Way::patches;
    const std::int64_t from = copies ? 0 : copied_from() * tile_size, all = std::min(count_ * tile_size, p_.pixels() - first_ * tile_size);
    parallel_for(count_ * tile_size, 1024, [&](std::int64_t row, std::int64_t last) {
      for (std::int64_t i = row; i < last; ++i) pixels_[i] = i < all ? first_ * tile_size + i : -1;
      row = std::max(row, from);
      const std::int64_t pixel = first_ * tile_size + row;
      std::int64_t n = pixel / (s_.oh * s_.ow), oy = pixel / s_.ow % s_.oh, ox = pixel % s_.ow;
      while (row < std::min(last, all)) {
        Bf16* to = to_ + (row - from) / tile_size * p_.tap_steps * tile_values + row % tile_size * tile_depth;
        const std::int64_t y = oy * s_.sh - s_.top, x = ox * s_.sw - s_.left;
        std::int64_t done = 1;
        if (!copies) put(x_ + pixels_[row] * x_step_, to, tile_values);
        else if (const std::int64_t run = short_windows(y, x); run > 0) patch_run(n, y, x, done = std::min({run, s_.ow - ox, std::min(last, all) - row}), to);
        else patch(n, y, x, to);
        row += done;
        if ((ox += done) < s_.ow) continue;
        ox = 0;
        if (++oy < s_.oh) continue;
        oy = 0;
        ++n;
      }
    });
  }
  // How many windows from the one at (y, x) on lie inside the picture, if all values under one are a step of k and those of its lines lie side by side.
  std::int64_t short_windows(std::int64_t y, std::int64_t x) const {
    if (p_.tap_steps > 1 || s_.dw != 1 || x_step_ != s_.c || y < 0 || y + s_.reach_h() >= s_.h || x < 0) return 0;
    return floor_div(s_.w - 1 - s_.reach_w() - x, s_.sw) + 1;
  }
  void patch_run(std::int64_t n, std::int64_t y, std::int64_t x, std::int64_t count, Bf16* to) const {
    const std::int64_t line = s_.kw * s_.c, step = s_.sw * s_.c, down = s_.dh * s_.w * s_.c;
    const T* corner = x_ + ((n * s_.h + y) * s_.w + x) * s_.c;
    const __mmask32 some = first_halves(line);
    for (std::int64_t i = 0; i < count; ++i, corner += step, to += tile_depth) {
      const T* at = corner;
      for (std::int64_t k = 0; k < s_.depth(); k += line, at += down)  // each store clears what lies behind it
        _mm512_mask_storeu_epi16(to + k, first_halves(tile_depth - k), load_values(at, some));
    }
  }
  // What lies under the window that begins at (y, x), line by line of the window.
  void patch(std::int64_t n, std::int64_t y, std::int64_t x, Bf16* to) const {
    const std::int64_t line = s_.kw * s_.c, room = p_.tap_steps * tile_depth;
    alignas(64) Bf16 values[32 * tile_depth];
    Bf16* out = p_.tap_steps == 1 ? to : values;  // each store clears what lies behind it
    const T* corner = x_ + ((n * s_.h + y) * s_.w + x) * x_step_;
    if (y >= 0 && y + s_.reach_h() < s_.h && x >= 0 && x + s_.reach_w() < s_.w && s_.dw == 1 && x_step_ == s_.c) {
      for (std::int64_t ky = 0; ky < s_.kh; ++ky) copy(corner + ky * s_.dh * s_.w * x_step_, line, out + ky * line, room - ky * line);
    } else {
      for (std::int64_t ky = 0; ky < s_.kh; ++ky)
        for (std::int64_t kx = 0; kx < s_.kw; ++kx) {
          const std::int64_t iy = y + ky * s_.dh, ix = x + kx * s_.dw, at = ky * line + kx * s_.c;
          const bool inside = iy >= 0 && iy < s_.h && ix >= 0 && ix < s_.w;
          copy(inside ? corner + (ky * s_.dh * s_.w + kx * s_.dw) * x_step_ : nullptr, s_.c, out + at, room - at);
        }
    }
    if (out == to) return;
    std::fill(values + s_.depth(), values + room, Bf16{0});  // the last copy clears one vector only
    for (std::int64_t k = 0; k < p_.tap_steps; ++k) _mm512_store_si512(to + k * tile_values, _mm512_load_si512(values + k * tile_depth));
  }
  // n values (null: zeros), then zeros as far as a vector reaches and `room` allows.
  static void copy(const T* from, std::int64_t n, Bf16* to, std::int64_t room) {
    for (std::int64_t i = 0; i < n; i += tile_depth)
      _mm512_mask_storeu_epi16(to + i, first_halves(room - i), from ? load_values(from + i, first_halves(n - i)) : _mm512_setzero_si512());
  }

  void make_grid() const {
    const std::int64_t places = p_.plane_places(), step = places * tile_depth, wide = p_.gx.places, high = p_.gy.places, planes = p_.gy.planes * p_.gx.planes;
    const auto clear_places = [&](Bf16* plane, std::int64_t from, std::int64_t end) {
      for (std::int64_t k = 0; k < p_.tap_steps; ++k)
        for (std::int64_t i = from; i < end; ++i) _mm512_store_si512(plane + k * step + i * tile_depth, _mm512_setzero_si512());
    };
    parallel_for(planes * count_ * high, 16, [&](std::int64_t item, std::int64_t last) {
      for (; item < last; ++item) {
        const std::int64_t plane = item / (count_ * high), n = item / high % count_, row = item % high;
        Bf16* to = to_ + plane * p_.tap_steps * step;
        const std::int64_t begin = p_.lead() + (n * high + row) * wide;
        if (item % (count_ * high) == 0) clear_places(to, 0, p_.lead());
        if (item % (count_ * high) == count_ * high - 1) clear_places(to, begin + wide, places);
        // The plane's residues, and how many columns of the picture it holds.
        const std::int64_t ry = residue(plane / p_.gx.planes, s_.top, s_.sh), rx = residue(plane % p_.gx.planes, s_.left, s_.sw), y = row * s_.sh + ry;
        const std::int64_t columns = y < s_.h ? std::max<std::int64_t>(0, (s_.w - rx + s_.sw - 1) / s_.sw) : 0;
        const T* from = x_ + (((first_ + n) * s_.h + y) * s_.w + rx) * x_step_;
        for (std::int64_t k = 0; k < p_.tap_steps; ++k)
          put_lines(from + k * tile_depth, s_.sw * x_step_, columns, k < whole_ ? ~__mmask32{0} : rest_, to + k * step + begin * tile_depth);
        clear_places(to, begin + columns, begin + wide);
        if (plane != 0) continue;
        std::int64_t* pixels = pixels_ + (n * high + row) * wide;
        const std::int64_t all = std::clamp<std::int64_t>(tiles() * tile_size - (n * high + row) * wide, 0, wide), real = row < s_.oh ? std::min(all, s_.ow) : 0;
        for (std::int64_t i = 0; i < real; ++i) pixels[i] = ((first_ + n) * s_.oh + row) * s_.ow + i;
        std::fill(pixels + real, pixels + all, std::int64_t{-1});
      }
    });
    for (std::int64_t at = count_ * high * wide; at < tiles() * tile_size; ++at) pixels_[at] = -1;
  }
  // The residue whose plane has this number: the inverse of plane_of.
  static std::int64_t residue(std::int64_t plane, std::int64_t pad, std::int64_t stride) {
    const std::int64_t r = (plane - pad) % stride;
    return r < 0 ? r + stride : r;
  }

  void make_lines() const {
    const std::int64_t ny = p_.free_y ? s_.oh : 1, nx = p_.free_x ? s_.ow : 1, rows = p_.free_rows();
    parallel_for(count_ * tile_size, 4, [&](std::int64_t row, std::int64_t last) {
      for (; row < last; ++row) {
        const std::int64_t t = row / tile_size, r = row % tile_size, f = first_ * tile_size + row, n = f / (ny * nx), fy = f / nx % ny, fx = f % nx;
        Bf16* to = to_ + t * p_.unit_values() + r * tile_depth;
        const T* from = x_ + ((n * s_.h + fy) * s_.w + fx) * x_step_;
        for (std::int64_t y = 0; y < p_.inner_h(); ++y)
          for (std::int64_t x = 0; x < p_.inner_w(); ++x) {
            Bf16* line = to + (y * p_.inner_w() + x) * p_.tap_steps * tile_values;
            if (f < rows) put(from + (y * s_.w + x) * x_step_, line, tile_values);
            else clear(line, tile_values);
          }
        for (std::int64_t place = 0; place < p_.outer_h() * p_.outer_w(); ++place)
          pixels_[(place * count_ + t) * tile_size + r] =
              f < rows ? (n * s_.oh + (p_.free_y ? fy : place / p_.outer_w())) * s_.ow + (p_.free_x ? fx : place % p_.outer_w()) : -1;
      }
    });
  }

  const PackedPlan& p_;
  const PackedSizes& s_;
  const T* x_;
  std::int64_t x_step_, first_, count_;
  Bf16* to_;
  std::int64_t* pixels_;
  std::int64_t whole_;
  __mmask32 rest_;
};

}  // namespace mien::MIEN_LEVEL
