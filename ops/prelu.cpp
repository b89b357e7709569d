#include "mien/ops/prelu.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void infer(Inputs in, const void*, Outputs& out) {
  check_same_dtype("prelu", in);
  check_floating("prelu", in[0]);
  check_rank("prelu", "weight", in[1], 1);
  const std::int64_t channels = in[0].rank() > 1 ? in[0].size(1) : in[0].rank() == 1 ? in[0].size(0) : 1;
  if (in[1].size(0) != 1 && in[1].size(0) != channels)
    throw ShapeError("prelu", "weight expects 1 value or one for each of " + std::to_string(channels) + " channels, got " + describe_all(in));
  out.push_back(spec_like(in[0]));
}
void vjp(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  auto g = apply_all(op_prelu_backward, {v.grads[0], v.inputs[0], v.inputs[1]});
  if (v.needs[0]) v.result[0] = g[0];
  if (v.needs[1]) v.result[1] = g[1];
}
void infer_backward(Inputs in, const void*, Outputs& out) {
  out.push_back(spec_like(in[1]));
  out.push_back(spec_like(in[2]));
}

}  // namespace

constinit const Op op_prelu{.name = "prelu", .infer = infer, .vjp = vjp, .save_inputs = bit(0) | bit(1), .kernels = {&ref::prelu_entry, &KernelTable::prelu},
                            .fusion = Fusion::elementwise};
constinit const Op op_prelu_backward{.name = "prelu_backward", .infer = infer_backward, .kernels = {&ref::prelu_backward_entry, &KernelTable::prelu_backward}};

Tensor prelu(const Tensor& x, const Tensor& weight) {
  const bool half = x.dtype() != parameter_dtype(x);  // its slope is f32: see autocast.h
  return apply(op_prelu, {x, half ? cast(weight, x.dtype()) : weight});
}

}  // namespace mien
