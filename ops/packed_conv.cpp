#include "mien/ops/packed_conv.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/winograd.h"
#include "mien/ops/op.h"
#include "mien/ops/shape.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

struct PackParams {  // the kernel needs none: shape and dtype of its output say it
  std::int64_t groups = 1;
  DType dtype = DType::f32;
  bool winograd = false;
};
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void infer_pack(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const PackParams*>(params);
  const Tensor& w = in[0];
  check_rank("pack_conv_weights", "weight", w, 4);
  check_floating("pack_conv_weights", w);
  if (p.dtype != DType::bf16 && p.dtype != w.dtype())
    throw DTypeError("pack_conv_weights", std::string("packs into bf16 or the weights' own dtype, got ") + name(p.dtype) + " for " + describe(w));
  const std::int64_t o = w.size(0), c = w.size(1), taps = w.size(2) * w.size(3), panels = ceil_div(o, packed_columns);
  if (p.winograd) {
    if (w.size(2) != 3 || w.size(3) != 3) throw ShapeError("pack_winograd_weights", "takes weights [O, C, 3, 3], got " + describe(w));
    out.push_back({{panels, winograd::products, c, packed_columns}, p.dtype});
  } else if (p.groups != 1) {
    if (p.groups != o || c != 1 || p.dtype == DType::bf16)
      throw ShapeError("pack_conv_weights", "takes groups 1, or depthwise weights [O, 1, kh, kw] with groups O in f32 or f64, got " + describe(w) + ", groups " + std::to_string(p.groups));
    out.push_back({{taps, o}, p.dtype});
  } else if (p.dtype == DType::bf16) {
    out.push_back({{panels, taps, ceil_div(c, packed_pairs), packed_pairs / 2, packed_columns, 2}, p.dtype});
  } else {
    out.push_back({{panels, taps * c, packed_columns}, p.dtype});
  }
}

void infer(Inputs in, const void* params, Outputs& out) {
  constexpr const char* op = "packed_conv2d";
  const auto& p = *static_cast<const PackedConvOpParams*>(params);
  const bool prelu = p.activation == Activation::prelu;
  if (in.size() != 3u + (prelu ? 1u : 0u) + (p.residual ? 1u : 0u)) throw ValueError(op, "the inputs do not go with the parameters: " + describe_all(in));
  const Tensor &x = in[0], &w = in[1], &bias = in[2];
  check_rank(op, "the input", x, 4);
  const bool depthwise = w.rank() == 2, winograd = w.rank() == 4;
  if (p.outputs < 1 || p.outputs > max_packed_outputs || (p.outputs > 1 && (p.residual || depthwise)))
    throw ValueError(op, "expects 1 to " + std::to_string(max_packed_outputs) + " outputs, and one only with a residual or depthwise, got " + std::to_string(p.outputs));
  std::int64_t panels = 0, channels = 0;
  for (int i = 0; i < p.outputs; ++i) {
    const std::int64_t c = p.channels[static_cast<std::size_t>(i)];
    if (c < 1) throw ValueError(op, "expects at least 1 channel an output, got " + std::to_string(c));
    panels += ceil_div(c, packed_columns);
    channels += c;
  }
  const std::int64_t taps = p.kernel[0] * p.kernel[1];
  const Shape wanted = depthwise        ? Shape{taps, x.size(1)}
                       : winograd      ? Shape{panels, winograd::products, x.size(1), packed_columns}
                       : w.rank() == 3 ? Shape{panels, taps * x.size(1), packed_columns}
                                       : Shape{panels, taps, ceil_div(x.size(1), packed_pairs), packed_pairs / 2, packed_columns, 2};
  if (!(w.shape() == wanted) || (depthwise && channels != x.size(1)))
    throw ShapeError(op, "expects packed weights " + to_string(wanted) + " for an input " + describe(x) + ", got " + describe(w), "Pack them with pack_conv_weights.");
  if (winograd && !(p.kernel == Pair{3, 3} && p.stride == Pair{1, 1} && p.dilation == Pair{1, 1}))
    throw ValueError(op, "weights packed for Winograd expect a 3x3 kernel, stride 1 and dilation 1", "Pack them with pack_conv_weights.");
  const bool half = x.dtype() == DType::bf16;
  if (!half) check_floating(op, x);
  if (w.dtype() != x.dtype() || bias.dtype() != (half ? DType::f32 : x.dtype()) || (p.y_dtype != x.dtype() && !(half && p.y_dtype == DType::f32)))
    throw DTypeError(op, std::string("expects weights of the input's dtype, bias and slope in f32 when that is bf16, got ") + describe_all(in) + " -> " + name(p.y_dtype));
  for (std::size_t i = 2; i < (prelu ? 4u : 3u); ++i)
    if (in[i].rank() != 1 || in[i].size(0) != channels || in[i].dtype() != bias.dtype())
      throw ShapeError(op, "bias and slope expect " + std::to_string(channels) + " values, got " + describe(in[i]));
  Shape y{x.size(0), 0, 0, 0};
  for (const int d : {0, 1}) {
    const auto k = static_cast<std::size_t>(d);
    const std::int64_t room = x.size(d + 2) + p.padding[2 * k] + p.padding[2 * k + 1] - p.dilation[k] * (p.kernel[k] - 1) - 1;
    if (room < 0) throw ShapeError(op, "the kernel is larger than the padded input " + describe(x), "Pad the input or use a larger picture.");
    y[d + 2] = room / p.stride[k] + 1;
  }
  for (int i = 0; i < p.outputs; ++i) {
    y[1] = p.channels[static_cast<std::size_t>(i)];
    out.push_back({y, p.y_dtype, Layout::channels_last});
  }
  if (p.residual && (!(in.back().shape() == y) || in.back().dtype() != x.dtype()))
    throw ShapeError(op, "residual expects " + to_string(y) + " of the input's dtype, got " + describe(in.back()));
}

}  // namespace

constinit const Op op_pack_conv_weights{.name = "pack_conv_weights", .infer = infer_pack, .kernels = {&ref::pack_conv_weights_entry, &KernelTable::pack_conv_weights}};
constinit const Op op_packed_conv2d{.name = "packed_conv2d", .infer = infer, .kernels = {&ref::packed_conv2d_entry, &KernelTable::packed_conv2d}, .fusion = Fusion::contraction};

Tensor pack_conv_weights(const Tensor& weight, std::int64_t groups, DType dtype) { return apply(op_pack_conv_weights, {weight}, PackParams{groups, dtype}); }
Tensor pack_winograd_weights(const Tensor& weight) { return apply(op_pack_conv_weights, {weight}, PackParams{1, weight.defined() ? weight.dtype() : DType::f32, true}); }

Tensor join_packed_weights(std::span<const Tensor> packed) { return concat({packed.begin(), packed.end()}, 0); }

std::vector<Tensor> packed_conv2d(const PackedConvInputs& in, const PackedConvParams& params, DType y_dtype) {
  PackedConvOpParams p;
  static_cast<PackedConvParams&>(p) = params;
  p.residual = in.residual.defined();
  p.y_dtype = in.x.defined() && in.x.dtype() == DType::f64 ? DType::f64 : y_dtype;
  std::vector<Tensor> all{in.x, in.weight, in.bias};
  if (in.slope.defined()) all.push_back(in.slope);
  if (in.residual.defined()) all.push_back(in.residual);
  return apply_all(op_packed_conv2d, all, p);
}

}  // namespace mien
