#include "mien/ops/matmul.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/autocast.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void infer_matmul(Inputs in, const void*, Outputs& out) {
  check_same_dtype("matmul", in);
  check_floating("matmul", in[0]);
  const Tensor &a = in[0], &b = in[1];
  if (a.rank() < 2 || b.rank() < 2) throw ShapeError("matmul", "expects at least 2 dimensions, got " + describe_all(in));
  if (a.size(-1) != b.size(-2))
    throw ShapeError("matmul", "columns of the first (" + std::to_string(a.size(-1)) + ") and rows of the second (" + std::to_string(b.size(-2)) + ") differ: " + describe_all(in));
  const Shape batch = broadcast(Shape(std::span(a.shape().begin(), static_cast<std::size_t>(a.rank() - 2))),
                                Shape(std::span(b.shape().begin(), static_cast<std::size_t>(b.rank() - 2))), "matmul");
  Shape shape = batch;
  shape.push_back(a.size(-2));
  shape.push_back(b.size(-1));
  out.push_back({shape, a.dtype(), Layout::contiguous});
}
// As matmul(), in the operands' dtype also where Autocast is on: a product in f32 has its derivative in f32.
Tensor product(const Tensor& a, const Tensor& b) { return apply(op_matmul, {a, b}); }

void vjp_matmul(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  if (v.needs[0]) v.result[0] = sum_to(product(v.grads[0], transpose(v.inputs[1], -1, -2)), v.input_specs[0].shape);
  if (v.needs[1]) v.result[1] = sum_to(product(transpose(v.inputs[0], -1, -2), v.grads[0]), v.input_specs[1].shape);
}

void infer_linear(Inputs in, const void*, Outputs& out) {
  check_same_dtype("linear", in);
  check_floating("linear", in[0]);
  check_rank("linear", "weight", in[1], 2);
  if (in[0].size(-1) != in[1].size(1))
    throw ShapeError("linear", "weight expects " + std::to_string(in[1].size(1)) + " inputs, the input has " + std::to_string(in[0].size(-1)) + " (" + describe_all(in) + ")");
  if (in.size() > 2 && (in[2].rank() != 1 || in[2].size(0) != in[1].size(0)))
    throw ShapeError("linear", "bias expects [" + std::to_string(in[1].size(0)) + "], got " + describe(in[2]));
  out.push_back({{in[0].size(0), in[1].size(0)}, in[0].dtype(), Layout::contiguous});
}
void vjp_linear(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  if (v.needs[0]) v.result[0] = product(g, v.inputs[1]);
  if (v.needs[1]) v.result[1] = product(transpose(g, 0, 1), v.inputs[0]);
  if (v.needs.size() > 2 && v.needs[2]) v.result[2] = sum(g, {0});
}

}  // namespace

constinit const Op op_matmul{.name = "matmul", .infer = infer_matmul, .vjp = vjp_matmul, .save_inputs = bit(0) | bit(1),
                             .kernels = {&ref::matmul_entry, &KernelTable::matmul}, .broadcast = Broadcast::batch, .fusion = Fusion::contraction};
constinit const Op op_linear{.name = "linear", .infer = infer_linear, .vjp = vjp_linear, .save_inputs = bit(0) | bit(1),
                             .kernels = {&ref::linear_entry, &KernelTable::linear}, .fusion = Fusion::contraction};

Tensor matmul(const Tensor& a, const Tensor& b) { return apply(op_matmul, {autocast(a), autocast(b)}); }

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (x.rank() < 1) throw ShapeError("linear", "expects at least 1 dimension, got " + describe(x));
  Shape flat{1, x.size(-1)};
  for (int d = 0; d + 1 < x.rank(); ++d) flat[0] *= x.shape()[d];
  const Tensor rows = x.rank() == 2 ? x : reshape(x, flat);
  const Tensor y = bias.defined() ? apply(op_linear, {autocast(rows), autocast(weight), autocast(bias)}) : apply(op_linear, {autocast(rows), autocast(weight)});
  if (x.rank() == 2) return y;
  Shape to = x.shape();
  to.back() = weight.size(0);
  return reshape(y, to);
}

}  // namespace mien
