#include "mien/ops/softmax.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {

void infer(Inputs in, const void* params, Outputs& out) {
  check_floating(static_cast<const SoftmaxParams*>(params)->log ? "log_softmax" : "softmax", in[0]);
  out.push_back(spec_like(in[0]));
}
void vjp(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_softmax_backward, {v.grads[0], v.outputs[0]}, v.get<SoftmaxParams>());
}
void infer_backward(Inputs in, const void*, Outputs& out) { out.push_back(spec_like(in[1])); }
// softmax: r = y (g - sum(g y)); log_softmax: r = g - exp(y) sum(g). q is the gradient of r.
void vjp_backward(const Vjp& v) {
  const Tensor& q = v.grads[0];
  if (!q.defined()) return;
  const Tensor &g = v.inputs[0], &y = v.inputs[1];
  const auto& p = v.get<SoftmaxParams>();
  const auto total = [&](const Tensor& t) { return sum(t, {p.dim}, true); };
  if (p.log) {
    const Tensor e = exp(y);
    if (v.needs[0]) v.result[0] = sub(q, total(mul(q, e)));
    if (v.needs[1]) v.result[1] = neg(mul(mul(q, e), total(g)));
  } else {
    if (v.needs[0]) v.result[0] = mul(y, sub(q, total(mul(q, y))));
    if (v.needs[1]) v.result[1] = sub(mul(q, sub(g, total(mul(g, y)))), mul(g, total(mul(q, y))));
  }
}

}  // namespace

constinit const Op op_softmax{.name = "softmax", .infer = infer, .vjp = vjp, .save_outputs = bit(0), .kernels = {&ref::softmax_entry, &KernelTable::softmax}, .fusion = Fusion::reduction};
constinit const Op op_softmax_backward{.name = "softmax_backward", .infer = infer_backward, .vjp = vjp_backward, .save_inputs = bit(0) | bit(1),
                                       .kernels = {&ref::softmax_backward_entry, &KernelTable::softmax_backward}};

Tensor softmax(const Tensor& x, std::int64_t dim) { return apply(op_softmax, {x}, SoftmaxParams{normalize_dim(dim, x.rank(), "softmax"), false}); }
Tensor log_softmax(const Tensor& x, std::int64_t dim) { return apply(op_softmax, {x}, SoftmaxParams{normalize_dim(dim, x.rank(), "log_softmax"), true}); }

}  // namespace mien
