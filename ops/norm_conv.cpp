#include "mien/ops/norm_conv.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/autocast.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

constexpr std::size_t norm_at = 2;  // where the norm's operands begin

void check_norm(const char* op, Inputs in, std::size_t first, std::size_t last) {
  check_parameters(op, in[0], in.subspan(first, last - first));
  for (std::size_t i = first; i < last; ++i)
    if (in[i].rank() != 1 || in[i].size(0) != in[0].size(1))
      throw ShapeError(op, "expects one value for each of " + std::to_string(in[0].size(1)) + " channels, got " + describe_all(in));
}
void infer(Inputs in, const void* params, Outputs& out) {
  op_conv2d.infer(in.first(norm_at), static_cast<const ConvParams*>(static_cast<const NormConvParams*>(params)), out);
  check_norm("norm_conv", in, norm_at, in.size());
  const Shape y = out[0].shape;
  if (y[0] * y[2] * y[3] < 2) throw ShapeError("norm_conv", "moments need more than one value per channel, got " + describe(in[0]), "Use a larger batch.");
  for (int k = 0; k < 2; ++k) out.push_back({{y[1]}, parameter_dtype(in[0]), Layout::contiguous});
}
void vjp(const Vjp& v) {
  std::vector<Tensor> in;
  for (std::size_t i = 0; i < v.outputs.size(); ++i) in.push_back(v.grads[i].defined() ? v.grads[i] : zeros_like(v.outputs[i]));
  in.insert(in.end(), v.outputs.begin(), v.outputs.end());
  in.insert(in.end(), v.inputs.begin(), v.inputs.end());
  auto g = apply_all(op_norm_conv_backward, in, v.get<NormConvParams>());
  for (std::size_t i = 0; i < g.size(); ++i)
    if (v.needs[i]) v.result[i] = std::move(g[i]);
}
void infer_backward(Inputs in, const void*, Outputs& out) {
  for (const Tensor& t : in.subspan(6)) out.push_back(spec_like(t));
}

void infer_add(Inputs in, const void*, Outputs& out) {
  check_rank("norm_add", "the map", in[0], 4);
  check_floating("norm_add", in[0]);
  check_norm("norm_add", in, 1, 5);
  if (in.size() > 5) {
    check_same_shape("norm_add", in[0], in[5]);
    const Tensor maps[] = {in[0], in[5]};
    check_same_dtype("norm_add", maps);
  }
  out.push_back(spec_like(in[0]));
}
void vjp_add(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  std::vector<Tensor> in{v.grads[0]};
  in.insert(in.end(), v.inputs.begin(), v.inputs.begin() + 5);
  auto g = apply_all(op_norm_add_backward, in);
  for (std::size_t i = 0; i < g.size(); ++i)
    if (v.needs[i]) v.result[i] = std::move(g[i]);
  if (v.needs.size() > 5 && v.needs[5]) v.result[5] = v.grads[0];
}
void infer_add_backward(Inputs in, const void*, Outputs& out) {
  for (const Tensor& t : in.subspan(1)) out.push_back(spec_like(t));
}

}  // namespace

constinit const Op op_norm_conv{.name = "norm_conv", .infer = infer, .vjp = vjp, .save_inputs = bit(7) - 1, .save_outputs = bit(0) | bit(1) | bit(2),
                                .kernels = {&ref::norm_conv_entry, &KernelTable::norm_conv}};
constinit const Op op_norm_conv_backward{.name = "norm_conv_backward", .infer = infer_backward, .kernels = {&ref::norm_conv_backward_entry, &KernelTable::norm_conv_backward}};
constinit const Op op_norm_add{.name = "norm_add", .infer = infer_add, .vjp = vjp_add, .save_inputs = bit(5) - 1, .kernels = {&ref::norm_add_entry, &KernelTable::norm_add}};
constinit const Op op_norm_add_backward{.name = "norm_add_backward", .infer = infer_add_backward, .kernels = {&ref::norm_add_backward_entry, &KernelTable::norm_add_backward}};

MomentMap norm_conv(const MomentMap& x, const NormOperands& norm, const Tensor& weight, const ConvParams& params, double eps) {
  std::vector<Tensor> in{autocast(x.map), autocast(weight)};
  NormConvParams p;
  static_cast<ConvParams&>(p) = params;
  p.eps = eps;
  if (x.mean.defined()) {
    const bool sloped = norm.activation == Activation::prelu;
    if (sloped != norm.slope.defined()) throw ValueError("norm_conv", sloped ? "prelu needs a slope" : "a slope is for prelu only");
    in.insert(in.end(), {x.mean, x.invstd, norm.weight, norm.bias});
    if (sloped) in.push_back(norm.slope);
    p.activation = norm.activation;
  }
  auto out = apply_all(op_norm_conv, in, p);
  return {out[0], out[1], out[2]};
}

Tensor norm_add(const MomentMap& x, const Tensor& weight, const Tensor& bias, const Tensor& added) {
  if (added.defined()) return apply(op_norm_add, {x.map, x.mean, x.invstd, weight, bias, added});
  return apply(op_norm_add, {x.map, x.mean, x.invstd, weight, bias});
}

}  // namespace mien
