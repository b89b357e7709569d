#include "mien/ops/loss.h"

#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/softmax.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void infer_nll(Inputs in, const void* params, Outputs& out) {
  const Tensor &logp = in[0], &target = in[1];
  check_rank("nll_loss", "log-probabilities", logp, 2);
  check_rank("nll_loss", "target", target, 1);
  check_floating("nll_loss", logp);
  if (target.dtype() != DType::i64) throw DTypeError("nll_loss", "target must be i64, got " + describe(target), "Cast with mien::cast(target, DType::i64).");
  if (target.size(0) != logp.size(0)) throw ShapeError("nll_loss", "expects one target per row, got " + describe_all(in));
  if (in.size() > 2 && (in[2].rank() != 1 || in[2].size(0) != logp.size(1) || in[2].dtype() != logp.dtype()))
    throw ShapeError("nll_loss", "expects one weight per class, got " + describe_all(in));
  const std::int64_t ignored = static_cast<const NllParams*>(params)->ignore_index;
  // On a GPU nobody waits for the values: a target outside gives a NaN there.
  for (std::int64_t i = 0; target.device().is_cpu() && i < target.size(0); ++i) {
    const std::int64_t t = target.data<std::int64_t>()[i * target.strides()[0]];
    if (t != ignored && (t < 0 || t >= logp.size(1)))
      throw ValueError("nll_loss", "target " + std::to_string(i) + " is " + std::to_string(t) + ", expected 0.." + std::to_string(logp.size(1) - 1), "Is the number of classes right?");
  }
  out.push_back({{logp.size(0)}, logp.dtype(), Layout::contiguous});
  out.push_back({{logp.size(0)}, logp.dtype(), Layout::contiguous});
}
struct NllGradParams : NllParams {
  Shape shape;
};
void vjp_nll(const Vjp& v) {
  if (!v.grads[0].defined() || !v.needs[0]) return;
  NllGradParams p;
  static_cast<NllParams&>(p) = v.get<NllParams>();
  p.shape = v.input_specs[0].shape;
  v.result[0] = v.inputs.size() > 2 ? apply(op_nll_backward, {v.grads[0], v.inputs[1], v.inputs[2]}, p) : apply(op_nll_backward, {v.grads[0], v.inputs[1]}, p);
}
void infer_nll_backward(Inputs in, const void* params, Outputs& out) { out.push_back({static_cast<const NllGradParams*>(params)->shape, in[0].dtype(), Layout::contiguous}); }
// The gradient of q with respect to g: one value per row, what nll itself computes of q.
void vjp_nll_backward(const Vjp& v) {
  if (!v.grads[0].defined() || !v.needs[0]) return;
  const auto& p = v.get<NllGradParams>();
  v.result[0] = v.inputs.size() > 2 ? apply_all(op_nll, {v.grads[0], v.inputs[1], v.inputs[2]}, static_cast<const NllParams&>(p))[0]
                                    : apply_all(op_nll, {v.grads[0], v.inputs[1]}, static_cast<const NllParams&>(p))[0];
}

void infer_topk(Inputs in, const void*, Outputs& out) {
  check_rank("topk_mean", "losses", in[0], 1);
  check_same_shape("topk_mean", in[0], in[1]);
  if (in[1].dtype() != DType::boolean) throw DTypeError("topk_mean", "the mask must be bool, got " + describe(in[1]), "Make it with a comparison such as mien::equal.");
  out.push_back(spec_like(in[0]));
}

Tensor reduced(const Tensor& losses, Reduction r) { return r == Reduction::none ? losses : r == Reduction::sum ? sum(losses) : mean(losses); }

// Sum divided by a weight that may be zero: then the result is zero, and so is its gradient.
Tensor safe_ratio(const Tensor& total, const Tensor& weight) {
  const Tensor zero = full(weight.shape(), 0, {.dtype = weight.dtype(), .device = weight.device()});
  const Tensor empty = equal(weight, zero);
  return where(empty, zero, div(total, where(empty, ones_like(weight), weight)));
}

}  // namespace

constinit const Op op_nll{.name = "nll_loss", .infer = infer_nll, .vjp = vjp_nll, .save_inputs = bit(1) | bit(2), .kernels = {&ref::nll_entry, &KernelTable::nll}, .reads = bit(1)};
constinit const Op op_nll_backward{.name = "nll_backward", .infer = infer_nll_backward, .vjp = vjp_nll_backward, .save_inputs = bit(1) | bit(2), .kernels = {&ref::nll_backward_entry, &KernelTable::nll_backward}};
constinit const Op op_topk_mask{.name = "topk_mask", .infer = infer_topk, .kernels = {&ref::topk_mask_entry, &KernelTable::topk_mask}};

Tensor nll_loss(const Tensor& logp, const Tensor& target, const CrossEntropyOptions& o) {
  const NllParams p{o.ignore_index};
  const auto out = o.weight.defined() ? apply_all(op_nll, {logp, target, o.weight}, p) : apply_all(op_nll, {logp, target}, p);
  if (o.reduction != Reduction::mean) return reduced(out[0], o.reduction);
  return div(sum(out[0]), sum(out[1].detach()));  // 0/0 = NaN when every sample is ignored, as PyTorch
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o) {
  if (o.label_smoothing < 0 || o.label_smoothing >= 1) throw ValueError("cross_entropy", "expects 0 <= label_smoothing < 1, got " + std::to_string(o.label_smoothing));
  check_rank("cross_entropy", "logits", logits, 2);
  const Tensor logp = log_softmax(cast(logits, parameter_dtype(logits)), 1);
  const Tensor plain = nll_loss(logp, target, o);
  if (o.label_smoothing == 0) return plain;
  // The smooth part: -sum_c w_c logp_c / C per counted sample (Szegedy et al., 2016; PyTorch's form with class weights).
  const Tensor counted = cast(not_equal(target, full({1}, static_cast<double>(o.ignore_index), {.dtype = DType::i64, .device = target.device()})), logp.dtype());
  const Tensor weighted = o.weight.defined() ? mul(logp, reshape(o.weight, {1, -1})) : logp;
  const Tensor smooth = mul(neg(sum(weighted, {1})), counted);
  Tensor part = reduced(smooth, o.reduction == Reduction::mean ? Reduction::sum : o.reduction);
  if (o.reduction == Reduction::mean) part = div(part, sum(apply_all(op_nll, o.weight.defined() ? std::vector<Tensor>{logp, target, o.weight} : std::vector<Tensor>{logp, target}, NllParams{o.ignore_index})[1].detach()));
  const double classes = static_cast<double>(logits.size(1));
  return add(affine(plain, 1 - o.label_smoothing, 0), affine(part, o.label_smoothing / classes, 0));
}

Tensor binary_cross_entropy(const Tensor& probability, const Tensor& target, Reduction r) {
  check_same_shape("binary_cross_entropy", probability, target);
  const Tensor low = full({1}, -100, {.dtype = probability.dtype(), .device = probability.device()});
  const Tensor yes = maximum(log(probability), low), no = maximum(log(1.0 - probability), low);
  return reduced(neg(add(mul(target, yes), mul(1.0 - target, no))), r);
}

Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target, Reduction r, const Tensor& pos_weight) {
  check_same_shape("binary_cross_entropy_with_logits", x, target);
  // (1 - t) x + (1 + (w - 1) t) log(1 + exp(-x)), the logarithm in its stable form max(-x, 0) + log(1 + exp(-|x|)).
  const Tensor log_term = add(relu(neg(x)), softplus(neg(abs(x))));
  const Tensor factor = pos_weight.defined() ? add(mul(sub(pos_weight, ones_like(pos_weight)), target), ones_like(target)) : Tensor();
  return reduced(add(mul(1.0 - target, x), factor.defined() ? mul(factor, log_term) : log_term), r);
}

Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, double beta, Reduction r) {
  check_same_shape("smooth_l1_loss", x, target);
  if (beta < 0) throw ValueError("smooth_l1_loss", "expects beta >= 0, got " + std::to_string(beta));
  const Tensor d = abs(sub(x, target));
  if (beta == 0) return reduced(d, r);
  return reduced(where(less(d, full({1}, beta, {.dtype = d.dtype(), .device = d.device()})), affine(square(d), .5 / beta, 0), affine(d, 1, -.5 * beta)), r);
}

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction r) {
  check_same_shape("mse_loss", x, target);
  return reduced(square(sub(x, target)), r);
}

Tensor masked_mean(const Tensor& losses, const Tensor& mask) {
  check_same_shape("masked_mean", losses, mask);
  const Tensor weight = cast(mask, losses.dtype());
  return safe_ratio(sum(mul(losses, weight)), sum(weight));
}

Tensor topk_mean(const Tensor& losses, const Tensor& mask, double keep) {
  if (!(keep > 0 && keep <= 1)) throw ValueError("topk_mean", "expects 0 < keep <= 1, got " + std::to_string(keep));
  const Tensor chosen = apply(op_topk_mask, {losses.detach(), mask}, TopkParams{keep});
  return safe_ratio(sum(mul(losses, chosen)), sum(chosen));
}

}  // namespace mien
