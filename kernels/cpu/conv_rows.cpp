// Convolution in channels_last as a matrix product whose rows are pixels.
//   forward:      Y[pixels, O] = X[pixels, K] * W[K, O],     K = kh * kw * C; of a 1x1 convolution X is the picture itself
//   grad_input:   stride 1: the forward product on gy with turned weights; otherwise rows gy * W are added back where they came from
//   grad_weight:  gW[O, K] += gY^T[O, pixels] * X[pixels, K], both read in place
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/row_gemm.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t depth_block = 512;  // a panel of B of this depth stays in the caches close by

// Rows [first, first + count) of X, K values each at distance ld. Zeros outside the picture.
void gather_rows(const float* x, const ConvSizes& s, std::int64_t first, std::int64_t count, float* out, std::int64_t ld) {
  std::int64_t n = first / (s.oh * s.ow), oy = first / s.ow % s.oh, ox = first % s.ow;
  for (std::int64_t r = 0; r < count; ++r, out += ld) {
    float* to = out;
    const std::int64_t x0 = ox * s.sw - s.pw;
    const bool inside = x0 >= 0 && x0 + (s.kw - 1) * s.dw < s.w;
    for (std::int64_t i = 0; i < s.kh; ++i) {
      const std::int64_t y = oy * s.sh - s.ph + i * s.dh;
      if (y < 0 || y >= s.h) {
        for (std::int64_t t = 0; t < s.kw * s.c; ++t) to[t] = 0;
        to += s.kw * s.c;
        continue;
      }
      const float* from = x + ((n * s.h + y) * s.w + x0) * s.c;
      if (inside && s.dw == 1) {
        std::copy_n(from, s.kw * s.c, to);
        to += s.kw * s.c;
        continue;
      }
      for (std::int64_t j = 0; j < s.kw; ++j, to += s.c) {
        const std::int64_t at = x0 + j * s.dw;
        if (at >= 0 && at < s.w) std::copy_n(from + j * s.dw * s.c, s.c, to);
        else std::fill_n(to, s.c, 0.f);
      }
    }
    if (++ox < s.ow) continue;
    ox = 0;
    if (++oy < s.oh) continue;
    oy = 0;
    ++n;
  }
}

// B(k, col) in panels of gemm_cols columns, [k][column], k = (i, j, c). Strides of the weights: column, c, i, j.
struct Weights {
  const float* data;
  std::int64_t cols, col, c, i, j;
};
void pack_weights(const Weights& w, std::int64_t kh, std::int64_t kw, std::int64_t channels, float* out) {
  const std::int64_t panels = (w.cols + gemm_cols - 1) / gemm_cols, depth = kh * kw * channels;
  parallel_for(panels, 1, [&](std::int64_t panel, std::int64_t) {
    float* to = out + panel * depth * gemm_cols;
    for (std::int64_t t = 0; t < gemm_cols; ++t) {
      const std::int64_t column = panel * gemm_cols + t;
      float* cell = to + t;
      for (std::int64_t i = 0; i < kh; ++i)
        for (std::int64_t j = 0; j < kw; ++j) {
          const float* from = w.data + column * w.col + i * w.i + j * w.j;
          for (std::int64_t c = 0; c < channels; ++c, cell += gemm_cols) *cell = column < w.cols ? from[c * w.c] : 0.f;
        }
    }
  });
}
std::int64_t packed_floats(std::int64_t depth, std::int64_t cols) { return depth * round_up(cols, gemm_cols); }

// C[rows, cols] = A * packed B + bias (padded to whole panels), k block by k block.
void product_rows(std::int64_t rows, std::int64_t cols, std::int64_t depth, const Left& a, const float* packed, const float* bias, float* c, std::int64_t ldc) {
  for (std::int64_t k = 0; k < depth; k += depth_block)
    for (std::int64_t col = 0; col < cols; col += gemm_cols) {
      Tile t{c + col, ldc, rows, std::min<std::int64_t>(gemm_cols, cols - col)};
      if (k > 0) t.start = Start::accumulate;
      else if (bias) { t.start = Start::column_bias; t.bias = bias + col; }
      row_panel(std::min(depth_block, depth - k), {a.data + k * a.k_step, a.row_step, a.k_step}, {packed + col * depth + k * gemm_cols, gemm_cols}, t);
    }
}

// Pixels that are worked on at a time: many reuse a panel of B, gathered ones must stay in the second cache, and few pixels are still shared out.
std::int64_t rows_at_once(const ConvSizes& s) {
  std::int64_t tiles = 96 / gemm_rows;
  if (!s.pointwise()) tiles = std::min(tiles, (std::int64_t{1} << 17) / (s.depth() * gemm_rows + 1));
  tiles = std::min(tiles, s.pixels() / (32 * gemm_rows));
  return gemm_rows * std::max<std::int64_t>(tiles, 1);
}
// Distance of gathered rows: no power of two, or all rows meet in the same few sets of the cache.
std::int64_t gathered_step(const ConvSizes& s) { return round_up(s.depth(), gemm_cols) + 16; }
std::int64_t gathered_floats(const ConvSizes& s) { return s.pointwise() ? 0 : rows_at_once(s) * gathered_step(s); }

std::int64_t product_bytes(const ConvSizes& s) { return 4 * (packed_floats(s.depth(), s.o) + round_up(s.o, gemm_cols) + max_shares * gathered_floats(s)); }

void product(const float* x, const ConvSizes& s, const Weights& w, const float* bias, float* y, void* workspace) {
  auto* packed = static_cast<float*>(workspace);
  float* padded_bias = packed + packed_floats(s.depth(), s.o);
  float* gathered = padded_bias + round_up(s.o, gemm_cols);
  pack_weights(w, s.kh, s.kw, s.c, packed);
  if (bias) {
    std::fill_n(padded_bias, round_up(s.o, gemm_cols), 0.f);
    std::copy_n(bias, s.o, padded_bias);
  }
  const std::int64_t at_once = rows_at_once(s), step = s.pointwise() ? s.c : gathered_step(s);
  for_shares((s.pixels() + at_once - 1) / at_once, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* rows = gathered + share * gathered_floats(s);
    for (std::int64_t p = begin * at_once; p < std::min(end * at_once, s.pixels()); p += at_once) {
      const std::int64_t count = std::min(at_once, s.pixels() - p);
      if (!s.pointwise()) gather_rows(x, s, p, count, rows, step);
      product_rows(count, s.o, s.depth(), {s.pointwise() ? x + p * s.c : rows, step, 1}, packed, bias ? padded_bias : nullptr, y + p * s.o, s.o);
    }
  });
}

const char* decline(const KernelArgs& a, const View& x, const View& y) {
  if (!all_f32(a)) return "f32 only";
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (!x.is_channels_last() || !y.is_channels_last()) return "not channels_last";
  return x.numel() > 0 && y.numel() > 0 ? nullptr : "empty";
}

// --- forward ---------------------------------------------------------------------------------------------------------
ConvSizes forward_sizes(const KernelArgs& a) { return conv_sizes(a.in[0], a.in[1], a.out[0], a.get<ConvParams>()); }
void run_forward(const KernelArgs& a) {
  const View& w = a.in[1];
  product(a.in[0].ptr<float>(), forward_sizes(a), {w.ptr<float>(), w.size(0), w.stride(0), w.stride(1), w.stride(2), w.stride(3)},
          a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr, a.out[0].ptr<float>(), a.workspace);
}
std::int64_t forward_workspace(const KernelArgs& a) { return product_bytes(forward_sizes(a)); }
const char* decline_forward(const KernelArgs& a) { return strided_bias(a) ? "the bias is strided" : decline(a, a.in[0], a.out[0]); }

// --- gradient of the input -------------------------------------------------------------------------------------------
ConvSizes scatter_sizes(const KernelArgs& a) { return conv_sizes(a.out[0], a.in[1], a.in[0], a.get<ConvParams>()); }
std::int64_t scattered_floats(const ConvSizes& s) { return gemm_rows * gathered_step(s); }

// Rows gy * W[O, K] of a few pixels at a time, added into gx where each came from. A share has whole images, so no two meet.
void run_scatter(const KernelArgs& a) {
  const View& w = a.in[1];
  const ConvSizes s = scatter_sizes(a);
  auto* packed = static_cast<float*>(a.workspace);
  float* scattered = packed + s.taps() * packed_floats(s.o, s.c);
  for (std::int64_t tap = 0; tap < s.taps(); ++tap)
    pack_weights({w.ptr<float>() + tap / s.kw * w.stride(2) + tap % s.kw * w.stride(3), s.c, w.stride(1), w.stride(0), 0, 0}, 1, 1, s.o, packed + tap * packed_floats(s.o, s.c));
  for_shares(s.n, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* rows = scattered + share * scattered_floats(s);
    for (std::int64_t n = begin; n < end; ++n) {
      float* gx = a.out[0].ptr<float>() + n * s.h * s.w * s.c;
      std::fill_n(gx, s.h * s.w * s.c, 0.f);
      for (std::int64_t first = 0; first < s.oh * s.ow; first += gemm_rows) {
        const std::int64_t count = std::min<std::int64_t>(gemm_rows, s.oh * s.ow - first);
        const float* gy = a.in[0].ptr<float>() + (n * s.oh * s.ow + first) * s.o;
        for (std::int64_t tap = 0; tap < s.taps(); ++tap)
          product_rows(count, s.c, s.o, {gy, s.o, 1}, packed + tap * packed_floats(s.o, s.c), nullptr, rows + tap * s.c, gathered_step(s));
        for (std::int64_t r = 0; r < count; ++r)
          for (std::int64_t tap = 0; tap < s.taps(); ++tap) {
            const std::int64_t y = (first + r) / s.ow * s.sh - s.ph + tap / s.kw * s.dh, x = (first + r) % s.ow * s.sw - s.pw + tap % s.kw * s.dw;
            if (y < 0 || y >= s.h || x < 0 || x >= s.w) continue;
            float* __restrict to = gx + (y * s.w + x) * s.c;
            const float* __restrict from = rows + r * gathered_step(s) + tap * s.c;
            for (std::int64_t c = 0; c < s.c; ++c) to[c] += from[c];
          }
      }
    }
  });
}

ConvSizes turned(const KernelArgs& a) { return turned_sizes(a.in[0], a.in[1], a.out[0], a.get<ConvParams>()); }
void run_grad_input(const KernelArgs& a) {
  if (!unit_stride(a.get<ConvParams>())) return run_scatter(a);
  const View& w = a.in[1];
  const float* last = w.ptr<float>() + (w.size(2) - 1) * w.stride(2) + (w.size(3) - 1) * w.stride(3);
  product(a.in[0].ptr<float>(), turned(a), {last, w.size(1), w.stride(1), w.stride(0), -w.stride(2), -w.stride(3)}, nullptr, a.out[0].ptr<float>(), a.workspace);
}
std::int64_t grad_input_workspace(const KernelArgs& a) {
  if (unit_stride(a.get<ConvParams>())) return product_bytes(turned(a));
  const ConvSizes s = scatter_sizes(a);
  return 4 * (s.taps() * packed_floats(s.o, s.c) + max_shares * scattered_floats(s));
}
const char* decline_grad_input(const KernelArgs& a) { return decline(a, a.in[0], a.out[0]); }

// --- gradient of the weights -----------------------------------------------------------------------------------------
constexpr std::int64_t chunk = 128;  // pixels whose rows stay in the second cache
ConvSizes weight_sizes(const KernelArgs& a) { return conv_sizes(a.in[1], a.out[0], a.in[0], a.get<ConvParams>()); }
std::int64_t weight_shares(const ConvSizes& s) { return shares_of(s.pixels() / (2 * chunk)); }
std::int64_t weight_sums(const ConvSizes& s) { return s.o * round_up(s.depth(), gemm_cols); }
std::int64_t grad_weight_workspace(const KernelArgs& a) {
  const ConvSizes s = weight_sizes(a);
  return 4 * weight_shares(s) * (weight_sums(s) + chunk * gathered_step(s));
}

void run_grad_weight(const KernelArgs& a) {
  const float *gy = a.in[0].ptr<float>(), *x = a.in[1].ptr<float>();
  const View& gw = a.out[0];
  const ConvSizes s = weight_sizes(a);
  const std::int64_t shares = weight_shares(s), wide = round_up(s.depth(), gemm_cols), step = gathered_step(s);
  auto* sums = static_cast<float*>(a.workspace);
  float* gathered = sums + shares * weight_sums(s);
  parallel_for(shares, 1, [&](std::int64_t share, std::int64_t) {
    float *mine = sums + share * weight_sums(s), *rows = gathered + share * chunk * step;
    const std::int64_t end = s.pixels() * (share + 1) / shares;
    std::fill_n(mine, weight_sums(s), 0.f);
    std::fill_n(rows, chunk * step, 0.f);
    for (std::int64_t p = s.pixels() * share / shares; p < end; p += chunk) {
      const std::int64_t count = std::min(chunk, end - p);
      gather_rows(x, s, p, count, rows, step);
      for (std::int64_t col = 0; col < wide; col += gemm_cols)
        row_panel(count, {gy + p * s.o, 1, s.o}, {rows + col, step}, {mine + col, wide, s.o, gemm_cols, Start::accumulate});
    }
  });
  // The shares are added in order: the same bits for any number of threads.
  parallel_for(s.o, std::max<std::int64_t>(1, 4096 / wide), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      float* __restrict total = sums + o * wide;
      for (std::int64_t share = 1; share < shares; ++share) {
        const float* __restrict part = total + share * weight_sums(s);
        for (std::int64_t k = 0; k < s.depth(); ++k) total[k] += part[k];
      }
      for (std::int64_t tap = 0; tap < s.taps(); ++tap) {
        float* to = gw.ptr<float>() + o * gw.stride(0) + tap / s.kw * gw.stride(2) + tap % s.kw * gw.stride(3);
        for (std::int64_t c = 0; c < s.c; ++c) to[c * gw.stride(1)] = total[tap * s.c + c];
      }
    }
  });
}
const char* decline_grad_weight(const KernelArgs& a) { return decline(a, a.in[1], a.in[0]); }

}  // namespace

extern const KernelEntry rows_forward{run_forward, decline_forward, forward_workspace};
extern const KernelEntry rows_grad_input{run_grad_input, decline_grad_input, grad_input_workspace};
extern const KernelEntry rows_grad_weight{run_grad_weight, decline_grad_weight, grad_weight_workspace};

}  // namespace mien::MIEN_LEVEL
