// packed_conv2d on tiles, bf16 activations and weights: the product of output pixels x (tap, channel) with the packed weights, then bias, residual and
// activation while a block of 32 x 32 sums is in the first cache.
//
// The rows of a 1x1 convolution are read where they lie. Otherwise the pixels under the taps of a block of rows are copied into tiles, which all
// columns of all outputs then share.
#include "mien/kernels/cpu/amx/pack.h"
#include "mien/kernels/cpu/packed_conv.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Plan {
  PackedSizes s;
  const Bf16 *x, *weights, *residual;  // residual: null without
  std::int64_t x_step, residual_step, channel_steps;
  Activation activation;
  std::int64_t rows_at_once, column_shares, panels;
  bool in_place;
  bool flat;  // few channels: k = (tap, channel) without gaps, the weights are packed again so

  std::int64_t pixels() const { return s.n * s.oh * s.ow; }
  std::int64_t steps() const { return flat ? steps_of(s.depth()) : s.taps() * channel_steps; }
  std::int64_t blocks() const { return (pixels() + rows_at_once - 1) / rows_at_once; }
  std::int64_t panel_values() const { return steps() * tile_values; }
  std::int64_t share_values() const { return rows_at_once * steps() * tile_depth; }
  std::int64_t flat_values() const { return flat ? panels * panel_values() : 0; }
  std::int64_t bytes() const { return 2 * 4 * panels * tile_size + 2 * flat_values() + max_shares * 2 * share_values(); }
};

Plan make_plan(const KernelArgs& a) {
  Plan p{};
  const PackedSizes& s = p.s = packed_sizes(a);
  p.x = a.in[0].ptr<Bf16>();
  p.x_step = pixel_step(a.in[0]);
  p.weights = a.in[1].ptr<Bf16>();
  if (const View* residual = packed_extras(a).residual) {
    p.residual = residual->ptr<Bf16>();
    p.residual_step = pixel_step(*residual);
  }
  p.activation = a.get<PackedConvParams>().activation;
  p.channel_steps = steps_of(s.c);
  p.flat = s.c <= tile_depth / 2 && s.taps() > 1 && s.taps() <= 64;
  for (const View& y : a.out) p.panels += tiles_of(y.size(1));
  p.in_place = s.taps() == 1 && s.c % tile_depth == 0 && s.sh == 1 && s.sw == 1 && !s.leaves();
  // A block's tiles stay in the second cache beside a stream of weights.
  p.rows_at_once = std::clamp(std::min((std::int64_t{1} << 18) / (p.steps() * tile_depth), p.pixels() / 4) / 32 * 32, std::int64_t{32}, std::int64_t{512});
  p.column_shares = p.blocks() >= 4 ? 1 : std::min<std::int64_t>(4, (p.panels + 1) / 2);
  return p;
}

// The weights of a few channels, from [tap][32 channels] to k without gaps.
void pack_flat(const Plan& p, Bf16* to) {
  std::fill_n(to, p.flat_values(), Bf16{0});
  for (std::int64_t panel = 0; panel < p.panels; ++panel)
    for (std::int64_t k = 0; k < p.s.depth(); ++k) {
      const std::int64_t tap = k / p.s.c, c = k % p.s.c;
      const Bf16* from = p.weights + (panel * p.s.taps() + tap) * tile_values + c / 2 * tile_depth + c % 2;
      Bf16* out = to + panel * p.panel_values() + k / tile_depth * tile_values + k % tile_depth / 2 * tile_depth + k % 2;
      for (std::int64_t col = 0; col < tile_size; ++col) out[2 * col] = from[2 * col];
    }
}

inline __mmask32 first_halves(std::int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }
// n values, whole vectors and a rest; zeros from a null pointer.
inline void copy_values(const Bf16* from, std::int64_t n, Bf16* to) {
  for (std::int64_t i = 0; i < n; i += tile_depth) {
    const __mmask32 mask = first_halves(n - i);
    _mm512_mask_storeu_epi16(to + i, mask, from ? _mm512_maskz_loadu_epi16(mask, from + i) : _mm512_setzero_si512());
  }
}

// What lies under the taps of one row, as lines of 32 values in [step][16 rows][32]; channels past C are zeros.
class RowGather {
 public:
  explicit RowGather(const Plan& p) : p_(p), s_(p.s), whole_(p.s.c / tile_depth), rest_(first_halves(p.s.c % tile_depth)) {}
  // `base`: the pixel under the first tap of the row, at (y, x) of the picture, perhaps outside of it.
  void put(const Bf16* base, std::int64_t y, std::int64_t x, Bf16* row) const {
    const bool inside = y >= 0 && y + s_.reach_h() < s_.h && x >= 0 && x + s_.reach_w() < s_.w;
    if (p_.flat) return put_flat(base, y, x, inside, row);
    const std::int64_t down = s_.dh * s_.w * p_.x_step, right = s_.dw * p_.x_step;
    for (std::int64_t ky = 0; ky < s_.kh; ++ky) {
      const Bf16* from = base + ky * down;
      for (std::int64_t kx = 0; kx < s_.kw; ++kx, from += right) row = inside || within(y + ky * s_.dh, x + kx * s_.dw) ? copy(from, row) : clear(row);
    }
  }

 private:
  bool within(std::int64_t y, std::int64_t x) const { return y >= 0 && y < s_.h && x >= 0 && x < s_.w; }
  Bf16* copy(const Bf16* from, Bf16* row) const {
    for (std::int64_t k = 0; k < whole_; ++k, row += tile_values) _mm512_store_si512(row, _mm512_loadu_si512(from + k * tile_depth));
    if (!rest_) return row;
    _mm512_store_si512(row, _mm512_maskz_loadu_epi16(rest_, from + whole_ * tile_depth));
    return row + tile_values;
  }
  Bf16* clear(Bf16* row) const {
    for (std::int64_t k = 0; k < p_.channel_steps; ++k, row += tile_values) _mm512_store_si512(row, _mm512_setzero_si512());
    return row;
  }
  void put_flat(const Bf16* base, std::int64_t y, std::int64_t x, bool inside, Bf16* row) const {
    alignas(64) Bf16 line[64 * tile_depth / 2];
    const std::int64_t c = s_.c, depth = s_.depth();
    for (std::int64_t ky = 0; ky < s_.kh; ++ky) {
      const Bf16* from = base + ky * s_.dh * s_.w * p_.x_step;
      Bf16* to = line + ky * s_.kw * c;
      if (inside && s_.dw == 1 && p_.x_step == c) copy_values(from, s_.kw * c, to);
      else
        for (std::int64_t kx = 0; kx < s_.kw; ++kx)
          copy_values(inside || within(y + ky * s_.dh, x + kx * s_.dw) ? from + kx * s_.dw * p_.x_step : nullptr, c, to + kx * c);
    }
    for (std::int64_t k = 0; k < depth; k += tile_depth, row += tile_values) _mm512_store_si512(row, _mm512_maskz_loadu_epi16(first_halves(depth - k), line + k));
  }

  const Plan& p_;
  const PackedSizes& s_;
  std::int64_t whole_;
  __mmask32 rest_;
};

// Rows [first, first + count) as [row tile][step][16 rows][32].
void gather(const Plan& p, std::int64_t first, std::int64_t count, Bf16* to) {
  const PackedSizes& s = p.s;
  const RowGather row(p);
  std::int64_t n = first / (s.oh * s.ow), oy = first / s.ow % s.oh, ox = first % s.ow;
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t y = oy * s.sh - s.top;
    const Bf16* line = p.x + ((n * s.h + y) * s.w - s.left) * p.x_step;
    for (; ox < s.ow && i < count; ++ox, ++i)
      row.put(line + ox * s.sw * p.x_step, y, ox * s.sw - s.left, to + i / tile_size * p.panel_values() + i % tile_size * tile_depth);
    ox = 0;
    if (++oy < s.oh) continue;
    oy = 0;
    ++n;
  }
}

// Where sums of up to 32 x 32 go.
struct Target {
  const float *bias, *slope;                // of the first column, padded to whole panels
  const Bf16* residual;                     // of the first pixel and column; null without
  std::int64_t residual_step;
  void* y;
  std::int64_t y_step;
  std::int64_t rows, cols;
};
template <Activation ACTIVATION, class Y>
void finish(const float* sums, const Target& t) {
  for (std::int64_t j = 0; j < t.cols; j += 16) {
    const __mmask16 mask = first_lanes(t.cols - j);
    const __m512 bias = _mm512_loadu_ps(t.bias + j), slope = ACTIVATION == Activation::prelu ? _mm512_loadu_ps(t.slope + j) : bias;
    for (std::int64_t i = 0; i < t.rows; ++i) {
      __m512 v = _mm512_add_ps(_mm512_load_ps(sums + i * 2 * tile_size + j), bias);
      if (t.residual) v = _mm512_add_ps(v, widen(_mm256_maskz_loadu_epi16(mask, t.residual + i * t.residual_step + j)));
      if constexpr (ACTIVATION == Activation::relu) v = _mm512_max_ps(_mm512_setzero_ps(), v);  // in this order NaN stays
      if constexpr (ACTIVATION == Activation::prelu) v = _mm512_mask_mul_ps(v, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ), v, slope);
      Y* to = static_cast<Y*>(t.y) + i * t.y_step + j;
      if constexpr (sizeof(Y) == 4) _mm512_mask_storeu_ps(to, mask, v);
      else _mm256_mask_storeu_epi16(to, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
    }
  }
}
using Finish = void (*)(const float*, const Target&);
template <class Y>
Finish finish_for(Activation a) {
  return a == Activation::none ? finish<Activation::none, Y> : a == Activation::relu ? finish<Activation::relu, Y> : finish<Activation::prelu, Y>;
}

// Rows [first, first + count) of the panel pairs [begin, end) of every output. `left`: their tiles.
void multiply_block(const KernelArgs& a, const Plan& s, std::int64_t first, std::int64_t count, const Tiles& left, const float* bias, const float* slope,
                    std::int64_t share, std::int64_t shares) {
  alignas(64) float sums[4 * tile_size * tile_size];
  std::int64_t panel = 0, pair = 0;
  for (const View& y : a.out) {
    const bool half = y.dtype == DType::bf16;
    const Finish finish_tile = half ? finish_for<Bf16>(s.activation) : finish_for<float>(s.activation);
    const std::int64_t channels = y.size(1), y_step = pixel_step(y), item = half ? 2 : 4;
    for (std::int64_t col = 0; col < channels; col += 2 * tile_size, ++pair) {
      const std::int64_t cols = std::min(channels - col, 2 * tile_size), at = panel * tile_size;
      const Tiles right{s.weights + panel * s.panel_values(), s.panel_values()};
      panel += tiles_of(cols);
      if (pair % shares != share) continue;
      for (std::int64_t row = 0; row < count; row += 2 * tile_size) {
        const std::int64_t rows = std::min(count - row, 2 * tile_size);
        Tiles a_tiles = left;
        a_tiles.data += row / tile_size * left.tile;
        with_tiles(tiles_of(rows), tiles_of(cols), [&](auto r, auto c) {
          constexpr int R = decltype(r)::value, C = decltype(c)::value;
          zero_tiles<R, C>();
          multiply_tiles<R, C>(s.steps(), a_tiles, right);
          store_tiles<R, C>(sums, 4 * 2 * tile_size);
        });
        const std::int64_t pixel = first + row;
        finish_tile(sums, {bias + at, slope + at, s.residual ? s.residual + pixel * s.residual_step + col : nullptr, s.residual_step,
                           static_cast<std::byte*>(y.data) + (pixel * y_step + col) * item, y_step, rows, cols});
      }
    }
  }
}

void run(const KernelArgs& a) {
  Plan s = make_plan(a);
  auto* bias = static_cast<float*>(a.workspace);
  float* slope = bias + s.panels * tile_size;
  auto* flat = reinterpret_cast<Bf16*>(slope + s.panels * tile_size);
  Bf16* scratch = flat + s.flat_values();
  if (s.flat) {
    pack_flat(s, flat);
    s.weights = flat;
  }
  std::fill_n(bias, 2 * s.panels * tile_size, 0.f);
  const PackedExtras extras = packed_extras(a);
  std::int64_t channel = 0, at = 0;
  for (const View& y : a.out) {
    std::copy_n(extras.bias + channel, y.size(1), bias + at);
    if (extras.slope) std::copy_n(extras.slope + channel, y.size(1), slope + at);
    channel += y.size(1);
    at += tiles_of(y.size(1)) * tile_size;
  }
  ScratchSlots slots;
  for_shares(s.blocks() * s.column_shares, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    configure_tiles();
    const auto slot = slots.take();
    Bf16* tiles = scratch + slot.number() * s.share_values();
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t first = item / s.column_shares * s.rows_at_once, count = std::min(s.rows_at_once, s.pixels() - first), share = item % s.column_shares;
      // Whole tiles only are read in place: one that ends behind the last pixel would read what is not there.
      const std::int64_t lying = s.in_place ? count / tile_size * tile_size : 0, copied = count - lying;
      if (lying > 0)
        multiply_block(a, s, first, lying, {s.x + first * s.x_step, tile_size * s.x_step, tile_depth, 2 * s.x_step}, bias, slope, share, s.column_shares);
      if (copied == 0) continue;
      gather(s, first + lying, copied, tiles);
      multiply_block(a, s, first + lying, copied, {tiles, s.panel_values()}, bias, slope, share, s.column_shares);
    }
  });
}
std::int64_t workspace(const KernelArgs& a) { return make_plan(a).bytes(); }

const char* decline(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1];
  if (x.dtype != DType::bf16 || w.dtype != DType::bf16 || w.rank() != 6) return "not bf16";
  if (!w.is_contiguous()) return "the packed weights are strided";
  for (const std::size_t i : {std::size_t{2}, std::size_t{3}})
    if (i < a.in.size() && a.in[i].rank() == 1 && a.in[i].stride(0) != 1 && a.in[i].size(0) != 1) return "bias or slope is strided";
  if (!pixel_step(x) || (a.get<PackedConvParams>().residual && !pixel_step(a.in.back()))) return "not channels_last";
  for (const View& y : a.out)
    if (!pixel_step(y)) return "not channels_last";
  return x.numel() > 0 && a.out[0].numel() > 0 ? nullptr : "empty";
}

}  // namespace

extern const KernelEntry packed_conv2d_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
