// A chain of small layers over a batch on tiles, sixteen pictures at a time: a tile of B is 32 channels under a window at 16 pictures, a tile of A 16 outputs,
// and the sums are [output][picture], which is how the next layer reads them. Operands are split in bf16 parts (split.h): f32 products stay f32 products.
//
// Note [Rows on demand]: a layer's row is made when the next layer needs it, from a ring of rows of the map before, so that a group of pictures stays in the
// second cache. Layers whose map is one pixel read their weights once for several groups.
#include <algorithm>
#include <utility>

#include "mien/kernels/cpu/amx/split.h"
#include "mien/kernels/cpu/chain.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t pictures = tile_size, groups_at_once = 4;

std::int64_t even(std::int64_t n) { return round_up(n, 2); }

// Rows of a map in a ring. A row is its parts one after the other; a part is [column][cell][picture] in pairs of a cell's values, then zeros for the loads
// beyond the last window.
struct Ring {
  std::int64_t rows = 0, width = 0, cell = 0;  // cell: values of a column, even
  std::int64_t part() const { return width * cell * pictures + tile_values; }
};

// One layer: x convolved is y, y pooled is z (z = y without pooling).
struct Layer {
  std::int64_t c, h, w;  // of x
  std::int64_t y_c, y_h, y_w, z_h, z_w;
  std::int64_t kernel, pool;
  std::int64_t rows;     // of the ring under a window: kernel, or 1 where a cell holds the channels of `kernel` rows (the first layer, of few channels)
  Ring x;
  std::int64_t sums_at;  // where the rows of y lie, floats
  const Bf16* weight;    // [output tile][row][step][part][16][32]
  const float *bias, *slope;  // bias [output][picture]; slope [output], null: none

  bool stacked() const { return rows != kernel; }
  std::int64_t run() const { return kernel * x.cell; }
  std::int64_t run_steps() const { return steps_of(run()); }
  std::int64_t steps() const { return rows * run_steps(); }
  std::int64_t tiles() const { return tiles_of(y_c); }
  std::int64_t sums() const { return tiles() * tile_size * pictures; }  // of a position
  std::int64_t y_rows() const { return std::max<std::int64_t>(pool, 1); }
};

struct Chain {
  Layer layer[max_chain_layers];
  int count = 0, dense = 0;  // layers from `dense` on are one pixel
  std::int64_t all_sums = 0;

  explicit Chain(const KernelArgs& args) : count(args.get<ConvChainParams>().layers), dense(count) {
    std::int64_t c = args.in[0].size(1), h = args.in[0].size(2), w = args.in[0].size(3);
    for (int i = 0; i < count; ++i) {
      const ChainLayer& q = args.get<ConvChainParams>().layer[static_cast<std::size_t>(i)];
      Layer& l = layer[i] = {};
      l.c = c, l.h = h, l.w = w, l.kernel = q.kernel, l.pool = q.pool;
      l.y_c = q.channels, l.y_h = h - q.kernel + 1, l.y_w = w - q.kernel + 1;
      l.z_h = q.pool ? pooled_side(l.y_h, q.pool) : l.y_h, l.z_w = q.pool ? pooled_side(l.y_w, q.pool) : l.y_w;
      const bool stacked = i == 0 && steps_of(l.kernel * even(l.kernel * c)) < l.kernel * steps_of(l.kernel * even(c));
      l.rows = stacked ? 1 : l.kernel;
      const std::int64_t map_rows = stacked ? l.y_h : h;
      l.x = {std::min(map_rows, l.rows - 1 + l.y_rows()), w, even(stacked ? l.kernel * c : c)};
      if (i > 0 && l.y_h == 1 && l.y_w == 1 && dense == count) dense = i;
      c = l.y_c, h = l.z_h, w = l.z_w;
    }
    for (int i = dense; i < count; ++i) layer[i].x.rows = layer[i].h;
    for (int i = 0; i < dense; ++i) layer[i].sums_at = std::exchange(all_sums, all_sums + layer[i].y_rows() * layer[i].y_w * layer[i].sums());
    for (int i = dense; i < count; ++i) all_sums = std::max(all_sums, groups_at_once * layer[i].sums());
  }
  std::int64_t ring_values(int i) const { return layer[i].x.rows * split_parts * layer[i].x.part(); }
  std::int64_t copies(int i) const { return i >= dense ? groups_at_once : 1; }
  // Rows of the input under one row of the first ring, split: [row][part][channel][column][picture].
  std::int64_t input_rows() const { return layer[0].stacked() ? layer[0].kernel : 1; }
  std::int64_t input_part() const { return even(layer[0].c * layer[0].w) * pictures; }
};

struct Layout {  // bytes, each a multiple of 64
  std::int64_t weights = 0, vectors = 0, rings = 0, input = 0, sums = 0;
  explicit Layout(const Chain& chain) : input(2 * chain.input_rows() * split_parts * chain.input_part()) {
    for (int i = 0; i < chain.count; ++i) {
      const Layer& l = chain.layer[i];
      weights += 2 * l.tiles() * l.steps() * split_parts * tile_values;
      vectors += 4 * (l.sums() + l.tiles() * tile_size);
      rings += 2 * chain.copies(i) * chain.ring_values(i);
    }
    sums = 4 * chain.all_sums;
  }
  std::int64_t share() const { return rings + input + sums; }
  std::int64_t bytes() const { return weights + vectors + max_shares * share(); }
};

// --- weights ---------------------------------------------------------------------------------------------------------

// Where k = row i of the ring's window, value v of its run, lies in packed weights; -1 for values between.
std::int64_t depth_of(const Layer& l, std::int64_t i, std::int64_t v) {
  const std::int64_t column = v / l.x.cell, value = v % l.x.cell, channels = l.stacked() ? l.kernel * l.c : l.c;
  if (v >= l.run() || value >= channels) return -1;
  return ((i + value / l.c) * l.kernel + column) * l.c + value % l.c;
}

void pack_weights(const Layer& l, const float* from, Bf16* to) {
  const std::int64_t depth = l.kernel * l.kernel * l.c;
  for (std::int64_t i = 0; i < l.rows; ++i)
    for (std::int64_t s = 0; s < l.run_steps(); ++s, to += split_parts * tile_values) {
      std::int64_t at[tile_depth];
      for (std::int64_t v = 0; v < tile_depth; ++v) at[v] = depth_of(l, i, s * tile_depth + v);
      for (std::int64_t t = 0; t < l.tiles(); ++t) {
        __m512i lines[split_parts][16];
        for (std::int64_t k = 0; k < 16; ++k) {
          const auto line = [&](std::int64_t d) { return d < 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(from + (t * depth + d) * packed_columns); };
          alignas(64) Bf16 pairs[split_parts * tile_depth];
          split_pairs(line(at[2 * k]), line(at[2 * k + 1]), pairs, tile_depth);
          for (int p = 0; p < split_parts; ++p) lines[p][k] = _mm512_load_si512(pairs + p * tile_depth);
        }
        for (int p = 0; p < split_parts; ++p) store_lines(lines[p], true, to + (t * l.steps() * split_parts + p) * tile_values, tile_depth);
      }
    }
}

// Weights, biases and slopes of all layers into the workspace.
void pack_chain(const KernelArgs& args, Chain& chain, Bf16* weights, float* vectors) {
  int operand = 1;
  for (int i = 0; i < chain.count; ++i) {
    Layer& l = chain.layer[i];
    const bool prelu = args.get<ConvChainParams>().layer[static_cast<std::size_t>(i)].prelu;
    l.weight = std::exchange(weights, weights + l.tiles() * l.steps() * split_parts * tile_values);
    pack_weights(l, args.in[operand].ptr<float>(), const_cast<Bf16*>(l.weight));
    float *bias = std::exchange(vectors, vectors + l.sums()), *slope = std::exchange(vectors, vectors + l.tiles() * tile_size);
    std::fill_n(bias, l.sums() + l.tiles() * tile_size, 0.f);
    const auto value = [&](const View& v, std::int64_t o) { return v.ptr<float>()[o * v.stride(0)]; };
    for (std::int64_t o = 0; o < l.y_c; ++o) {
      std::fill_n(bias + o * pictures, pictures, value(args.in[operand + 1], o));
      if (prelu) slope[o] = value(args.in[operand + 2], o);
    }
    l.bias = bias;
    l.slope = prelu ? slope : nullptr;
    operand += prelu ? 3 : 2;
  }
}

// --- sums ------------------------------------------------------------------------------------------------------------

// A position of a layer at 16 pictures: the first value under each row of its window, and where its sums go: [output][picture].
struct Window {
  const Bf16* at[largest_chain_kernel];
  float* sums;
};

template <int ROWS, int COLS>
void window_tiles(const Layer& l, std::int64_t tile, const Window& left, const Window& right) {
  const std::int64_t block = tile * tile_size * pictures, next = tile_size * pictures, run = l.run_steps() * split_parts * tile_values;
  const float* bias = l.bias + block;
  MIEN_TILE_LOAD(0, bias, std::int64_t{64});
  if constexpr (COLS > 1) MIEN_TILE_LOAD(1, bias, std::int64_t{64});
  if constexpr (ROWS > 1) MIEN_TILE_LOAD(2, bias + next, std::int64_t{64});
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_LOAD(3, bias + next, std::int64_t{64});
  const Bf16 *a0 = l.weight + tile * l.rows * run, *a1 = a0 + l.rows * run;
  for (std::int64_t i = 0; i < l.rows; ++i, a0 += run, a1 += run) multiply_split<ROWS, COLS>(l.run_steps(), a0, a1, left.at[i], right.at[i], l.x.part());
  MIEN_TILE_STORE(0, left.sums + block, std::int64_t{64});
  if constexpr (COLS > 1) MIEN_TILE_STORE(1, right.sums + block, std::int64_t{64});
  if constexpr (ROWS > 1) MIEN_TILE_STORE(2, left.sums + block + next, std::int64_t{64});
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_STORE(3, right.sums + block + next, std::int64_t{64});
}

constexpr std::int64_t windows_at_once = 16;
void multiply_windows(const Layer& l, const Window* windows, std::int64_t count) {
  for (std::int64_t tile = 0; tile < l.tiles(); tile += 2)
    for (std::int64_t k = 0; k < count; k += 2)
      with_tiles(l.tiles() - tile, count - k, [&](auto rows, auto columns) {
        window_tiles<decltype(rows)::value, decltype(columns)::value>(l, tile, windows[k], windows[k + columns - 1]);
      });
}

inline __m512 prelu_of(__m512 x, float slope) {
  const __m512 zero = _mm512_setzero_ps();
  return _mm512_fmadd_ps(_mm512_set1_ps(slope), _mm512_maskz_min_ps(0xffff, zero, x), _mm512_maskz_max_ps(0xffff, zero, x));  // NaN stays NaN
}

// The sums under one window of the pool; f(o, value) for every output o. PReLU rises everywhere or, where its slope is negative, falls and then rises: its
// largest value lies at the largest or the smallest sum. N: how many there are, 0 where the compiler need not know.
template <int N, class F>
void pool_sums(const Layer& l, const float* const* sums, int count, const F& f) {
  const int n = N ? N : count;
  for (std::int64_t o = 0; o < l.y_c; o += 2) {
    __m512 best[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const std::int64_t at = (o + h) * pictures;
      __m512 high = _mm512_load_ps(sums[0] + at);
#pragma GCC unroll 9
      for (int k = 1; k < n; ++k) high = _mm512_maskz_max_ps(0xffff, high, _mm512_load_ps(sums[k] + at));
      if (l.slope) best[h] = prelu_of(high, l.slope[o + h]);
      else best[h] = high;
      if (!(l.slope && n > 1 && l.slope[o + h] < 0)) continue;
      __m512 low = _mm512_load_ps(sums[0] + at);
      for (int k = 1; k < n; ++k) low = _mm512_maskz_min_ps(0xffff, low, _mm512_load_ps(sums[k] + at));
      best[h] = _mm512_maskz_max_ps(0xffff, best[h], prelu_of(low, l.slope[o + h]));
    }
    f(o, best[0], best[1]);
  }
}
// The same for column x of z, out of `count` rows of y.
template <class F>
void pool_column(const Layer& l, const float* const* rows, std::int64_t count, std::int64_t x, const F& f) {
  const std::int64_t left = l.pool ? 2 * x : x, columns = l.pool ? std::min(l.pool, l.y_w - left) : 1;
  const float* sums[9];
  int n = 0;
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < columns; ++j) sums[n++] = rows[i] + (left + j) * l.sums();
  if (n == 9) pool_sums<9>(l, sums, n, f);
  else if (n == 4) pool_sums<4>(l, sums, n, f);
  else if (n == 1) pool_sums<1>(l, sums, n, f);
  else pool_sums<0>(l, sums, n, f);
}

// --- a few groups of pictures ----------------------------------------------------------------------------------------

class Groups {
 public:
  Groups(const KernelArgs& args, const Chain& chain, std::byte* scratch) : x_(args.in[0]), y_(args.out[0]), chain_(chain) {
    const Layout layout(chain);
    auto* at = reinterpret_cast<Bf16*>(scratch);
    for (int i = 0; i < chain.count; ++i) {
      rings_[i] = at;
      const Ring& ring = chain.layer[i].x;
      for (std::int64_t p = 0; p < chain.copies(i) * ring.rows * split_parts; ++p) std::fill_n((at += ring.part()) - tile_values, tile_values, Bf16{0});
    }
    input_ = at;
    sums_ = reinterpret_cast<float*>(scratch + layout.rings + layout.input);
  }

  // Pictures [first, first + count), at most groups_at_once groups.
  void run(std::int64_t first, std::int64_t count) {
    const std::int64_t groups = (count + pictures - 1) / pictures;
    for (std::int64_t g = 0; g < groups; ++g) {
      group_ = g, first_ = first + g * pictures, count_ = std::min(pictures, count - g * pictures);
      std::fill_n(made_x_, max_chain_layers, 0), std::fill_n(made_y_, max_chain_layers, 0);
      made_input_ = 0;
      if (chain_.dense < chain_.count) make_x(chain_.dense, chain_.layer[chain_.dense].h);
      else
        for (std::int64_t row = 0; row < chain_.layer[chain_.count - 1].z_h; ++row) make_z(chain_.count - 1, row);
    }
    for (int i = chain_.dense; i < chain_.count; ++i) {
      const Layer& l = chain_.layer[i];
      Window windows[groups_at_once];
      for (std::int64_t g = 0; g < groups; ++g) {
        for (std::int64_t r = 0; r < l.rows; ++r) windows[g].at[r] = row_of(i, g, r);
        windows[g].sums = sums_ + g * l.sums();
      }
      multiply_windows(l, windows, groups);
      for (std::int64_t g = 0; g < groups; ++g) {
        group_ = g, first_ = first + g * pictures, count_ = std::min(pictures, count - g * pictures);
        const float* rows[1] = {windows[g].sums};
        finish(i, rows, 1, 0);
      }
    }
  }

 private:
  Bf16* row_of(int i, std::int64_t group, std::int64_t row) const {
    const Ring& ring = chain_.layer[i].x;
    return rings_[i] + (i >= chain_.dense ? group * chain_.ring_values(i) : 0) + row % ring.rows * split_parts * ring.part();
  }

  void make_x(int i, std::int64_t end) {  // rows of the map that layer i reads
    for (; made_x_[i] < end; ++made_x_[i]) {
      if (i == 0) gather(made_x_[0]);
      else make_z(i - 1, made_x_[i]);
    }
  }

  void make_z(int i, std::int64_t row) {
    const Layer& l = chain_.layer[i];
    const std::int64_t begin = l.pool ? 2 * row : row, end = std::min(begin + l.y_rows(), l.y_h);
    make_x(i, end + l.rows - 1);
    Window windows[windows_at_once];
    std::int64_t count = 0;
    for (std::int64_t y = std::max(made_y_[i], begin); y < end; ++y) {
      Window now;
      for (std::int64_t r = 0; r < l.rows; ++r) now.at[r] = row_of(i, group_, y + r);
      now.sums = y_row(l, y);
      for (std::int64_t x = 0; x < l.y_w; ++x, now.sums += l.sums()) {
        windows[count++] = now;
        for (std::int64_t r = 0; r < l.rows; ++r) now.at[r] += l.x.cell * pictures;
        if (count == windows_at_once) multiply_windows(l, windows, std::exchange(count, 0));
      }
    }
    multiply_windows(l, windows, count);
    made_y_[i] = end;
    const float* rows[3];
    for (std::int64_t y = begin; y < end; ++y) rows[y - begin] = y_row(l, y);
    finish(i, rows, end - begin, row);
  }
  float* y_row(const Layer& l, std::int64_t y) const { return sums_ + l.sums_at + y % l.y_rows() * l.y_w * l.sums(); }

  // A row of z: into the next layer's ring, or into the output.
  void finish(int i, const float* const* rows, std::int64_t count, std::int64_t row) {
    const Layer& l = chain_.layer[i];
    if (i + 1 == chain_.count) {
      for (std::int64_t x = 0; x < l.z_w; ++x)
        pool_column(l, rows, count, x, [&](std::int64_t o, __m512 a, __m512 b) {
          store_output(l, o, row, x, a);
          if (o + 1 < l.y_c) store_output(l, o + 1, row, x, b);
        });
      return;
    }
    const Ring& next = chain_.layer[i + 1].x;
    Bf16* to = row_of(i + 1, group_, row);
    for (std::int64_t x = 0; x < l.z_w; ++x, to += next.cell * pictures)
      pool_column(l, rows, count, x, [&](std::int64_t o, __m512 a, __m512 b) { split_pairs(a, b, to + o * pictures, next.part()); });
  }
  void store_output(const Layer& l, std::int64_t o, std::int64_t row, std::int64_t x, __m512 v) const {
    alignas(64) float values[pictures];
    _mm512_store_ps(values, v);
    float* to = y_.ptr<float>() + ((first_ * l.y_c + o) * l.z_h + row) * l.z_w + x;
    for (std::int64_t k = 0; k < count_; ++k) to[k * l.y_c * l.z_h * l.z_w] = values[k];
  }

  // Row `row` of the first ring: pairs of channels of one row of the pictures, or of all rows under the kernel.
  void gather(std::int64_t row) {
    const Layer& l = chain_.layer[0];
    const std::int64_t under = chain_.input_rows(), part = chain_.input_part(), values = under * l.c;
    for (; made_input_ < row + under; ++made_input_) load_row(made_input_, input_ + made_input_ % under * split_parts * part);
    Bf16* to = row_of(0, 0, row);
    const std::int64_t step = l.x.cell * pictures, columns = l.w;
    for (int p = 0; p < split_parts; ++p, to += l.x.part())
      for (std::int64_t v = 0; v < values; v += 2) {
        const auto from = [&](std::int64_t k) { return input_ + ((row + k / l.c) % under * split_parts + p) * part + k % l.c * l.w * pictures; };
        const bool alone = v + 1 == values;
        const Bf16 *a = from(v), *b = from(alone ? v : v + 1);
        const __mmask32 mask = alone ? 0xffff : 0xffffffff;
        Bf16* pair = to + v * pictures;
        for (std::int64_t x = 0; x < columns; ++x, a += pictures, b += pictures, pair += step) {
          const auto load = [](const Bf16* q) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(q)); };
          _mm512_store_si512(pair, interleave(_mm512_maskz_mov_epi16(mask, _mm512_inserti64x4(_mm512_castsi256_si512(load(a)), load(b), 1))));
        }
      }
  }
  // Row `row` of 16 pictures, pictures side by side; places without one repeat the last.
  void load_row(std::int64_t row, Bf16* to) const {
    const Layer& l = chain_.layer[0];
    for (std::int64_t c = 0; c < l.c; ++c)
      for (std::int64_t x = 0; x < l.w; x += 16) {
        const std::int64_t columns = std::min<std::int64_t>(16, l.w - x);
        __m512i lines[16];
        for (std::int64_t k = 0; k < 16; ++k)
          lines[k] = _mm512_castps_si512(
              _mm512_maskz_loadu_ps(first_lanes(columns), x_.ptr<float>() + (((first_ + std::min(k, count_ - 1)) * l.c + c) * l.h + row) * l.w + x));
        transpose(lines);
        for (std::int64_t k = 0; k < columns; ++k) split_values(_mm512_castsi512_ps(lines[k]), to + (c * l.w + x + k) * pictures, chain_.input_part());
      }
  }

  const View &x_, &y_;
  const Chain& chain_;
  Bf16 *rings_[max_chain_layers] = {}, *input_ = nullptr;
  float* sums_ = nullptr;
  std::int64_t group_ = 0, first_ = 0, count_ = 0, made_input_ = 0, made_x_[max_chain_layers] = {}, made_y_[max_chain_layers] = {};
};

// --- the kernel ------------------------------------------------------------------------------------------------------

void run(const KernelArgs& args) {
  Chain chain(args);
  const Layout layout(chain);
  auto* at = static_cast<std::byte*>(args.workspace);
  std::byte *vectors = at + layout.weights, *scratch = vectors + layout.vectors;
  pack_chain(args, chain, reinterpret_cast<Bf16*>(at), reinterpret_cast<float*>(vectors));
  // As many groups for one thread as for the other, up to groups_at_once of them together; results do not depend on how many those are.
  const std::int64_t n = args.in[0].size(0), groups = ceil_div(n, pictures), threads = std::min<std::int64_t>(num_threads(), max_shares);
  const std::int64_t blocks = std::min(groups, threads * ceil_div(groups, threads * groups_at_once));
  const std::int64_t shares = num_threads() == 1 ? 1 : shares_of(blocks);
  parallel_for(shares, 1, [&](std::int64_t share, std::int64_t) {
    configure_tiles();
    Groups mine(args, chain, scratch + share * layout.share());
    for (std::int64_t b = share; b < blocks; b += shares) {
      const std::int64_t first = groups * b / blocks * pictures;
      mine.run(first, std::min(groups * (b + 1) / blocks * pictures, n) - first);
    }
  });
}

std::int64_t workspace(const KernelArgs& args) { return Layout(Chain(args)).bytes(); }

}  // namespace

extern const KernelEntry conv_chain_entry{run, decline_chain, workspace};

}  // namespace mien::MIEN_LEVEL
