// conv2d_grad_weight on tiles, channels_last: gW[o][c][tap] = sum over pixels of gy[pixel][o] * x[pixel under the tap][c].
//
// Note [Places]: the sum runs over places, 32 in a step. A row of the output is (column, picture), with 32 pictures side by side: a step is then one column, a tap is
// another row of x and a moved start in it, and steps whose column lies outside x are left out. Of small batches as many pictures as there are lie side by side (a
// power of two, or none would begin at a pair), several columns are a step, and x has columns of zeros beside it. A 1x1 convolution has one row of all pixels.
//
// A chunk of rows of gy becomes tiles of the left side (o along the rows, places along k), for some output channels; then some channels of x at a time become
// [16 channels][pair of places][16][2] of the right side and meet all of them under all taps, while what is packed next is called up.
//
// Windows of few values (a picture's three channels) are copied out first, and are the channels of a 1x1 convolution: 3 of 16 columns would be at work otherwise.
#include <utility>

#include "mien/kernels/cpu/amx/packed_rows.h"
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

// A map as pictures of rows of columns; steps in pixels.
struct Map {
  View v;
  std::int64_t image, row, column, pixels;
};

struct Plan {
  ConvSizes s;                                     // 1x1: of 32 pictures of one row
  Map x, gy;                                       // f32 or bf16
  std::int64_t pictures, groups;                   // side by side; groups of them
  std::int64_t rows, columns;                      // of the output in a chunk
  std::int64_t row_steps;                          // of a row of a chunk
  std::int64_t x_rows, planes, plane;              // of x under a chunk: rows; planes of a row, one for each residue of the column modulo the stride; places of a plane
  std::int64_t x_row_step;                         // under one row of the output only rows that a tap reads: their distance; otherwise 1
  std::int64_t row_chunks, column_chunks;
  std::int64_t outputs_at_once, channels_at_once;  // of gy's channels, of x's
  std::int64_t pixel_shares, channel_shares;
  int parts;
  bool direct;  // sums end in gW itself: one share, whole tiles, rows that lie there as they are

  std::int64_t chunks() const { return groups * row_chunks * column_chunks; }
  std::int64_t shares() const { return pixel_shares * channel_shares; }
  // Sums: [tap][tile of o][tile of c][16][16].
  std::int64_t sum_row() const { return tiles_of(s.c) * tile_size * tile_size; }
  std::int64_t tap_sums() const { return tiles_of(s.o) * sum_row(); }
  std::int64_t share_sums() const { return s.taps() * tap_sums(); }
  std::int64_t tiles_per_share() const { return ceil_div(tiles_of(s.o), channel_shares); }
  // Left side: [tile of o][row][step]; right side: [tile of c][row][plane][place].
  std::int64_t steps() const { return rows * row_steps; }
  std::int64_t tiles_at_once() const { return outputs_at_once / tile_size; }
  std::int64_t left_part() const { return tiles_at_once() * steps() * tile_values; }
  std::int64_t places() const { return x_rows * planes * plane; }
  std::int64_t right_part() const { return channels_at_once * places(); }
  std::int64_t zeros() const { return round_up(std::max(s.o, s.c), tile_depth); }  // values of what stands for a pixel outside
  std::int64_t gy_pointers() const { return (steps() + 1) * tile_depth; }  // and some behind them, which are called up
  std::int64_t x_pointers() const { return places() + tile_depth; }
  // Of one thread: both sides, zeros (of up to 4 bytes), and where the pixels of two chunks lie.
  std::int64_t scratch_bytes() const { return round_up(2 * parts * (left_part() + right_part()) + 4 * zeros() + 2 * 8 * (gy_pointers() + x_pointers()), 64); }
  std::int64_t bytes() const { return 4 * pixel_shares * share_sums() + shares() * scratch_bytes(); }

  // Chunks of `r` rows of `c` columns.
  void cut(std::int64_t r, std::int64_t c) {
    rows = r, columns = c;
    row_steps = ceil_div(c * pictures, tile_depth);
    x_row_step = r == 1 ? s.dh : 1;
    x_rows = r == 1 ? s.kh : (r - 1) * s.sh + (s.kh - 1) * s.dh + 1;
    plane = round_up(row_steps * tile_depth + (s.kw - 1) * s.dw / s.sw * pictures, tile_depth);
    row_chunks = ceil_div(s.oh, r), column_chunks = ceil_div(s.ow, c);
  }
};

// Steps of all rows if `pictures` lie side by side.
double steps_of_rows(const ConvSizes& s, std::int64_t pictures) {
  const auto steps = static_cast<double>(ceil_div(s.n, pictures) * ceil_div(s.ow * pictures, tile_depth));
  if (pictures < tile_depth) return steps;
  std::int64_t seen = 0;
  for (std::int64_t j = 0; j < s.kw; ++j) seen += Seen(j * s.dw - s.pw, s.w, s.ow, s.sw).count();
  return steps * static_cast<double>(seen) / static_cast<double>(s.ow * s.kw);
}

Plan make_plan(const KernelArgs& a) {
  Plan p{};
  const View &gy = a.in[0], &x = a.in[1];
  ConvSizes& s = p.s = conv_sizes(x, a.out[0], gy, a.get<ConvParams>());
  p.parts = x.dtype == DType::bf16 ? 1 : parts_of(a.precision);
  if (s.pointwise()) {
    const std::int64_t pixels = s.pixels();
    s.n = tile_depth, s.h = s.oh = 1, s.w = s.ow = ceil_div(pixels, tile_depth);
    p.x = {x, 1, 0, tile_depth, pixels}, p.gy = {gy, 1, 0, tile_depth, pixels};
    p.pictures = tile_depth;
  } else {
    p.x = {x, s.h * s.w, s.w, 1, s.n * s.h * s.w}, p.gy = {gy, s.oh * s.ow, s.ow, 1, s.pixels()};
    p.pictures = 2;
    for (std::int64_t n = 4; n <= tile_depth; n *= 2)
      if (steps_of_rows(s, n) <= steps_of_rows(s, p.pictures)) p.pictures = n;
  }
  p.groups = ceil_div(s.n, p.pictures);
  // Under several taps what is packed serves them all: long chunks of a few channels, in half of a second cache of 2 MB. Under one tap all channels, which are read
  // as they lie, and short chunks, unless their sums, which are fetched for each, don't stay in that cache.
  const std::int64_t outputs = tiles_of(s.o) * tile_size, most = std::int64_t{1} << 18;
  p.outputs_at_once = s.taps() == 1 ? outputs : std::min<std::int64_t>(outputs, 256);
  p.channels_at_once = s.taps() == 1 ? round_up(s.c, tile_depth) : tile_depth;
  const std::int64_t budget = s.taps() > 1 ? 2 * most : p.share_sums() > most ? 3 * most : most;
  p.planes = std::min(s.sw, (s.kw - 1) * s.dw + 1);
  // Whole rows, as many as fit; or a part of one, in whole steps.
  // No fewer columns than a window reaches beyond them, which are packed again for each chunk.
  const std::int64_t step_columns = tile_depth / p.pictures, least_columns = std::max(step_columns, (s.kw - 1) * s.dw / s.sw);
  std::int64_t rows = 1, columns = s.ow;
  const auto fits = [&](std::int64_t r, std::int64_t c) {
    p.cut(r, c);
    return p.parts * (p.left_part() + p.right_part()) <= budget;
  };
  for (std::int64_t parts = 2; !fits(1, columns) && columns > least_columns; ++parts) columns = round_up(ceil_div(s.ow, parts), step_columns);
  while (columns == s.ow && rows < s.oh && fits(rows + 1, columns)) ++rows;
  p.cut(ceil_div(s.oh, ceil_div(s.oh, rows)), columns);
  // Shares of the pixels have sums of their own, worth it while all of them are at most a tenth of what is read; shares of the channels cost a second
  // look at x: only as many as make four shares in all.
  const std::int64_t values = s.n * (s.h * s.w * s.c + s.oh * s.ow * s.o);
  p.pixel_shares = std::clamp(std::min(values / (10 * p.share_sums() + 1), p.chunks()), std::int64_t{1}, std::int64_t{8});
  p.direct = s.taps() == 1 && p.pixel_shares == 1 && s.o % tile_size == 0 && s.c % tile_size == 0 && a.out[0].is_contiguous();
  p.channel_shares = std::clamp(std::min(4 / p.pixel_shares, tiles_of(s.o) / 2), std::int64_t{1}, std::int64_t{4});
  return p;
}

// The first picture, row and column of the output in a chunk, and how many rows and columns there are.
struct Chunk {
  std::int64_t image, row, column, rows, columns;
};
Chunk chunk_of(const Plan& p, std::int64_t number) {
  const std::int64_t column = number % p.column_chunks * p.columns, row = number / p.column_chunks % p.row_chunks * p.rows;
  return {number / p.column_chunks / p.row_chunks * p.pictures, row, column, std::min(p.rows, p.s.oh - row), std::min(p.columns, p.s.ow - column)};
}

// Where the pixels of a chunk lie: of gy [row][place], of x [row][plane][place].
template <class T>
struct Pointers {
  const T **gy, **x;
};
// Scratch memory of one thread.
template <class T>
struct Sides {
  Sides(const Plan& p, void* scratch)
      : left(static_cast<Bf16*>(scratch)), right(left + p.parts * p.left_part()), zeros(reinterpret_cast<T*>(right + p.parts * p.right_part())) {
    auto* at = reinterpret_cast<const T**>(reinterpret_cast<std::byte*>(zeros) + 4 * p.zeros());
    for (Pointers<T>& list : pointers) list.gy = std::exchange(at, at + p.gy_pointers()), list.x = std::exchange(at, at + p.x_pointers());
    std::fill_n(zeros, p.zeros(), T{0});
  }
  Bf16 *left, *right;
  T* zeros;
  Pointers<T> pointers[2];  // of this chunk and of the next
};

// Where the pixels of `columns` columns lie, the pictures of each side by side; zeros for those outside. Every `step`-th column of row y from x on.
template <class T>
void point_at(const Map& m, const Plan& p, std::int64_t image, std::int64_t y, std::int64_t x, std::int64_t step, std::int64_t width, std::int64_t columns, const T* zeros,
              const T** to) {
  const std::int64_t channels = m.v.size(1), images = std::min(p.pictures, p.s.n - image);
  for (std::int64_t k = 0; k < columns; ++k, x += step) {
    const std::int64_t first = image * m.image + y * m.row + x * m.column, last = x >= 0 && x < width ? std::min(images, ceil_div(m.pixels - first, m.image)) : 0;
    for (std::int64_t i = 0; i < p.pictures; ++i) *to++ = i < last ? m.v.ptr<T>() + (first + i * m.image) * channels : zeros;
  }
}

// Where row `row` of x under a chunk lies in the picture, and whether it is inside and under some tap of some row of the output.
std::int64_t x_row(const Plan& p, const Chunk& k, std::int64_t row) { return k.row * p.s.sh - p.s.ph + row * p.x_row_step; }
bool is_read(const Plan& p, const Chunk& k, std::int64_t row) {
  const ConvSizes& s = p.s;
  const std::int64_t y = x_row(p, k, row);
  if (y < 0 || y >= s.h) return false;
  for (std::int64_t i = 0; i < s.kh; ++i) {
    const std::int64_t from = row * p.x_row_step - i * s.dh;
    if (from >= 0 && from % s.sh == 0 && from / s.sh < k.rows) return true;
  }
  return false;
}
template <class T>
void point_at(const Plan& p, const Chunk& k, const T* zeros, const Pointers<T>& pointers) {
  const ConvSizes& s = p.s;
  const T** to = pointers.gy;
  for (std::int64_t row = 0; row < k.rows; ++row, to += p.row_steps * tile_depth)
    point_at(p.gy, p, k.image, k.row + row, k.column, 1, k.column + k.columns, p.row_steps * tile_depth / p.pictures, zeros, to);
  std::fill_n(to, tile_depth, zeros);
  to = pointers.x;
  for (std::int64_t row = 0; row < p.x_rows; ++row)
    for (std::int64_t plane = 0; plane < p.planes; ++plane, to += p.plane)
      if (is_read(p, k, row)) point_at(p.x, p, k.image, x_row(p, k, row), k.column * s.sw - s.pw + plane, s.sw, s.w, p.plane / p.pictures, zeros, to);
      else std::fill_n(to, p.plane, zeros);
  std::fill_n(to, tile_depth, zeros);
}

// gy of a chunk, `tiles` tiles of its channels from `tile` on, as left side.
template <class T>
void make_left(const Plan& p, const Chunk& k, std::int64_t tile, std::int64_t tiles, const T* const* pointers, const Sides<T>& at) {
  for (std::int64_t step = 0; step < k.rows * p.row_steps; ++step, pointers += tile_depth)
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t channel = (tile + t) * tile_size;
      if (sizeof(T) == 4 || t % 2 == 0)  // a line of memory is one tile's channels, or two tiles'
        for (std::int64_t line = 0; line < tile_depth; ++line) call_up(pointers[tile_depth + line] + channel);
      pack_lines(pointers, channel, p.s.o - channel, Side::left, {at.left, p.left_part(), p.parts}, (t * p.steps() + step) * tile_values);
    }
}

// The channels of x from c on, as many as go at once, as right side.
template <class T>
void make_right(const Plan& p, const Chunk& k, std::int64_t c, const T* const* pointers, const Sides<T>& at) {
  const std::int64_t row_places = p.planes * p.plane;
  for (std::int64_t row = 0; row < p.x_rows; ++row) {
    if (!is_read(p, k, row)) continue;
    for (std::int64_t place = row * row_places; place < (row + 1) * row_places; place += tile_depth)
      pack_pairs(pointers + place, c, std::min(p.s.c, c + p.channels_at_once), {at.right, p.right_part(), p.parts}, place * tile_size, p.places() * tile_size);
  }
}

// Calls up what will be packed, some lines of memory at a time, while something else is multiplied.
template <class T>
class Ahead {
 public:
  // Channels [begin, end) of the pixels pointed at.
  void add(const T* const* pointers, std::int64_t count, std::int64_t begin, std::int64_t end) {
    if (count == 0 || begin >= end) return;
    lists_[count_++] = {pointers, pointers + count, begin, begin, end};
    lines_ += count * ceil_div(end - begin, line);
  }
  // step() will be called some `times`.
  void spread(std::int64_t times) { at_once_ = ceil_div(lines_, times); }
  void step() {
    for (std::int64_t i = at_once_; i > 0 && count_ > 0; --i) {
      List& now = lists_[count_ - 1];
      call_up(*now.at + now.c);
      if ((now.c += line) < now.end_c) continue;
      now.c = now.first_c;
      if (++now.at == now.end) --count_;
    }
  }

 private:
  static constexpr std::int64_t line = 64 / sizeof(T);
  struct List {
    const T* const* at;
    const T* const* end;
    std::int64_t first_c, c, end_c;
  };
  List lists_[2];
  int count_ = 0;
  std::int64_t lines_ = 0, at_once_ = 0;
};

// Adds what a chunk gives the channels of x from c on, as many as go at once, and the output tiles from `tile` on. gw: where the sums go instead, after the last
// chunk; null otherwise.
template <class T>
void multiply(const Plan& p, const Chunk& k, std::int64_t tile, std::int64_t tiles, std::int64_t c, bool first, float* gw, const Sides<T>& at, float* sums, Ahead<T> ahead) {
  const ConvSizes& s = p.s;
  const std::int64_t panel = p.places() * tile_size, left_tile = p.steps() * tile_values, end_c = std::min(s.c, c + p.channels_at_once);
  const bool columns_are_steps = p.pictures == tile_depth;
  ahead.spread(ceil_div(tiles, 2) * ceil_div(end_c - c, 2 * tile_size) * s.taps() * k.rows * p.row_steps);
  for (std::int64_t t = 0; t < tiles; t += 2)
    for (std::int64_t at_c = c; at_c < end_c; at_c += 2 * tile_size)
      for (std::int64_t tap = 0; tap < s.taps(); ++tap)
        with_tiles(tiles - t, tiles_of(end_c - at_c), [&](auto rows, auto columns) {
          constexpr int R = decltype(rows)::value, C = decltype(columns)::value;
          float* sum = sums + tap * p.tap_sums() + (tile + t) * p.sum_row() + at_c * tile_size;
          if (first) zero_tiles<R, C>();
          else load_blocks<R, C>(sum, p.sum_row());
          const std::int64_t down = tap / s.kw * s.dh, along = tap % s.kw * s.dw;
          const Seen in_y(k.row * s.sh - s.ph + down, s.h, k.rows, s.sh), in_x(k.column * s.sw - s.pw + along, s.w, k.columns, s.sw);
          const std::int64_t begin = columns_are_steps ? in_x.first : 0, end = columns_are_steps ? in_x.last : ceil_div(k.columns * p.pictures, tile_depth);
          for (std::int64_t r = in_y.first; r < in_y.last; ++r) {
            const std::int64_t place = ((r * s.sh + down) / p.x_row_step * p.planes + along % s.sw) * p.plane + along / s.sw * p.pictures + begin * tile_depth;
            multiply_parts<R, C>(end - begin, {at.left + t * left_tile + (r * p.row_steps + begin) * tile_values, left_tile}, p.left_part(),
                                 {at.right + (at_c - c) / tile_size * panel + place * tile_size, panel}, p.right_part(), p.parts, [&] { ahead.step(); });
          }
          if (gw) store_tiles<R, C>(gw + (tile + t) * tile_size * s.c + at_c, 4 * s.c);
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
  parallel_for(p.shares(), at_once, [&](std::int64_t share, std::int64_t last_share) {
    configure_tiles();
    const auto slot = slots.take();
    const Sides<T> sides(p, scratch + slot.number() * p.scratch_bytes());
    const std::int64_t part = share / p.channel_shares, begin = p.chunks() * part / p.pixel_shares, end = p.chunks() * (part + 1) / p.pixel_shares;
    const std::int64_t first_tile = share % p.channel_shares * p.tiles_per_share();
    const std::int64_t last_tile = std::min(first_tile + (last_share - share) * p.tiles_per_share(), tiles_of(p.s.o));
    for (std::int64_t tile = first_tile; tile < last_tile; tile += p.tiles_at_once()) {
      const std::int64_t tiles = std::min(p.tiles_at_once(), last_tile - tile);
      point_at<T>(p, chunk_of(p, begin), sides.zeros, sides.pointers[begin % 2]);
      for (std::int64_t number = begin; number < end; ++number) {
        const Chunk k = chunk_of(p, number);
        const Pointers<T>&now = sides.pointers[number % 2], &next = sides.pointers[(number + 1) % 2];
        make_left<T>(p, k, tile, tiles, now.gy, sides);
        float* gw = p.direct && number + 1 == end ? a.out[0].ptr<float>() : nullptr;
        for (std::int64_t c = 0; c < p.s.c; c += p.channels_at_once) {
          make_right<T>(p, k, c, now.x, sides);
          Ahead<T> ahead;
          if (const std::int64_t after = c + p.channels_at_once; after < p.s.c) {
            ahead.add(now.x, p.places(), after, std::min(p.s.c, after + p.channels_at_once));
          } else if (number + 1 < end) {
            const Chunk next_chunk = chunk_of(p, number + 1);
            point_at<T>(p, next_chunk, sides.zeros, next);
            ahead.add(next.x, p.places(), 0, std::min(p.s.c, p.channels_at_once));
            ahead.add(next.gy, next_chunk.rows * p.row_steps * tile_depth, tile * tile_size, std::min(p.s.o, (tile + tiles) * tile_size));
          }
          multiply(p, k, tile, tiles, c, number == begin, gw, sides, sums + part * p.share_sums(), ahead);
        }
      }
    }
  });
  if (!p.direct) write(p, sums, a.out[0]);
}

// --- windows of few values -------------------------------------------------------------------------------------------
// gy and the windows under its pixels, [pixel][32] with k = (tap, channel), as a 1x1 convolution.
class Windows {
 public:
  explicit Windows(const KernelArgs& a) : a_(a), s_(conv_sizes(a.in[1], a.out[0], a.in[0], a.get<ConvParams>())) {
    rows_.s = {s_.n, s_.c, s_.h, s_.w, s_.oh, s_.ow, s_.kh, s_.kw, s_.sh, s_.sw, s_.ph, s_.pw, s_.dh, s_.dw};
    rows_.way = Way::patches;
    rows_.tap_steps = 1;
    rows_.units = rows_.at_once = tiles_of(s_.pixels());
    const auto take = [&](std::int64_t bytes) -> void* {
      auto* at = static_cast<std::byte*>(a.workspace);
      const std::int64_t offset = std::exchange(before_, before_ + round_up(bytes, 64));
      return at ? at + offset : nullptr;  // the workspace is not there yet when its size is asked for
    };
    const auto one_row = [&](void* data, std::int64_t channels) {
      return View{data, DType::bf16, {1, channels, 1, s_.pixels()}, {s_.pixels() * channels, 1, s_.pixels() * channels, channels}};
    };
    in_[0] = one_row(a.in[0].data, s_.o);
    in_[1] = one_row(take(2 * rows_.values()), tile_depth);
    numbers_ = static_cast<std::int64_t*>(take(8 * rows_.units * tile_size));
    gw_ = {take(4 * s_.o * tile_depth), DType::f32, {s_.o, tile_depth, 1, 1}, {tile_depth, 1, 1, 1}};
    inner_ = {in_, {&gw_, 1}, &pointwise_, take(0), a.precision};
  }
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  static bool fit(const KernelArgs& a) {
    const ConvSizes s = conv_sizes(a.in[1], a.out[0], a.in[0], a.get<ConvParams>());
    // The windows take 72 bytes for each pixel of gy: little more than twice what gy does at most.
    return a.in[0].dtype == DType::bf16 && s.taps() > 1 && s.taps() * s.c <= tile_depth && s.o >= tile_size;
  }
  std::int64_t bytes() const { return before_ + make_plan(inner_).bytes(); }

  void run() const {
    PackedRows<Bf16>(rows_, a_.in[1], 0, rows_.units, in_[1].ptr<Bf16>(), numbers_).make();
    MIEN_LEVEL::run<Bf16>(inner_);
    const View& gw = a_.out[0];
    for (std::int64_t o = 0; o < s_.o; ++o)
      for (std::int64_t k = 0; k < s_.depth(); ++k) {
        const std::int64_t tap = k / s_.c, c = k % s_.c;
        gw.ptr<float>()[o * gw.stride(0) + c * gw.stride(1) + tap / s_.kw * gw.stride(2) + tap % s_.kw * gw.stride(3)] = gw_.ptr<float>()[o * tile_depth + k];
      }
  }

 private:
  const KernelArgs& a_;
  ConvSizes s_;
  PackedPlan rows_;
  View in_[2], gw_;
  std::int64_t* numbers_;  // of the windows' pixels
  ConvParams pointwise_;
  KernelArgs inner_;
  std::int64_t before_ = 0;  // bytes of the workspace before that of the 1x1 convolution
};

void run_either(const KernelArgs& a) {
  if (Windows::fit(a)) Windows(a).run();
  else if (a.in[0].dtype == DType::bf16) run<Bf16>(a);
  else run<float>(a);
}
std::int64_t workspace(const KernelArgs& a) { return Windows::fit(a) ? Windows(a).bytes() : make_plan(a).bytes(); }

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
