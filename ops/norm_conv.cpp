#include "mien/ops/norm_conv.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

constexpr std::size_t norm_at = 2;  // where the norm's operands begin

void infer(Inputs in, const void* params, Outputs& out) {
  op_conv2d.infer(in.first(norm_at), static_cast<const ConvParams*>(static_cast<const NormConvParams*>(params)), out);
  check_same_dtype("norm_conv", in);
  for (std::size_t i = norm_at; i < in.size(); ++i)
    if (in[i].rank() != 1 || in[i].size(0) != in[0].size(1))
      throw ShapeError("norm_conv", "expects one value for each of " + std::to_string(in[0].size(1)) + " channels, got " + describe_all(in));
  const Shape y = out[0].shape;
  if (y[0] * y[2] * y[3] < 2) throw ShapeError("norm_conv", "moments need more than one value per channel, got " + describe(in[0]), "Use a larger batch.");
  for (int k = 0; k < 2; ++k) out.push_back({{y[1]}, in[0].dtype(), Layout::contiguous});
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

}  // namespace

constinit const Op op_norm_conv{.name = "norm_conv", .infer = infer, .vjp = vjp, .save_inputs = bit(7) - 1, .save_outputs = bit(0) | bit(1) | bit(2),
                                .kernels = {&ref::norm_conv_entry, &CpuTable::norm_conv}};
constinit const Op op_norm_conv_backward{.name = "norm_conv_backward", .infer = infer_backward, .kernels = {&ref::norm_conv_backward_entry, &CpuTable::norm_conv_backward}};

MomentMap norm_conv(const MomentMap& x, const NormOperands& norm, const Tensor& weight, const ConvParams& params, double eps) {
  std::vector<Tensor> in{x.map, weight};
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

}  // namespace mien
