// Convolution as a matrix product whose right side is gathered from the picture panel by panel (implicit GEMM): the im2col matrix never exists.
//   forward:      Y[O, pixels] = W[O, K] * X[K, pixels],  K = C/g * kh * kw, lanes along pixels
//   grad_input:   stride 1: the forward kernel on gy with turned weights; otherwise columns = W^T gy are added back where they came from
//   grad_weight:  gW^T[K, O] += X[K, pixels] * gY^T[pixels, O], lanes along O, X read in place
// Anderson et al., "Low-memory GEMM-based convolution algorithms for deep neural networks", 2017.
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/gemm.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Geometry {
  std::int64_t n, c, h, w;          // input; c per group
  std::int64_t o, kh, kw;           // o per group
  std::int64_t oh, ow, groups;
  std::int64_t sh, sw, ph, pw, dh, dw;
  std::int64_t xn, xc, xh, xw;      // strides of the input
  std::int64_t depth() const { return c * kh * kw; }
  std::int64_t pixels() const { return oh * ow; }
};

Geometry geometry(const View& x, const View& w, const View& y, const ConvParams& p) {
  return {x.size(0), w.size(1), x.size(2), x.size(3), w.size(0) / p.groups, w.size(2), w.size(3), y.size(2), y.size(3), p.groups,
          p.stride[0], p.stride[1], p.padding[0], p.padding[2], p.dilation[0], p.dilation[1], x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

// Output pixels [first, first + gemm_cols) for every (c, i, j), as [k][pixel]; zeros outside the picture and past the last pixel.
void gather_panel(const float* x, const Geometry& g, std::int64_t first, float* out) {
  const std::int64_t count = std::min<std::int64_t>(gemm_cols, g.pixels() - first);
  struct Run {
    std::int64_t row, col, length;
  } runs[gemm_cols];
  int number = 0;
  for (std::int64_t p = first; p < first + count;) {
    const std::int64_t row = p / g.ow, col = p % g.ow, length = std::min(g.ow - col, first + count - p);
    runs[number++] = {row, col, length};
    p += length;
  }
  for (std::int64_t c = 0; c < g.c; ++c)
    for (std::int64_t i = 0; i < g.kh; ++i)
      for (std::int64_t j = 0; j < g.kw; ++j, out += gemm_cols) {
        float* to = out;
        for (int r = 0; r < number; ++r) {
          const std::int64_t y = runs[r].row * g.sh - g.ph + i * g.dh, x0 = runs[r].col * g.sw - g.pw + j * g.dw, length = runs[r].length;
          const float* from = x + c * g.xc + y * g.xh + x0 * g.xw;
          const std::int64_t step = g.sw * g.xw, last = x0 + (length - 1) * g.sw;
          if (y < 0 || y >= g.h) {
            for (std::int64_t t = 0; t < length; ++t) to[t] = 0;
          } else if (x0 >= 0 && last < g.w) {
            if (step == 1)
              for (std::int64_t t = 0; t < length; ++t) to[t] = from[t];
            else
              for (std::int64_t t = 0; t < length; ++t) to[t] = from[t * step];
          } else {
            for (std::int64_t t = 0; t < length; ++t) {
              const std::int64_t at = x0 + t * g.sw;
              to[t] = at >= 0 && at < g.w ? from[t * step] : 0;
            }
          }
          to += length;
        }
        for (std::int64_t t = count; t < gemm_cols; ++t) out[t] = 0;
      }
}

// Weights W(o, k) = w[o * wo + c * wc + i * wi + j * wj] of every group in panels of rows. `turned` reads the kernel backwards.
void pack_weights(const float* w, const Geometry& g, std::int64_t wo, std::int64_t wc, std::int64_t wi, std::int64_t wj, float* out) {
  for (std::int64_t row = 0; row < g.o; row += gemm_rows)
    for (std::int64_t c = 0; c < g.c; ++c)
      for (std::int64_t i = 0; i < g.kh; ++i)
        for (std::int64_t j = 0; j < g.kw; ++j, out += gemm_rows)
          for (std::int64_t r = 0; r < gemm_rows; ++r) out[r] = row + r < g.o ? w[(row + r) * wo + c * wc + i * wi + j * wj] : 0;
}

std::int64_t weight_floats(const Geometry& g) { return round_up(g.groups * round_up(g.o, gemm_rows) * g.depth(), 16); }
std::int64_t panel_floats(const Geometry& g) { return round_up(g.depth() * gemm_cols, 16); }

// y[n][group * o ...] (strides yn, yo; pixels dense, or spread by yp) = W * gathered x + bias.
struct Target {
  float* y;
  std::int64_t yn, yo, yp;
};
void forward(const float* x, const Geometry& g, const float* weights, const float* bias, const Target& t, float* scratch) {
  const std::int64_t panels = (g.pixels() + gemm_cols - 1) / gemm_cols, depth = g.depth();
  const std::int64_t group_weights = round_up(g.o, gemm_rows) * depth;
  for_shares(g.n * g.groups * panels, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* panel = scratch + share * (panel_floats(g) + gemm_rows * gemm_cols);
    float* buffer = panel + panel_floats(g);
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t n = item / (g.groups * panels), group = item / panels % g.groups, first = item % panels * gemm_cols;
      const std::int64_t cols = std::min<std::int64_t>(gemm_cols, g.pixels() - first);
      gather_panel(x + n * g.xn + group * g.c * g.xc, g, first, panel);
      for (std::int64_t row = 0; row < g.o; row += gemm_rows) {
        const std::int64_t rows = std::min<std::int64_t>(gemm_rows, g.o - row), o = group * g.o + row;
        Tile tile{t.y + n * t.yn + o * t.yo + first * t.yp, t.yo, rows, cols, bias ? Start::row_bias : Start::zero, bias ? bias + o : nullptr};
        const float* a = weights + group * group_weights + row * depth;
        if (t.yp == 1) {
          tile_kernel(depth, a, panel, tile);
        } else {  // channels last: pixels are not dense
          float* to = tile.c;
          tile.c = buffer;
          tile.ldc = gemm_cols;
          tile_kernel(depth, a, panel, tile);
          for (std::int64_t p = 0; p < cols; ++p)
            for (std::int64_t r = 0; r < rows; ++r) to[p * t.yp + r * t.yo] = buffer[r * gemm_cols + p];
        }
      }
    }
  });
}

std::int64_t forward_bytes(const Geometry& g) { return 4 * (weight_floats(g) + max_shares * (panel_floats(g) + gemm_rows * gemm_cols)); }

const char* decline_common(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  const View& y = a.out[0];
  if (y.rank() == 4 && !y.is_contiguous() && !y.is_channels_last()) return "the output is neither contiguous nor channels_last";
  return nullptr;
}

// --- forward ---------------------------------------------------------------------------------------------------------
void run_forward(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  const Geometry g = geometry(x, w, y, a.get<ConvParams>());
  auto* weights = static_cast<float*>(a.workspace);
  for (std::int64_t group = 0; group < g.groups; ++group)
    pack_weights(w.ptr<float>() + group * g.o * w.stride(0), g, w.stride(0), w.stride(1), w.stride(2), w.stride(3), weights + group * round_up(g.o, gemm_rows) * g.depth());
  const float* bias = a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr;
  forward(x.ptr<float>(), g, weights, bias, {y.ptr<float>(), y.stride(0), y.stride(1), y.is_contiguous() ? 1 : y.size(1)}, weights + weight_floats(g));
}
std::int64_t forward_workspace(const KernelArgs& a) { return forward_bytes(geometry(a.in[0], a.in[1], a.out[0], a.get<ConvParams>())); }
const char* decline_forward(const KernelArgs& a) {
  if (strided_bias(a)) return "the bias is strided";
  return decline_common(a);
}

// --- gradient of the input -------------------------------------------------------------------------------------------
// With stride 1, gx is the convolution of gy with the weights turned by 180 degrees and their channels swapped.
Geometry turned(const View& gy, const View& w, const View& gx, const ConvParams& p) {
  return {gy.size(0), w.size(0) / p.groups, gy.size(2), gy.size(3), w.size(1), w.size(2), w.size(3), gx.size(2), gx.size(3), p.groups, 1, 1,
          p.dilation[0] * (w.size(2) - 1) - p.padding[0], p.dilation[1] * (w.size(3) - 1) - p.padding[2], p.dilation[0], p.dilation[1],
          gy.stride(0), gy.stride(1), gy.stride(2), gy.stride(3)};
}
const char* decline_grad_input(const KernelArgs& a) {
  const auto& p = a.get<ConvParams>();
  if (p.stride[0] != 1 || p.stride[1] != 1) return a.out[0].is_contiguous() ? decline_common(a) : "strided, and the output is not contiguous";
  return decline_common(a);
}
std::int64_t grad_input_workspace(const KernelArgs& a) {
  const auto& p = a.get<ConvParams>();
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  if (unit_stride(p)) return forward_bytes(turned(gy, w, gx, p));
  const Geometry g = geometry(gx, w, gy, p);
  return 4 * (g.groups * round_up(g.depth(), gemm_rows) * g.o + max_shares * (g.o * gemm_cols + gemm_rows * gemm_cols));
}

// Columns W^T gy of one panel of pixels, added into gx where each came from. One share handles whole (image, group) pairs, so no two meet.
void run_grad_input_strided(const KernelArgs& a) {
  const auto& p = a.get<ConvParams>();
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  const Geometry g = geometry(gx, w, gy, p);
  auto* weights = static_cast<float*>(a.workspace);
  const std::int64_t depth = g.depth(), group_weights = round_up(depth, gemm_rows) * g.o;
  for (std::int64_t group = 0; group < g.groups; ++group)
    for (std::int64_t row = 0; row < depth; row += gemm_rows)
      for (std::int64_t o = 0; o < g.o; ++o)
        for (std::int64_t r = 0; r < gemm_rows; ++r) {
          const std::int64_t k = row + r, c = k / (g.kh * g.kw), i = k / g.kw % g.kh, j = k % g.kw;
          weights[group * group_weights + row * g.o + o * gemm_rows + r] =
              k < depth ? w.ptr<float>()[(group * g.o + o) * w.stride(0) + c * w.stride(1) + i * w.stride(2) + j * w.stride(3)] : 0;
        }
  float* scratch = weights + g.groups * group_weights;
  for_shares(g.n * g.groups, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* panel = scratch + share * (g.o * gemm_cols + gemm_rows * gemm_cols);
    float* columns = panel + g.o * gemm_cols;
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t n = item / g.groups, group = item % g.groups;
      float* to = gx.ptr<float>() + n * g.xn + group * g.c * g.xc;
      for (std::int64_t c = 0; c < g.c; ++c) std::fill_n(to + c * g.xc, g.h * g.w, 0.f);
      for (std::int64_t first = 0; first < g.pixels(); first += gemm_cols) {
        const std::int64_t cols = std::min<std::int64_t>(gemm_cols, g.pixels() - first);
        for (std::int64_t o = 0; o < g.o; ++o)
          for (std::int64_t t = 0; t < gemm_cols; ++t) {
            const std::int64_t pixel = first + t;
            panel[o * gemm_cols + t] =
                t < cols ? gy.ptr<float>()[n * gy.stride(0) + (group * g.o + o) * gy.stride(1) + pixel / g.ow * gy.stride(2) + pixel % g.ow * gy.stride(3)] : 0;
          }
        for (std::int64_t row = 0; row < depth; row += gemm_rows) {
          const std::int64_t rows = std::min<std::int64_t>(gemm_rows, depth - row);
          micro_kernel<gemm_rows>(g.o, weights + group * group_weights + row * g.o, gemm_rows, panel, {columns, gemm_cols, gemm_rows, gemm_cols});
          for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t k = row + r, c = k / (g.kh * g.kw), i = k / g.kw % g.kh, j = k % g.kw;
            for (std::int64_t t = 0; t < cols; ++t) {
              const std::int64_t y = (first + t) / g.ow * g.sh - g.ph + i * g.dh, x = (first + t) % g.ow * g.sw - g.pw + j * g.dw;
              if (y >= 0 && y < g.h && x >= 0 && x < g.w) to[c * g.xc + y * g.xh + x * g.xw] += columns[r * gemm_cols + t];
            }
          }
        }
      }
    }
  });
}

void run_grad_input(const KernelArgs& a) {
  const auto& p = a.get<ConvParams>();
  if (!unit_stride(p)) return run_grad_input_strided(a);
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  const Geometry g = turned(gy, w, gx, p);
  auto* weights = static_cast<float*>(a.workspace);
  for (std::int64_t group = 0; group < g.groups; ++group) {
    const float* last = w.ptr<float>() + group * g.c * w.stride(0) + (g.kh - 1) * w.stride(2) + (g.kw - 1) * w.stride(3);
    pack_weights(last, g, w.stride(1), w.stride(0), -w.stride(2), -w.stride(3), weights + group * round_up(g.o, gemm_rows) * g.depth());
  }
  forward(gy.ptr<float>(), g, weights, nullptr, {gx.ptr<float>(), gx.stride(0), gx.stride(1), gx.is_contiguous() ? 1 : gx.size(1)}, weights + weight_floats(g));
}

// --- gradient of the weights -----------------------------------------------------------------------------------------
// gW^T tile of gemm_rows taps x gemm_cols output channels, summed over the pixels of one image. A tap's values lie at `tap[r] + pixel offset`.
template <int ROWS>
void weight_tile(const float* const* tap, const float* gy, std::int64_t oh, std::int64_t ow, std::int64_t row_step, std::int64_t col_step, float* c) {
  Vec acc[ROWS][2];
  for (int i = 0; i < ROWS; ++i) {
    acc[i][0] = Load(c + i * gemm_cols);
    acc[i][1] = Load(c + i * gemm_cols + lanes);
  }
  for (std::int64_t y = 0; y < oh; ++y)
    for (std::int64_t x = 0; x < ow; ++x, gy += gemm_cols) {
      const std::int64_t at = y * row_step + x * col_step;
      const Vec b0 = Load(gy), b1 = Load(gy + lanes);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        const Vec v = Set(tap[i][at]);
        acc[i][0] = MulAdd(v, b0, acc[i][0]);
        acc[i][1] = MulAdd(v, b1, acc[i][1]);
      }
    }
  for (int i = 0; i < ROWS; ++i) {
    Store(acc[i][0], c + i * gemm_cols);
    Store(acc[i][1], c + i * gemm_cols + lanes);
  }
}

struct WeightPlan {
  Geometry g;
  std::int64_t padded_h, padded_w;                    // the input with its zeros around it, copied when there are any
  std::int64_t o_panels, k_panels, sum_floats, image_floats, gy_floats;
};
WeightPlan weight_plan(const View& gy, const View& x, const View& gw, const ConvParams& p) {
  WeightPlan s{geometry(x, gw, gy, p), 0, 0, 0, 0, 0, 0, 0};
  const Geometry& g = s.g;
  s.padded_h = std::max(g.h + p.padding[0] + p.padding[1], g.ph + g.h);
  s.padded_w = std::max(g.w + p.padding[2] + p.padding[3], g.pw + g.w);
  s.o_panels = (g.o + gemm_cols - 1) / gemm_cols;
  s.k_panels = (g.depth() + gemm_rows - 1) / gemm_rows;
  s.sum_floats = g.groups * s.o_panels * s.k_panels * gemm_rows * gemm_cols;
  s.image_floats = round_up(g.c * s.padded_h * s.padded_w, 16);
  s.gy_floats = s.o_panels * g.pixels() * gemm_cols;
  return s;
}
std::int64_t grad_weight_workspace(const KernelArgs& a) {
  const WeightPlan s = weight_plan(a.in[0], a.in[1], a.out[0], a.get<ConvParams>());
  return 4 * shares_of(s.g.n) * (s.sum_floats + s.image_floats + s.gy_floats);
}

void run_grad_weight(const KernelArgs& a) {
  const View &gy = a.in[0], &x = a.in[1], &gw = a.out[0];
  const WeightPlan s = weight_plan(gy, x, gw, a.get<ConvParams>());
  const Geometry& g = s.g;
  const std::int64_t depth = g.depth(), tile = gemm_rows * gemm_cols;
  auto* base = static_cast<float*>(a.workspace);
  const std::int64_t share_floats = s.sum_floats + s.image_floats + s.gy_floats;
  for_shares(g.n, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* sums = base + share * share_floats;
    float* image = sums + s.sum_floats;
    float* turned_gy = image + s.image_floats;
    std::fill_n(sums, s.sum_floats, 0.f);
    std::fill_n(image, s.image_floats, 0.f);
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t group = 0; group < g.groups; ++group) {
        for (std::int64_t c = 0; c < g.c; ++c)
          for (std::int64_t y = 0; y < g.h; ++y) {
            const float* from = x.ptr<float>() + n * g.xn + (group * g.c + c) * g.xc + y * g.xh;
            float* to = image + (c * s.padded_h + y + g.ph) * s.padded_w + g.pw;
            for (std::int64_t t = 0; t < g.w; ++t) to[t] = from[t * g.xw];
          }
        for (std::int64_t panel = 0; panel < s.o_panels; ++panel)
          for (std::int64_t y = 0; y < g.oh; ++y)
            for (std::int64_t col = 0; col < gemm_cols; ++col) {
              const std::int64_t o = panel * gemm_cols + col;
              const float* from = gy.ptr<float>() + n * gy.stride(0) + (group * g.o + o) * gy.stride(1) + y * gy.stride(2);
              float* to = turned_gy + (panel * g.pixels() + y * g.ow) * gemm_cols + col;
              for (std::int64_t t = 0; t < g.ow; ++t) to[t * gemm_cols] = o < g.o ? from[t * gy.stride(3)] : 0;
            }
        for (std::int64_t kp = 0; kp < s.k_panels; ++kp) {
          const float* tap[gemm_rows];
          for (std::int64_t r = 0; r < gemm_rows; ++r) {
            const std::int64_t k = std::min(kp * gemm_rows + r, depth - 1), c = k / (g.kh * g.kw), i = k / g.kw % g.kh, j = k % g.kw;
            tap[r] = image + (c * s.padded_h + i * g.dh) * s.padded_w + j * g.dw;
          }
          for (std::int64_t op = 0; op < s.o_panels; ++op)
            weight_tile<gemm_rows>(tap, turned_gy + op * g.pixels() * gemm_cols, g.oh, g.ow, g.sh * s.padded_w, g.sw,
                                   sums + ((group * s.k_panels + kp) * s.o_panels + op) * tile);
        }
      }
  });
  // The shares are added in order: the same bits for any number of threads.
  const std::int64_t shares = shares_of(g.n);
  for (std::int64_t group = 0; group < g.groups; ++group)
    for (std::int64_t k = 0; k < depth; ++k)
      for (std::int64_t o = 0; o < g.o; ++o) {
        const std::int64_t at = ((group * s.k_panels + k / gemm_rows) * s.o_panels + o / gemm_cols) * tile + k % gemm_rows * gemm_cols + o % gemm_cols;
        float sum = 0;
        for (std::int64_t share = 0; share < shares; ++share) sum += g.n > 0 ? base[share * share_floats + at] : 0;
        const std::int64_t c = k / (g.kh * g.kw), i = k / g.kw % g.kh, j = k % g.kw;
        gw.ptr<float>()[(group * g.o + o) * gw.stride(0) + c * gw.stride(1) + i * gw.stride(2) + j * gw.stride(3)] = sum;
      }
}
const char* decline_grad_weight(const KernelArgs& a) { return all_f32(a) ? nullptr : "f32 only"; }

constexpr KernelEntry planes_forward{run_forward, decline_forward, forward_workspace};
constexpr KernelEntry planes_grad_input{run_grad_input, decline_grad_input, grad_input_workspace};
constexpr KernelEntry planes_grad_weight{run_grad_weight, decline_grad_weight, grad_weight_workspace};

}  // namespace

extern const KernelEntry conv2d_entry = FirstOf<depthwise_forward, few_forward, rows_forward, planes_forward>::entry;
extern const KernelEntry conv2d_grad_input_entry = FirstOf<depthwise_grad_input, few_grad_input, rows_grad_input, planes_grad_input>::entry;
extern const KernelEntry conv2d_grad_weight_entry = FirstOf<depthwise_grad_weight, few_grad_weight, winograd_grad_weight, rows_grad_weight, planes_grad_weight>::entry;

}  // namespace mien::MIEN_LEVEL
