#include "mien/ops/residual.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {

void infer(Inputs in, const void*, Outputs& out) {
  check_same_dtype("residual", in);
  check_floating("residual", in[0]);
  check_same_shape("residual", in[0], in[1]);
  out.push_back(spec_like(in[0]));
}
Saves saves(const void* params) { return {0, static_cast<const ResidualParams*>(params)->relu ? bit(0) : 0}; }
void vjp(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const auto& p = v.get<ResidualParams>();
  const Tensor &y = v.outputs[0], g = p.relu ? apply(op_unary_backward, {v.grads[0], y, y}, UnaryParams{.kind = UnaryKind::relu}) : v.grads[0];
  if (v.needs[0]) v.result[0] = g;
  if (v.needs[1]) v.result[1] = affine(g, p.scale, 0);
}

}  // namespace

constinit const Op op_residual{.name = "residual", .infer = infer, .vjp = vjp, .save_outputs = bit(0), .kernels = {&ref::residual_entry, &KernelTable::residual},
                               .fusion = Fusion::elementwise, .saves = saves};

Tensor residual(const Tensor& x, const Tensor& h, double scale, bool relu) { return apply(op_residual, {x, h}, ResidualParams{scale, relu}); }

}  // namespace mien
