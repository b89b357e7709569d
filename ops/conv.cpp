#include "mien/ops/conv.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/precision.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/autocast.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

// The kernels read ConvParams; the gradients' shapes can't be derived from their inputs, so they travel along. So does the layout: a gradient
// of one pixel a channel does not tell whether the picture was channels_last. And the dtype: f32 weights go with maps of 16 bits.
struct ConvGradParams : ConvParams {
  Shape shape;
  DType dtype = DType::f32;
  Layout layout = Layout::contiguous;
};

std::int64_t output_size(std::int64_t in, std::int64_t low, std::int64_t high, std::int64_t dilation, std::int64_t kernel, std::int64_t stride) {
  const std::int64_t room = in + low + high - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

void check_params(const char* op, const ConvParams& p) {
  for (const auto v : {p.stride[0], p.stride[1], p.dilation[0], p.dilation[1], p.groups})
    if (v < 1) throw ValueError(op, "stride, dilation and groups must be at least 1, got " + std::to_string(v));
  for (const auto v : p.padding)
    if (v < 0) throw ValueError(op, "padding must not be negative, got " + std::to_string(v), "Cut with mien::slice.");
}

Shape conv_shape(Inputs in, const ConvParams& p) {
  const Tensor &x = in[0], &w = in[1];
  check_rank("conv2d", "the input", x, 4);
  check_rank("conv2d", "weight", w, 4);
  check_params("conv2d", p);
  const std::string seen = "(input " + describe(x) + ", weight " + describe(w) + ", groups " + std::to_string(p.groups) + ")";
  if (x.size(1) != w.size(1) * p.groups)
    throw ShapeError("conv2d", "weight expects " + std::to_string(w.size(1) * p.groups) + " input channels, input has " + std::to_string(x.size(1)) + " " + seen + ".");
  if (w.size(0) % p.groups) throw ShapeError("conv2d", "groups must divide the " + std::to_string(w.size(0)) + " output channels " + seen);
  if (in.size() > 2 && (in[2].rank() != 1 || in[2].size(0) != w.size(0)))
    throw ShapeError("conv2d", "bias expects [" + std::to_string(w.size(0)) + "], got " + describe(in[2]) + " " + seen);
  const std::int64_t oh = output_size(x.size(2), p.padding[0], p.padding[1], p.dilation[0], w.size(2), p.stride[0]);
  const std::int64_t ow = output_size(x.size(3), p.padding[2], p.padding[3], p.dilation[1], w.size(3), p.stride[1]);
  if (oh < 1 || ow < 1) throw ShapeError("conv2d", "the kernel is larger than the padded input " + seen, "Pad the input or use a larger picture.");
  return {x.size(0), w.size(0), oh, ow};
}

void infer(Inputs in, const void* params, Outputs& out) {
  check_floating("conv2d", in[0]);
  if (in[0].device().is_cpu() && in[1].dtype() == DType::f32) check_parameters("conv2d", in[0], in.subspan(1));
  else check_same_dtype("conv2d", in);
  out.push_back({conv_shape(in, *static_cast<const ConvParams*>(params)), in[0].dtype(), layout_like(in[0])});
}

ConvGradParams with_spec(const ConvParams& p, const OutputSpec& of) {
  ConvGradParams g;
  static_cast<ConvParams&>(g) = p;
  g.shape = of.shape;
  g.dtype = of.dtype;
  g.layout = of.layout;
  return g;
}

constinit const KernelList add_kernels{&ref::conv2d_grad_input_add_entry, &KernelTable::conv2d_grad_input_add};

// Whether a kernel on this machine makes the gradient of a convolution's input and adds it in one go: a map that several branches read has one sum. In f32 1x1
// convolutions, in bf16 on tiles all of stride 1.
bool adds_in_place(const Tensor& sum, const Tensor& g, const Tensor& w, const ConvParams& p) {
  if (!sum.defined() || !sum.device().is_cpu() || sum.dtype() != g.dtype() || w.dtype() != DType::f32) return false;
  if (!sum.is_channels_last() || !g.is_channels_last() || p.groups != 1 || p.stride != Pair{1, 1}) return false;
  if (sum.dtype() == DType::bf16) return max_cpu_level() == Level::amx;
  return sum.dtype() == DType::f32 && matmul_precision() == Precision::f32 && w.size(2) == 1 && w.size(3) == 1 && p.padding == Padding4{0, 0, 0, 0} &&
         max_cpu_level() > Level::ref;
}

void vjp(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  const auto& p = v.get<ConvParams>();
  if (v.needs[0] && !v.sums.empty() && adds_in_place(v.sums[0], g, v.inputs[1], p)) {
    apply_in_place("conv2d_grad_input_add", add_kernels, {g, v.inputs[1], v.sums[0]}, {v.sums[0]}, p);
    v.result[0] = v.sums[0];
  } else if (v.needs[0]) v.result[0] = apply(op_conv2d_grad_input, {g, v.inputs[1]}, with_spec(p, v.input_specs[0]));
  if (v.needs[1]) v.result[1] = apply(op_conv2d_grad_weight, {g, v.inputs[0]}, with_spec(p, v.input_specs[1]));
  if (v.needs.size() > 2 && v.needs[2]) v.result[2] = cast(sum(g, {0, 2, 3}), v.input_specs[2].dtype);
}

void infer_grad(Inputs, const void* params, Outputs& out) {
  const auto& p = *static_cast<const ConvGradParams*>(params);
  out.push_back({p.shape, p.dtype, p.layout});
}
// Each of the three is linear in both of its inputs, so their derivatives are the other two.
void vjp_grad_input(const Vjp& v) {
  const Tensor& gg = v.grads[0];
  if (!gg.defined()) return;
  const auto& p = v.get<ConvGradParams>();
  if (v.needs[0]) {
    v.result[0] = apply(op_conv2d, {gg, v.inputs[1]}, static_cast<const ConvParams&>(p));
    // An output padding of a stride or more makes room for positions that no input element has.
    for (const int d : {2, 3}) v.result[0] = slice(v.result[0], d, 0, v.input_specs[0].shape[d]);
  }
  if (v.needs[1]) v.result[1] = apply(op_conv2d_grad_weight, {v.inputs[0], gg}, with_spec(p, v.input_specs[1]));
}
void vjp_grad_weight(const Vjp& v) {
  const Tensor& gg = v.grads[0];
  if (!gg.defined()) return;
  const auto& p = v.get<ConvGradParams>();
  if (v.needs[0]) v.result[0] = apply(op_conv2d, {v.inputs[1], gg}, static_cast<const ConvParams&>(p));
  if (v.needs[1]) v.result[1] = apply(op_conv2d_grad_input, {v.inputs[0], gg}, with_spec(p, v.input_specs[1]));
}

}  // namespace

constinit const Op op_conv2d{.name = "conv2d", .infer = infer, .vjp = vjp, .save_inputs = bit(0) | bit(1), .kernels = {&ref::conv2d_entry, &KernelTable::conv2d},
                             .fusion = Fusion::contraction};
constinit const Op op_conv2d_grad_input{.name = "conv2d_grad_input", .infer = infer_grad, .vjp = vjp_grad_input, .save_inputs = bit(0) | bit(1),
                                        .kernels = {&ref::conv2d_grad_input_entry, &KernelTable::conv2d_grad_input}, .fusion = Fusion::contraction};
constinit const Op op_conv2d_grad_weight{.name = "conv2d_grad_weight", .infer = infer_grad, .vjp = vjp_grad_weight, .save_inputs = bit(0) | bit(1),
                                         .kernels = {&ref::conv2d_grad_weight_entry, &KernelTable::conv2d_grad_weight}, .fusion = Fusion::contraction};

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvParams& params) {
  std::vector<Tensor> in{autocast_map(x, params.groups == 1), autocast(weight)};
  if (bias.defined()) in.push_back(autocast(bias));
  return apply(op_conv2d, in, params);
}

Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvTransposeOptions& o) {
  constexpr const char* op = "conv_transpose2d";
  check_rank(op, "the input", x, 4);
  check_rank(op, "weight", weight, 4);
  const ConvParams p{o.stride, {o.padding[0], o.padding[0], o.padding[1], o.padding[1]}, o.dilation, o.groups};
  check_params(op, p);
  const std::string seen = "(input " + describe(x) + ", weight " + describe(weight) + ", groups " + std::to_string(o.groups) + ")";
  const Tensor both[] = {x, weight};
  check_same_dtype(op, both);
  check_floating(op, x);
  if (x.size(1) != weight.size(0) || x.size(1) % o.groups)
    throw ShapeError(op, "weight expects " + std::to_string(weight.size(0)) + " input channels that the groups divide, input has " + std::to_string(x.size(1)) + " " + seen);
  Shape shape{x.size(0), weight.size(1) * o.groups, 0, 0};
  for (std::size_t k = 0; k < 2; ++k) {
    const int d = static_cast<int>(k) + 2;
    if (o.output_padding[k] < 0 || o.output_padding[k] >= std::max(o.stride[k], o.dilation[k]))
      throw ValueError(op, "output_padding must be below the larger of stride and dilation, got " + std::to_string(o.output_padding[k]));
    shape[d] = (x.shape()[d] - 1) * o.stride[k] - 2 * o.padding[k] + o.dilation[k] * (weight.shape()[d] - 1) + o.output_padding[k] + 1;
    if (shape[d] < 1) throw ShapeError(op, "the output would be empty " + seen, "Use less padding.");
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != shape[1])) throw ShapeError(op, "bias expects [" + std::to_string(shape[1]) + "], got " + describe(bias));
  const Tensor y = apply(op_conv2d_grad_input, {x, weight}, with_spec(p, {shape, x.dtype(), layout_like(x)}));
  return bias.defined() ? add(y, reshape(bias, {1, shape[1], 1, 1})) : y;
}

}  // namespace mien
