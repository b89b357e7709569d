// conv2d and its gradient of the input on tiles, channels_last. Maps are bf16 (with f32 weights), or f32 and rounded to bf16 (or split, bf16x3) on their way
// into the tiles.
// Both are products whose rows are pixels of a lattice in the output and whose k runs over (tap, channel):
//   forward      one lattice, all output pixels
//   grad_input   one lattice for each residue of the position modulo the stride: the taps that reach it are a convolution of stride 1 of their own
// Those of bf16 maps are products of packed_conv2d, which reads a map once and not once a tap; of f32 maps in bf16, larger kernels with stride 1 are.
#include <numeric>

#include "mien/kernels/cpu/amx/packed_product.h"
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

// Tap (dy, dx): reads the source pixel that lies there from the row's own; `w` is where its weights begin.
struct Tap {
  std::int64_t dy, dx, w;
};
inline constexpr std::int64_t most_taps = 64;

// The source pixel of lattice row (n, r, q) is (n, r * step_y + y, q * step_x + x); its output pixel (n, r * out_y + first_y, q * out_x + first_x).
struct Lattice {
  std::int64_t n, rows, cols;
  std::int64_t step_y, y, step_x, x;
  std::int64_t out_y, first_y, out_x, first_x;
  std::int64_t taps = 0;
  Tap tap[most_taps] = {};
  std::int64_t size() const { return n * rows * cols; }
  bool dense() const { return out_y == 1 && out_x == 1; }
};

struct Problem {
  const float* x;
  std::int64_t h, w, c;    // source pictures
  const float* weights;
  std::int64_t o_step, c_step;  // distance of the columns (output channels) and of the channels that are summed over
  const float* bias;
  float* y;
  std::int64_t oh, ow, o;
  int parts;
};

std::int64_t steps(const Problem& p, const Lattice& l) { return steps_of(l.taps * p.c); }

// Rows that are worked on at a time: their tiles stay in the second cache with what is written, several of them share the weights, and few are still shared out.
std::int64_t rows_at_once(const Problem& p, const Lattice& l) {
  const std::int64_t bytes = 64 * p.parts * std::max<std::int64_t>(1, steps(p, l)) + 4 * p.o;
  const std::int64_t rows = std::min({std::int64_t{512}, (std::int64_t{1} << 19) / bytes, l.size() / 4});
  return std::max<std::int64_t>(rows / 32, 1) * 32;
}
std::int64_t left_part(const Problem& p, const Lattice& l) { return rows_at_once(p, l) * steps(p, l) * tile_depth; }
std::int64_t right_part(const Problem& p, const Lattice& l) { return tiles_of(p.o) * steps(p, l) * tile_values; }
std::int64_t line_values(const Problem& p, const Lattice& l) { return steps(p, l) * tile_depth; }  // one row, for odd channel counts
std::int64_t bias_floats(const Problem& p) { return tiles_of(p.o) * tile_size; }
constexpr std::int64_t buffer_floats = 4 * tile_size * tile_size;
std::int64_t share_bytes(const Problem& p, const Lattice& l) { return 2 * p.parts * left_part(p, l) + 4 * (line_values(p, l) + buffer_floats); }
std::int64_t product_bytes(const Problem& p, const Lattice& l) { return 2 * p.parts * right_part(p, l) + 4 * bias_floats(p) + max_shares * share_bytes(p, l); }

// The weights as column tiles [column tile][step][16 pairs][16 columns][2], k = (tap, channel) without gaps.
void pack_weights(const Problem& p, const Lattice& l, Bf16* out) {
  const std::int64_t all = steps(p, l), k_size = l.taps * p.c;
  const Parts to{out, right_part(p, l), p.parts};
  const bool whole = p.c % tile_depth == 0;
  parallel_for(tiles_of(p.o), 1, [&](std::int64_t tile, std::int64_t) {
    const float* w = p.weights + tile * tile_size * p.o_step;
    const std::int64_t columns = p.o - tile * tile_size;
    if (whole || l.taps == 1) {
      for (std::int64_t c = 0; c < p.c; c += tile_depth)
        for (std::int64_t t = 0; t < l.taps; ++t)
          pack_tile(w + l.tap[t].w + c * p.c_step, p.o_step, p.c_step, columns, p.c - c, Side::right, to, (tile * all + (t * p.c + c) / tile_depth) * tile_values);
      return;
    }
    for (std::int64_t s = 0; s < all; ++s) {
      alignas(64) float block[tile_depth * tile_size] = {};
      for (std::int64_t i = 0; i < tile_depth && s * tile_depth + i < k_size; ++i) {
        const std::int64_t k = s * tile_depth + i;
        const float* from = w + l.tap[k / p.c].w + k % p.c * p.c_step;
        for (std::int64_t j = 0; j < std::min(columns, tile_size); ++j) block[i * tile_size + j] = from[j * p.o_step];
      }
      pack_tile(block, 1, tile_size, tile_size, tile_depth, Side::right, to, (tile * all + s) * tile_values);
    }
  });
}

inline void copy_lanes(const float* from, __mmask16 mask, float* to) {
  _mm512_mask_storeu_ps(to, mask, from ? _mm512_maskz_loadu_ps(mask, from) : _mm512_setzero_ps());
}

inline void put_half(const float* from, Bf16* to, const Parts& parts) {
  const __m512 v = from ? _mm512_loadu_ps(from) : _mm512_setzero_ps();
  const __m512i high = to_bf16(v, v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(high));
  if (parts.count > 1) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + parts.part), _mm512_castsi512_si256(low_part(v, v, high)));
}
inline void put_line(const float* from, Bf16* to, const Parts& parts) {
  const __m512 a = from ? _mm512_loadu_ps(from) : _mm512_setzero_ps(), b = from ? _mm512_loadu_ps(from + 16) : _mm512_setzero_ps();
  const __m512i high = to_bf16(a, b);
  _mm512_storeu_si512(to, high);
  if (parts.count > 1) _mm512_storeu_si512(to + parts.part, low_part(a, b, high));
}

// Rows [first, first + count) as row tiles [row tile][step][16 rows][32]; where each row's output pixel lies goes to `pixels`.
void gather(const Problem& p, const Lattice& l, std::int64_t first, std::int64_t count, const Parts& to, float* line, std::int64_t* pixels) {
  const std::int64_t all = steps(p, l), k_size = l.taps * p.c;
  std::int64_t offset[most_taps], top = 0, bottom = 0, left = 0, right = 0;  // of the taps from the row's own pixel, and how far they reach
  for (std::int64_t t = 0; t < l.taps; ++t) {
    const Tap& tap = l.tap[t];
    offset[t] = (tap.dy * p.w + tap.dx) * p.c;
    top = std::min(top, tap.dy), bottom = std::max(bottom, tap.dy), left = std::min(left, tap.dx), right = std::max(right, tap.dx);
  }
  std::int64_t n = first / (l.rows * l.cols), r = first / l.cols % l.rows, q = first % l.cols;
  for (std::int64_t i = 0; i < count; ++i) {
    Bf16* row = to.data + i / tile_size * all * tile_values + i % tile_size * tile_depth;
    const std::int64_t y = r * l.step_y + l.y, x = q * l.step_x + l.x;
    const float* base = p.x + ((n * p.h + y) * p.w + x) * p.c;
    const bool inside = y + top >= 0 && y + bottom < p.h && x + left >= 0 && x + right < p.w;
    const auto source = [&](std::int64_t t) -> const float* {
      const std::int64_t sy = y + l.tap[t].dy, sx = x + l.tap[t].dx;
      return inside || (sy >= 0 && sy < p.h && sx >= 0 && sx < p.w) ? base + offset[t] : nullptr;
    };
    if (p.c % tile_depth == 0) {
      for (std::int64_t t = 0; t < l.taps; ++t) {
        const float* from = source(t);
        for (std::int64_t c = 0; c < p.c; c += tile_depth, row += tile_values) put_line(from ? from + c : nullptr, row, to);
      }
    } else if (p.c % 16 == 0) {
      std::int64_t k = 0;
      for (std::int64_t t = 0; t < l.taps; ++t) {
        const float* from = source(t);
        for (std::int64_t c = 0; c < p.c; c += 16, k += 16) put_half(from ? from + c : nullptr, row + k / tile_depth * tile_values + k % tile_depth, to);
      }
      if (k % tile_depth) put_half(nullptr, row + k / tile_depth * tile_values + 16, to);
    } else {
      for (std::int64_t t = 0; t < l.taps; ++t) {
        const float* from = source(t);
        for (std::int64_t c = 0; c < p.c; c += 16) {
          copy_lanes(from ? from + c : nullptr, first_lanes(p.c - c), line + t * p.c + c);
        }
      }
      std::fill(line + k_size, line + all * tile_depth, 0.f);
      for (std::int64_t s = 0; s < all; ++s) put_line(line + s * tile_depth, row + s * tile_values, to);
    }
    pixels[i] = (n * p.oh + r * l.out_y + l.first_y) * p.ow + q * l.out_x + l.first_x;
    if (++q < l.cols) continue;
    q = 0;
    if (++r < l.rows) continue;
    r = 0;
    ++n;
  }
}

// Output tiles of gathered rows: straight into y where whole tiles lie there densely, else through a buffer.
void multiply_block(const Problem& p, const Lattice& l, std::int64_t count, const std::int64_t* pixels, const Bf16* left, const Bf16* right, const float* bias, float* buffer) {
  const std::int64_t all = steps(p, l);
  const auto block = [&](std::int64_t row, std::int64_t col) {
    const std::int64_t rows = std::min(count - row, 2 * tile_size), cols = std::min(p.o - col, 2 * tile_size);
    with_tiles(tiles_of(rows), tiles_of(cols), [&](auto r, auto c) {
      constexpr int R = decltype(r)::value, C = decltype(c)::value;
      if (bias) load_tiles<R, C>(bias + col, 0);
      else zero_tiles<R, C>();
      multiply_parts<R, C>(all, {left + row / tile_size * all * tile_values, all * tile_values}, left_part(p, l),
                           {right + col / tile_size * all * tile_values, all * tile_values}, right_part(p, l), p.parts);
      if (l.dense() && rows == R * tile_size && cols == C * tile_size) return store_tiles<R, C>(p.y + pixels[row] * p.o + col, 4 * p.o);
      store_tiles<R, C>(buffer, 4 * 2 * tile_size);
      for (std::int64_t i = 0; i < rows; ++i) {
        float* to = p.y + pixels[row + i] * p.o + col;
        const float* from = buffer + i * 2 * tile_size;
        for (std::int64_t j = 0; j < cols; j += 16) _mm512_mask_storeu_ps(to + j, first_lanes(cols - j), _mm512_loadu_ps(from + j));
      }
    });
  };
  // Rows of y are long and lie in memory, not in a cache: whole ones are written faster, where the weights allow it.
  const bool whole_rows = 2 * p.parts * right_part(p, l) <= std::int64_t{1} << 20;
  if (whole_rows)
    for (std::int64_t row = 0; row < count; row += 2 * tile_size)
      for (std::int64_t col = 0; col < p.o; col += 2 * tile_size) block(row, col);
  else
    for (std::int64_t col = 0; col < p.o; col += 2 * tile_size)
      for (std::int64_t row = 0; row < count; row += 2 * tile_size) block(row, col);
}

void product(const Problem& p, const Lattice& l, void* workspace) {
  auto* right = static_cast<Bf16*>(workspace);
  auto* bias = reinterpret_cast<float*>(right + p.parts * right_part(p, l));
  auto* scratch = reinterpret_cast<std::byte*>(bias + bias_floats(p));
  pack_weights(p, l, right);
  if (p.bias) {
    std::fill_n(bias, bias_floats(p), 0.f);
    std::copy_n(p.bias, p.o, bias);
  }
  const std::int64_t at_once = rows_at_once(p, l);
  ScratchSlots slots(max_shares);
  for_shares((l.size() + at_once - 1) / at_once, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    configure_tiles();
    const auto slot = slots.take();
    auto* left = reinterpret_cast<Bf16*>(scratch + slot.number() * share_bytes(p, l));
    auto* buffer = reinterpret_cast<float*>(left + p.parts * left_part(p, l));
    auto* line = buffer + buffer_floats;
    std::int64_t pixels[512];
    for (std::int64_t first = begin * at_once; first < std::min(end * at_once, l.size()); first += at_once) {
      const std::int64_t count = std::min(at_once, l.size() - first);
      gather(p, l, first, count, {left, left_part(p, l), p.parts}, line, pixels);
      multiply_block(p, l, count, pixels, left, right, p.bias ? bias : nullptr, buffer);
    }
  });
}

bool half_maps(const KernelArgs& a) { return a.in[0].dtype == DType::bf16; }
const char* decline(const KernelArgs& a, const View& x, const View& y) {
  if (half_maps(a)) {
    if (y.dtype != DType::bf16 || !all_f32({a.in.subspan(1), {}})) return "bf16 maps with f32 weights only";
  } else {
    if (a.precision == Precision::f32) return "the precision is f32";
    if (!all_f32(a)) return "f32 only";
  }
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (a.in[1].size(2) * a.in[1].size(3) > most_taps) return "many taps";
  if (!x.is_channels_last() || !y.is_channels_last()) return "not channels_last";
  return x.numel() > 0 && y.numel() > 0 ? nullptr : "empty";
}

// --- as a packed convolution -----------------------------------------------------------------------------------------
struct Packed {
  PackedConvParams params;
  View in[4], out[1];  // x, weights (for their size), bias, what is added; y
  View w;
  int o_dim, c_dim;    // of the weights: columns, and what is summed over
  bool turned;         // the taps from the last to the first
  KernelArgs args() const { return {in, out, &params}; }
  std::int64_t weight_values(const ProductPlan& p) const { return p.panels * p.panel_values(); }

  // A window of few channels: k = (tap, channel) without gaps.
  void pack_flat(const ProductPlan& p, Bf16* to) const {
    const std::int64_t channels = w.size(c_dim), taps = w.size(2) * w.size(3), kw = w.size(3), depth = p.rows.tap_steps * tile_depth;
    parallel_for(p.panels, 1, [&](std::int64_t panel, std::int64_t) {
      const float* first = w.ptr<float>() + panel * tile_size * w.stride(o_dim);
      const std::int64_t columns = std::min(tile_size, w.size(o_dim) - panel * tile_size);
      for (std::int64_t k0 = 0; k0 < depth; k0 += tile_depth) {
        alignas(64) float block[tile_depth * tile_size] = {};
        for (std::int64_t k = k0; k < std::min(k0 + tile_depth, taps * channels); ++k) {
          const std::int64_t tap = turned ? taps - 1 - k / channels : k / channels;
          const float* from = first + tap / kw * w.stride(2) + tap % kw * w.stride(3) + k % channels * w.stride(c_dim);
          for (std::int64_t j = 0; j < columns; ++j) block[(k - k0) * tile_size + j] = from[j * w.stride(o_dim)];
        }
        pack_tile(block, 1, tile_size, tile_size, tile_depth, Side::right, {to, 0, 1}, panel * p.panel_values() + k0 / tile_depth * tile_values);
      }
    });
  }
  void pack(const ProductPlan& p, Bf16* to) const {
    if (p.rows.way == Way::patches) return pack_flat(p, to);
    const std::int64_t taps = p.rows.taps, steps = p.rows.tap_steps, kw = w.size(3), channels = w.size(c_dim);
    const auto tile = [&](std::int64_t panel, std::int64_t t, std::int64_t k) {
      const std::int64_t tap = turned ? taps - 1 - t : t;
      const float* from = w.ptr<float>() + panel * tile_size * w.stride(o_dim) + tap / kw * w.stride(2) + tap % kw * w.stride(3);
      pack_tile(from + k * tile_depth * w.stride(c_dim), w.stride(o_dim), w.stride(c_dim), w.size(o_dim) - panel * tile_size, channels - k * tile_depth,
                Side::right, {to, 0, 1}, ((panel * taps + t) * steps + k) * tile_values);
    };
    // The weights in the order in which they lie in memory.
    if (w.stride(o_dim) < w.stride(c_dim))
      parallel_for(steps, 1, [&](std::int64_t k, std::int64_t) {
        for (std::int64_t panel = 0; panel < p.panels; ++panel)
          for (std::int64_t t = 0; t < taps; ++t) tile(panel, t, k);
      });
    else
      parallel_for(p.panels, 1, [&](std::int64_t panel, std::int64_t) {
        for (std::int64_t k = 0; k < steps; ++k)
          for (std::int64_t t = 0; t < taps; ++t) tile(panel, t, k);
      });
  }
  void run(void* workspace, const OutputLattice* lattice = nullptr) const {
    const KernelArgs a = args();
    const ProductPlan p = product_plan(a);
    auto* weights = static_cast<Bf16*>(workspace);
    pack(p, weights);
    if (half_maps(a)) run_product<Bf16>(a, p, weights, weights + weight_values(p), lattice);
    else run_product<float>(a, p, weights, weights + weight_values(p), lattice);
  }
  std::int64_t bytes() const {
    const ProductPlan p = product_plan(args());
    return 2 * weight_values(p) + p.bytes();
  }
};
// x is the first input of the call. A gradient of the input is the convolution of gy with the turned kernel where the stride is 1.
Packed packed(const KernelArgs& a, bool gradient) {
  const View& w = a.in[1];
  Packed p{{}, {a.in[0], w, View{}, View{}}, {a.out[0]}, w, gradient ? 1 : 0, gradient ? 0 : 1, gradient};
  static_cast<ConvParams&>(p.params) = a.get<ConvParams>();
  p.params.kernel = {w.size(2), w.size(3)};
  p.params.channels[0] = a.out[0].size(1);
  if (!gradient && a.in.size() > 2) p.in[2] = a.in[2];
  for (const std::size_t side : {std::size_t{0}, std::size_t{2}})
    if (gradient) p.params.padding[side] = p.params.dilation[side / 2] * (p.params.kernel[side / 2] - 1) - p.params.padding[side];
  return p;
}
// A pointwise convolution of f32 maps is faster as it is: nothing is read twice, and the tiles go into y without a detour.
bool goes_packed(const KernelArgs& a) {
  if (half_maps(a)) return a.get<ConvParams>().stride == Pair{1, 1};
  return a.precision == Precision::bf16 && a.get<ConvParams>().stride == Pair{1, 1} && a.in[0].size(1) > tile_depth / 2 && a.in[1].size(2) * a.in[1].size(3) > 1;
}

// --- forward ---------------------------------------------------------------------------------------------------------
Problem forward_problem(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  return {x.ptr<float>(), x.size(2), x.size(3), x.size(1), w.ptr<float>(), w.stride(0), w.stride(1), a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr,
          y.ptr<float>(), y.size(2), y.size(3), y.size(1), parts_of(a.precision)};
}
Lattice forward_lattice(const KernelArgs& a) {
  const View &w = a.in[1], &y = a.out[0];
  const auto& p = a.get<ConvParams>();
  Lattice l{y.size(0), y.size(2), y.size(3), p.stride[0], -p.padding[0], p.stride[1], -p.padding[2], 1, 0, 1, 0};
  for (std::int64_t i = 0; i < w.size(2); ++i)
    for (std::int64_t j = 0; j < w.size(3); ++j) l.tap[l.taps++] = {i * p.dilation[0], j * p.dilation[1], i * w.stride(2) + j * w.stride(3)};
  return l;
}
void run_forward(const KernelArgs& a) {
  if (goes_packed(a) || half_maps(a)) return packed(a, false).run(a.workspace);
  product(forward_problem(a), forward_lattice(a), a.workspace);
}
std::int64_t forward_workspace(const KernelArgs& a) {
  if (goes_packed(a) || half_maps(a)) return packed(a, false).bytes();
  return product_bytes(forward_problem(a), forward_lattice(a));
}
const char* decline_forward(const KernelArgs& a) { return strided_bias(a) ? "the bias is strided" : decline(a, a.in[0], a.out[0]); }

// --- gradient of the input -------------------------------------------------------------------------------------------
Problem grad_input_problem(const KernelArgs& a) {
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  return {gy.ptr<float>(), gy.size(2), gy.size(3), gy.size(1), w.ptr<float>(), w.stride(1), w.stride(0), nullptr,
          gx.ptr<float>(), gx.size(2), gx.size(3), gx.size(1), parts_of(a.precision)};
}
// How many positions of `size` have this residue modulo the stride.
std::int64_t positions(std::int64_t size, std::int64_t residue, std::int64_t stride) { return residue < size ? (size - residue - 1) / stride + 1 : 0; }
// Positions (y, x) with y % stride == a, x % stride == b. Output pixel o of the forward pass and tap i meet at y = o * stride - padding + i * dilation.
Lattice residue_lattice(const KernelArgs& a, std::int64_t ry, std::int64_t rx) {
  const View &w = a.in[1], &gx = a.out[0];
  const auto& p = a.get<ConvParams>();
  Lattice l{gx.size(0), positions(gx.size(2), ry, p.stride[0]), positions(gx.size(3), rx, p.stride[1]), 1, 0, 1, 0, p.stride[0], ry, p.stride[1], rx};
  for (std::int64_t i = 0; i < w.size(2); ++i)
    for (std::int64_t j = 0; j < w.size(3); ++j) {
      const std::int64_t dy = ry + p.padding[0] - i * p.dilation[0], dx = rx + p.padding[2] - j * p.dilation[1];
      if (dy % p.stride[0] == 0 && dx % p.stride[1] == 0) l.tap[l.taps++] = {dy / p.stride[0], dx / p.stride[1], i * w.stride(2) + j * w.stride(3)};
    }
  return l;
}
// The same for a packed product, along one side: every `step`-th tap from `first` on meets the positions, each `dilation` pixels of gy before the one before it.
struct Residue {
  std::int64_t first, step, taps, dilation, padding;
  Residue(std::int64_t kernel, std::int64_t residue, std::int64_t stride, std::int64_t dilation_of_all, std::int64_t padding_of_all)
      : step(stride / std::gcd(stride, dilation_of_all)), dilation(dilation_of_all / std::gcd(stride, dilation_of_all)) {
    const auto distance = [&](std::int64_t tap) { return residue + padding_of_all - tap * dilation_of_all; };
    for (first = 0; first < std::min(step, kernel) && distance(first) % stride != 0;) ++first;
    taps = first < std::min(step, kernel) ? (kernel - 1 - first) / step + 1 : 0;
    padding = (taps - 1) * dilation - distance(first) / stride;
  }
};
Packed packed_residue(const KernelArgs& a, std::int64_t ry, std::int64_t rx) {
  Packed p = packed(a, true);
  const auto& all = a.get<ConvParams>();
  const std::int64_t residue[] = {ry, rx};
  std::int64_t size[2];
  for (const int k : {0, 1}) {
    const Residue r(p.w.size(k + 2), residue[k], all.stride[k], all.dilation[k], all.padding[2 * k]);
    p.w.data = p.w.ptr<float>() + r.first * p.w.stride(k + 2);
    p.w.shape[k + 2] = p.params.kernel[k] = r.taps;
    p.w.strides[k + 2] *= r.step;
    p.params.stride[k] = 1;
    p.params.dilation[k] = r.dilation;
    p.params.padding[2 * k] = r.padding;
    size[k] = positions(a.out[0].size(k + 2), residue[k], all.stride[k]);
  }
  p.in[1] = p.w;
  const std::int64_t n = a.out[0].size(0), c = a.out[0].size(1);
  p.out[0] = {a.out[0].data, a.out[0].dtype, {n, c, size[0], size[1]}, {size[0] * size[1] * c, 1, size[1] * c, c}};
  return p;
}
template <class F>
void each_residue(const KernelArgs& a, const F& f) {
  const auto& p = a.get<ConvParams>();
  for (std::int64_t y = 0; y < std::min(p.stride[0], a.out[0].size(2)); ++y)
    for (std::int64_t x = 0; x < std::min(p.stride[1], a.out[0].size(3)); ++x) f(y, x);
}
void run_grad_input(const KernelArgs& a) {
  if (goes_packed(a)) return packed(a, true).run(a.workspace);
  const View& gx = a.out[0];
  each_residue(a, [&](std::int64_t y, std::int64_t x) {
    if (!half_maps(a)) return product(grad_input_problem(a), residue_lattice(a, y, x), a.workspace);
    const Packed p = packed_residue(a, y, x);
    const auto& stride = a.get<ConvParams>().stride;
    const OutputLattice lattice{p.out[0].size(2), p.out[0].size(3), gx.size(2), gx.size(3), stride[0], y, stride[1], x};
    if (p.w.numel() > 0) return p.run(a.workspace, &lattice);
    // Positions that no tap meets.
    parallel_for(gx.size(0) * lattice.rows, 8, [&](std::int64_t line, std::int64_t end) {
      for (; line < end; ++line)
        for (std::int64_t q = 0; q < lattice.cols; ++q) {
          std::int64_t pixel = line * lattice.cols + q;
          lattice.map(&pixel, 1);
          std::fill_n(gx.ptr<Bf16>() + pixel * gx.size(1), gx.size(1), Bf16{0});
        }
    });
  });
}
std::int64_t grad_input_workspace(const KernelArgs& a) {
  if (goes_packed(a)) return packed(a, true).bytes();
  std::int64_t bytes = 0;
  each_residue(a, [&](std::int64_t y, std::int64_t x) {
    if (!half_maps(a)) bytes = std::max(bytes, product_bytes(grad_input_problem(a), residue_lattice(a, y, x)));
    else if (const Packed p = packed_residue(a, y, x); p.w.numel() > 0) bytes = std::max(bytes, p.bytes());
  });
  return bytes;
}
const char* decline_grad_input(const KernelArgs& a) { return decline(a, a.in[0], a.out[0]); }

// --- the same, added to a map -----------------------------------------------------------------------------------------
Packed packed_add(const KernelArgs& a) {
  Packed p = packed(a, true);
  p.params.residual = true;
  p.in[3] = a.in[2];
  return p;
}
void run_grad_input_add(const KernelArgs& a) { packed_add(a).run(a.workspace); }
std::int64_t grad_input_add_workspace(const KernelArgs& a) { return packed_add(a).bytes(); }
const char* decline_grad_input_add(const KernelArgs& a) {
  if (!half_maps(a) || a.in[2].dtype != DType::bf16) return "bf16 maps only";
  if (a.get<ConvParams>().stride != Pair{1, 1}) return "a stride";
  if (!a.in[2].is_channels_last()) return "not channels_last";
  return decline({a.in.first(2), a.out, a.params, a.workspace, a.precision}, a.in[0], a.out[0]);
}

}  // namespace

extern const KernelEntry conv2d_grad_input_add_entry{run_grad_input_add, decline_grad_input_add, grad_input_add_workspace};
extern const KernelEntry conv2d_entry{run_forward, decline_forward, forward_workspace};
extern const KernelEntry conv2d_grad_input_entry{run_grad_input, decline_grad_input, grad_input_workspace};

}  // namespace mien::MIEN_LEVEL
