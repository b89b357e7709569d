// Parameters of the kernels: plain trivially copyable data, one struct per family, shared by ops/ and every backend.
// Shapes are logical (NCHW) and strides free, unless a comment says otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "mien/tensor/shape.h"

namespace mien {

using Pair = std::array<std::int64_t, 2>;                 // height, width
using Padding4 = std::array<std::int64_t, 4>;             // top, bottom, left, right
using Dims = std::array<std::int8_t, max_rank>;

// conv2d:             in  x[N,C,H,W], w[O,C/g,kh,kw], (bias[O])     out y[N,O,OH,OW]
// conv2d_grad_input:  in  gy[N,O,OH,OW], w                          out gx[N,C,H,W]   (the shape of `out` decides H, W)
// conv2d_grad_weight: in  gy, x                                     out gw[O,C/g,kh,kw]
// OH = (H + top + bottom - dilation*(kh-1) - 1) / stride + 1, rounded down. Cross-correlation, zeros outside.
struct ConvParams {
  Pair stride{1, 1};
  Padding4 padding{0, 0, 0, 0};
  Pair dilation{1, 1};
  std::int64_t groups = 1;
};

// The packed convolution of planned inference. Weights have the same packed form at every level; its rank tells which one it is:
//   [ceil(O/16), kh*kw*C, 16]                      groups 1: panels of 16 outputs, k = (i, j, c), zeros past O
//   [ceil(O/16), kh*kw, ceil(C/32), 16, 16, 2]     groups 1 for tile units (bf16): 16 pairs of channels, 16 outputs, the pair; zeros past C and O
//   [ceil(O/16), 36, C, 16]                        groups 1, 3x3 by Winograd (kernels/winograd.h): G w G^T, product i*6 + j; stride and dilation 1
//   [kh*kw, C]                                     depthwise: groups == C == O
// pack_conv_weights:  in w[O,C/g,kh,kw] f32 or f64    out packed (of w's dtype, or bf16)
// packed_conv2d:      in x[N,C,H,W], packed, bias[O], (slope[O] when prelu), (residual, when `residual`)
//                     out y_0 .. y_k [N,channels[i],OH,OW]      y = act(conv(x) + bias + residual)
//   Several outputs are siblings that read the same x: their packed weights lie one after the other (each begins a panel), bias and slope too. A residual
//   goes with one output. x, residual and y are channels_last or a channel slice of a wider channels_last map (strides 1 along c, ld >= C along w,
//   W*ld, H*W*ld), which is how a concat is written in place. All f32 (or f64); or x, packed and residual bf16, bias and slope f32, y bf16 or f32.
//   A bf16 y may be the residual's own memory.
enum class Activation : std::uint8_t { none, relu, prelu };
inline constexpr std::int64_t packed_columns = 16, packed_pairs = 32;
inline constexpr int max_packed_outputs = 8;
struct PackedConvParams : ConvParams {
  Pair kernel{1, 1};
  Activation activation = Activation::none;
  bool residual = false;
  int outputs = 1;
  std::array<std::int64_t, max_packed_outputs> channels{};
};

// conv_block: in x[N,C,H,W], w[O,C,kh,kw], bias[O], a[O] or a[1]; out y[N,O,PH,PW] = max_pool2d(prelu(conv2d(x, w, bias), a)), raw and index of y's shape:
//   what the activation saw at each winner, and u8 i * kernel width + j of the winner inside its window: the first of the largest, but among values that PReLU
//   rounds to the same number a kernel may take another. The convolution has stride 1 and no padding;
//   a window of {1, 1} with stride {1, 1} does not pool. _backward: in gy, x, w, a, raw, index; out gx (left alone unless input_gradient), gw, gb, ga.
struct ConvBlockParams {
  Pair kernel{1, 1}, stride{1, 1};  // of the pooling
  bool ceil_mode = false;
  bool input_gradient = true;       // backward only
};

// conv_chain: in x[N,C,H,W], then for every layer: packed weights (form of groups 1, f32 or f64), bias[O], (slope[O] when prelu); out y[N,O,OH,OW].
//   A layer is a convolution with square kernel, stride 1 and no padding, bias, PReLU, and max pooling (pool x pool, stride 2, rounded up) when pool > 0.
//   Unlike max_pool2d this pooling says nothing about windows that hold NaN: their result may be NaN or a number.
inline constexpr int max_chain_layers = 8;
struct ChainLayer {
  std::int16_t channels = 0;
  std::int8_t kernel = 1, pool = 0;
  bool prelu = false;
};
struct ConvChainParams {
  int layers = 0;
  std::array<ChainLayer, max_chain_layers> layer{};
};
// Windows of a pool with stride 2 along a side, rounded up; a last window that would begin outside is dropped.
inline std::int64_t pooled_side(std::int64_t side, std::int64_t pool) { return side <= pool ? 1 : std::min((side - pool + 1) / 2, (side - 1) / 2) + 1; }

// max_pool2d:           in x[N,C,H,W]   out y[N,C,OH,OW], (the winners in the same shape, the first on ties: i64 h*W + w, or u8 i * kernel width + j in the window)
// max_pool2d_backward:  in gy, winners  out gx[N,C,H,W]; each winner lies in its own window, or is -1 (255) because the window lies outside
// avg_pool2d:           in x                        out y;      avg_pool2d_backward: in gy  out gx
// ceil_mode as PyTorch: a last window that would start in the right padding is dropped. Max pads with -inf and lets NaN through.
struct PoolParams {
  Pair kernel{2, 2};
  Pair stride{2, 2};
  Pair padding{0, 0};
  Pair dilation{1, 1};                   // max only
  bool ceil_mode = false;
  bool count_include_pad = true;         // average only
  std::int64_t divisor_override = 0;     // average only; 0 = none
};

// adaptive_avg_pool2d (also the area resize of detectors): in x[N,C,H,W] (f32, f64 or u8), out y[N,C,h,w] (floating);
//   window floor(i*H/h) .. ceil((i+1)*H/h), equal weights. _backward: in gy, out gx. No parameters.
// crop_resize_area: in image u8 or f32 [C,H,W] (any strides), boxes i64 [K,4] = x1,y1,x2,y2 half-open inside the picture;
//   out y f32 [K,C,h,w] = (area resize of each crop - mean) * scale.
// warp_affine: in image u8 or f32 [C,H,W] (any strides), matrices f64 [K,2,3]: output (x, y) of crop k comes from M_k (x, y, 1) of the picture, pixel
//   centres at whole numbers; out y f32 [K,C,h,w] = (sample - mean) * scale. A sample is bilinear, zeros outside; where the map shrinks by 1.5 and
//   more it is the mean over a grid of round(shrinkage) x round(shrinkage) bilinear samples inside the output pixel, so that large pictures do not alias; a
//   larger shrinkage than largest_warp_grid counts as that (warp_grid in kernels/warp.h), so that no matrix takes forever.
struct CropResizeParams {
  float mean = 0.f, scale = 1.f;
};
inline constexpr double largest_warp_grid = 128;
// resize_bilinear: in x, out y of the wanted size; _backward: in gy, out gx. Half-pixel centres unless align_corners. (PyTorch's rule.)
struct ResizeParams {
  bool align_corners = false;
};

// unary: in x, out y. y = f(x; a, b). unary_backward: in g, x, y out gx = g * f'(x) (see unary_table.h).
enum class UnaryKind : std::uint8_t;
struct UnaryParams {
  UnaryKind kind{};
  double a = 0, b = 0;
};
// binary: in a, b of the broadcast shape (strides 0 where expanded), out y. Comparisons write bool.
enum class BinaryKind : std::uint8_t { add, sub, mul, div, maximum, minimum, eq, ne, lt, le, gt, ge };
struct BinaryParams {
  BinaryKind kind{};
};
// transfer: in x dense (contiguous or channels_last) on one device, out y with the same strides on another; done when it returns if y is on the CPU.
// where: in cond bool, a, b; out y. copy/cast: in x, out y (any dtypes, any strides, same shape). fill: out y = value.
struct FillParams {
  double value = 0;
};

// reduce: in x, out y with the reduced dims kept as 1 (keepdim form). argmax/argmin write i64.
enum class ReduceKind : std::uint8_t { sum, max, min };
struct ReduceParams {
  ReduceKind kind{};
};
// arg_reduce: in x, out i64, one dim. First index on ties.
struct ArgReduceParams {
  bool max = true;
  int dim = 0;
};

// prelu: in x[N,C,...], a[C] or a[1]; out y = x > 0 ? x : a*x. prelu_backward: in g, x, a out gx, ga. Channel dim is 1 (0 for rank 1).
// matmul: in a[..., M, K], b[..., K, N] with the batch dims already broadcast; out y[..., M, N].
// linear: in x[N, I], w[O, I], (bias[O]); out y[N, O].
// softmax / log_softmax over dim: in x, out y; _backward: in g, y, out gx.
struct SoftmaxParams {
  int dim = 0;
  bool log = false;
};
// batch_norm (training): in x[N,C,...], weight[C], bias[C], (slope[C] of prelu); out y, mean[C], invstd[C] (biased variance). The activation follows in the
//   same pass.
// batch_norm_backward: in g, x, weight, mean, invstd, (bias[C] with an activation, whose input is made anew from x), (slope[C]); out gx, gw, gb, (gslope).
// norm_conv: in x[N,C,H,W], w[O,C/g,kh,kw], and unless x goes in as it is: mean[C], invstd[C], weight[C], bias[C] of its batch norm, (slope[C] of prelu);
//   out y = conv2d(activation((x - mean) * invstd * weight + bias), w), mean[O], invstd[O] of y (biased variance, `eps`).
// norm_conv_backward: in g of the three outputs, y, mean[O], invstd[O], then norm_conv's inputs; out the gradients of those, in their order.
// norm_add: in x[N,C,H,W], mean[C], invstd[C], weight[C], bias[C], (r of x's shape); out y = (x - mean) * invstd * weight + bias + r. No parameters.
// norm_add_backward: in gy, x, mean[C], invstd[C], weight[C], bias[C]; out the gradients of the five inputs of norm_add before r (r's is gy).
struct NormConvParams : ConvParams {
  double eps = 1e-5;
  Activation activation = Activation::none;  // of x
};
// channel_affine: in x[N,C,...], scale[C], shift[C]; out y = x * scale[c] + shift[c]. No parameters.
struct NormParams {
  double eps = 1e-5;
  Activation activation = Activation::none;
};
// residual: in x, h; out y = x + scale * h, and max(y, 0) with `relu`.
struct ResidualParams {
  double scale = 1;
  bool relu = false;
};
// nll: in log-probabilities [N,C], target i64 [N], (class weight [C]); out loss[N] = -w[t] * logp[t] (0 where t == ignore_index), weight[N].
// nll_backward: in g[N], target, (class weight); out gx[N,C].
struct NllParams {
  std::int64_t ignore_index = -100;
};
// concat: in x0..xk, out y. index_select rows: in x, index i64[K]; out y[K, ...]; index_add: in g[K,...], index out gx (zeroed, then added).
struct DimParams {
  int dim = 0;
};
// pad: in x, out y; pads low and high per dim, constant value. slice_backward is pad with steps: out zeroed, then x lands at start + i*step.
struct PadParams {
  Shape low, high;
  double value = 0;
};
struct SliceParams {
  int dim = 0;
  std::int64_t start = 0, step = 1;
};
// random: out f32/f64 (uniform [a, b), normal mean a std b), bernoulli mask (1/(1-a) with probability 1-a, else 0), randint [a, b) i64.
enum class RandomKind : std::uint8_t { uniform, normal, dropout_mask, integer };
struct RandomParams {
  RandomKind kind{};
  std::uint64_t seed = 0, stream = 0;
  double a = 0, b = 1;
};
// topk_mask: in x[N] (any dtype float), valid bool [N]; out mask of x's dtype: 1 for the k = max(1, int(keep * valid)) largest valid values
// (ties: lower index first), 0 elsewhere.
struct TopkParams {
  double keep = 1;
};
// nms: in boxes [K,4] x1,y1,x2,y2, scores [K]; out kept i64 [K] (indices by falling score), count i64 [1]. Equal scores: lower index first.
// offset 1 counts pixels inclusively (areas (x2-x1+1)*(y2-y1+1)); dropped when overlap > threshold.
enum class NmsMode : std::uint8_t { union_, min };
struct NmsParams {
  double threshold = .5;
  NmsMode mode = NmsMode::union_;
  int offset = 0;
};
// pnet_candidates: in image u8 [3,H,W] (any strides), sizes i64 [S,2] = h, w of every scale (at least 11), then P-Net's parameters in its order: weight [10,3,3,3],
//   bias, slope; weight [16,10,3,3], bias, slope; weight [32,16,3,3], bias, slope; weight [2,32,1,1], bias; weight [4,32,1,1], bias. K = all cells of all scales;
//   a scale has ((h-1)/2 - 4) x ((w-1)/2 - 4) of them.
//   out cells i64 [K] = row * columns + column, values f32 [K,5] = probability of a face, offsets of x1 y1 x2 y2; counts i64 [S]. The first counts[0] rows belong to
//   scale 0, and so on, row-major, those with probability >= threshold only; the rest of `cells` and `values` is undefined.
struct PnetParams {
  float threshold = .6f;
};
// pick: in x[N,C], index i64 [N]; out y[N] = x[i, index[i]]. pick_add: in x, index, values[N]; out y[N,C] = x with values[i] added at [i, index[i]].
// center_update, in place: in features [N,D], labels i64 [N]; out centers [C,D]. Each class of the batch: c -= rate * sum over its rows of (c - f),
// the sum divided by 1 + its number of rows when `averaged`.
struct CenterParams {
  double rate = .05;
  bool averaged = false;
};
// Optimizer steps, in place. sgd: in grad, out param, momentum buffer. adam: in grad, out param, m, v. adagrad: in grad, out param, sum of squares.
struct SgdParams {
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, first_step = false;
};
struct AdamParams {
  double lr = 0, beta1 = .9, beta2 = .999, eps = 1e-8, weight_decay = 0;  // decoupled = AdamW
  std::int64_t step = 1;
  bool decoupled = false;
};
struct AdagradParams {
  double lr = 0, eps = 1e-10, weight_decay = 0;
};

}  // namespace mien
