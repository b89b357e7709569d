#include "mien/ops/norm.h"

#include "mien/autograd/checkpoint.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/prelu.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void check_channels(Inputs in) {
  check_floating("batch_norm", in[0]);
  check_parameters("batch_norm", in[0], in.subspan(1));
  if (in[0].rank() < 2) throw ShapeError("batch_norm", "expects at least 2 dimensions [N, C, ...], got " + describe(in[0]));
  for (std::size_t i = 1; i < in.size(); ++i)
    if (in[i].rank() != 1 || in[i].size(0) != in[0].size(1))
      throw ShapeError("batch_norm", "expects one value for each of " + std::to_string(in[0].size(1)) + " channels, got " + describe_all(in));
}
void infer(Inputs in, const void*, Outputs& out) {
  check_channels(in);
  const std::int64_t values = in[0].size(1) > 0 ? in[0].numel() / in[0].size(1) : 0;
  if (values < 2) throw ShapeError("batch_norm", "training needs more than one value per channel, got " + describe(in[0]), "Use a larger batch or eval mode.");
  out.push_back(spec_like(in[0]));
  out.push_back({{in[0].size(1)}, parameter_dtype(in[0]), Layout::contiguous});
  out.push_back({{in[0].size(1)}, parameter_dtype(in[0]), Layout::contiguous});
}
Saves saves(const void* params) {
  const bool active = static_cast<const NormParams*>(params)->activation != Activation::none;
  return {bit(0) | bit(1) | (active ? bit(2) | bit(3) : 0), bit(1) | bit(2)};
}
void vjp(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const auto& p = v.get<NormParams>();
  std::vector<Tensor> in{v.grads[0], v.inputs[0], v.inputs[1], v.outputs[1], v.outputs[2]};
  if (p.activation != Activation::none) in.insert(in.end(), v.inputs.begin() + 2, v.inputs.end());
  auto g = apply_all(op_batch_norm_backward, in, p);
  for (std::size_t i = 0; i < g.size(); ++i)
    if (v.needs[i]) v.result[i] = g[i];
}
void infer_backward(Inputs in, const void*, Outputs& out) {
  out.push_back(spec_like(in[1]));
  for (std::size_t i = 0; i < (in.size() > 6 ? 3 : 2); ++i) out.push_back(spec_like(in[2]));
}

// [C] as [1, C, 1, ...], to broadcast against x.
Tensor per_channel(const Tensor& t, const Tensor& x) {
  Shape shape = Shape::filled(x.rank(), 1);
  shape[1] = t.size(0);
  return reshape(t, shape);
}

void vjp_affine(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  std::vector<std::int64_t> others{0};
  for (int d = 2; d < g.rank(); ++d) others.push_back(d);
  if (v.needs[0]) v.result[0] = mul(g, per_channel(v.inputs[1], g));
  if (v.needs[1]) v.result[1] = sum(mul(g, v.inputs[0]), others);
  if (v.needs[2]) v.result[2] = sum(g, others);
}
void infer_affine(Inputs in, const void*, Outputs& out) {
  check_channels(in);
  out.push_back(spec_like(in[0]));
}

}  // namespace

constinit const Op op_batch_norm{.name = "batch_norm", .infer = infer, .vjp = vjp, .save_inputs = bit(0) | bit(1) | bit(2) | bit(3), .save_outputs = bit(1) | bit(2),
                                 .kernels = {&ref::batch_norm_entry, &KernelTable::batch_norm}, .saves = saves};
constinit const Op op_batch_norm_backward{.name = "batch_norm_backward", .infer = infer_backward, .kernels = {&ref::batch_norm_backward_entry, &KernelTable::batch_norm_backward}};
constinit const Op op_channel_affine{.name = "channel_affine", .infer = infer_affine, .vjp = vjp_affine, .save_inputs = bit(0) | bit(1),
                                     .kernels = {&ref::channel_affine_entry, &KernelTable::channel_affine}, .fusion = Fusion::elementwise};

void update_running_moments(const Tensor& running_mean, const Tensor& running_var, const MomentMap& seen, double eps, double momentum) {
  if (recomputing()) return;  // the statistics have seen this batch
  const NoGrad guard;
  const double n = static_cast<double>(seen.map.numel() / seen.map.size(1));
  const Tensor variance = affine(reciprocal(square(seen.invstd.detach())), n / (n - 1), -eps * n / (n - 1));  // unbiased
  copy_into(running_mean, add(affine(running_mean, 1 - momentum, 0), affine(seen.mean.detach(), momentum, 0)));
  copy_into(running_var, add(affine(running_var, 1 - momentum, 0), affine(variance, momentum, 0)));
}

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean, const Tensor& running_var, const BatchNormOptions& o, const Tensor& slope) {
  const bool sloped = o.activation == Activation::prelu;
  if (sloped != slope.defined()) throw ValueError("batch_norm", sloped ? "prelu needs a slope" : "a slope is for prelu only");
  std::vector<Tensor> all{x, weight, bias, running_mean, running_var};
  if (sloped) all.push_back(slope);
  check_channels(all);
  if (!o.training) {
    const Tensor scale = mul(weight, rsqrt(affine(running_var, 1, o.eps)));
    const Tensor y = apply(op_channel_affine, {x, scale, sub(bias, mul(running_mean, scale))});
    return o.activation == Activation::relu ? relu(y) : sloped ? prelu(y, slope) : y;
  }
  const NormParams p{o.eps, o.activation};
  const auto out = sloped ? apply_all(op_batch_norm, {x, weight, bias, slope}, p) : apply_all(op_batch_norm, {x, weight, bias}, p);
  update_running_moments(running_mean, running_var, {x, out[1], out[2]}, o.eps, o.momentum);
  return out[0];
}

Tensor dropout(const Tensor& x, double p, bool training) {
  if (p < 0 || p >= 1) throw ValueError("dropout", "expects 0 <= p < 1, got " + std::to_string(p));
  if (!training || p == 0) return x;
  return mul(x, cast(dropout_mask(x.shape(), p, {.dtype = parameter_dtype(x), .layout = layout_like(x), .device = x.device()}), x.dtype()));
}

}  // namespace mien
