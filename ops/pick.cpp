#include "mien/ops/pick.h"

#include "mien/kernels/ref/ref.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void check_pick(const char* op, Inputs in) {
  const Tensor &x = in[0], &index = in[1];
  check_rank(op, "the input", x, 2);
  check_floating(op, x);
  if (index.dtype() != DType::i64) throw DTypeError(op, "the index must be i64, got " + describe(index), "Cast with mien::cast(index, DType::i64).");
  if (index.rank() != 1 || index.size(0) != x.size(0)) throw ShapeError(op, "expects one index per row, got " + describe_all(in));
  // On a GPU nobody waits for the values: an index outside gives a NaN there.
  for (std::int64_t i = 0; index.device().is_cpu() && i < index.numel(); ++i)
    if (const std::int64_t c = index.data<std::int64_t>()[i * index.strides()[0]]; c < 0 || c >= x.size(1))
      throw ValueError(op, "expects indices from 0 to below " + std::to_string(x.size(1)) + ", got " + std::to_string(c) + " for row " + std::to_string(i));
}

void infer_pick(Inputs in, const void*, Outputs& out) {
  check_pick("pick", in);
  out.push_back({{in[0].size(0)}, in[0].dtype(), Layout::contiguous});
}
void vjp_pick(const Vjp& v) {
  if (!v.grads[0].defined() || !v.needs[0]) return;
  const Tensor zero = expand(zeros({1, 1}, {.dtype = v.grads[0].dtype(), .device = v.grads[0].device()}), v.input_specs[0].shape);
  v.result[0] = pick_add(zero, v.inputs[1], v.grads[0]);
}

void infer_pick_add(Inputs in, const void*, Outputs& out) {
  check_pick("pick_add", in);
  if (in[2].rank() != 1 || in[2].size(0) != in[0].size(0)) throw ShapeError("pick_add", "expects one value per row, got " + describe_all(in));
  if (in[2].dtype() != in[0].dtype()) throw DTypeError("pick_add", "expects values of the input's dtype, got " + describe_all(in));
  out.push_back({in[0].shape(), in[0].dtype(), Layout::contiguous});
}
void vjp_pick_add(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  if (v.needs[0]) v.result[0] = v.grads[0];
  if (v.needs[2]) v.result[2] = pick(v.grads[0], v.inputs[1]);
}

}  // namespace

constinit const Op op_pick{.name = "pick", .infer = infer_pick, .vjp = vjp_pick, .save_inputs = bit(1), .kernels = {&ref::pick_entry, &KernelTable::pick}, .reads = bit(1)};
constinit const Op op_pick_add{.name = "pick_add", .infer = infer_pick_add, .vjp = vjp_pick_add, .save_inputs = bit(1), .kernels = {&ref::pick_add_entry, &KernelTable::pick_add}, .reads = bit(1)};

Tensor pick(const Tensor& x, const Tensor& index) { return apply(op_pick, {x, index}); }
Tensor pick_add(const Tensor& x, const Tensor& index, const Tensor& values) { return apply(op_pick_add, {x, index, values}); }

}  // namespace mien
