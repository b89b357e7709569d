#include "mien/ops/binary.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {

const char* member(const void* params) {
  static constexpr const char* names[] = {"add", "sub", "mul", "div", "maximum", "minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"};
  return names[static_cast<int>(static_cast<const BinaryParams*>(params)->kind)];
}

void infer(Inputs in, const void* params, Outputs& out) {
  const char* op = member(params);
  check_same_dtype(op, in);
  const Shape shape = broadcast(in[0].shape(), in[1].shape(), op);
  const bool comparison = static_cast<const BinaryParams*>(params)->kind >= BinaryKind::eq;
  const Layout layout = shape == in[0].shape() ? layout_like(in[0]) : shape == in[1].shape() ? layout_like(in[1]) : Layout::contiguous;
  out.push_back({shape, comparison ? DType::boolean : in[0].dtype(), layout});
}

// maximum and minimum: the winner gets the gradient, ties half each.
void vjp_extremum(const Vjp& v, bool larger) {
  const Tensor &g = v.grads[0], &a = v.inputs[0], &b = v.inputs[1];
  const Tensor tie = affine(cast(equal(a, b), g.dtype()), .5, 0);
  const Tensor first = add(cast(larger ? greater(a, b) : less(a, b), g.dtype()), tie);
  if (v.needs[0]) v.result[0] = sum_to(mul(g, first), v.input_specs[0].shape);
  if (v.needs[1]) v.result[1] = sum_to(mul(g, affine(first, -1, 1)), v.input_specs[1].shape);
}

void vjp(const Vjp& v) {
  const BinaryKind kind = v.get<BinaryParams>().kind;
  const Tensor& g = v.grads[0];
  if (!g.defined() || kind >= BinaryKind::eq) return;  // comparisons give bool: nothing flows through them
  const Tensor &a = v.inputs[0], &b = v.inputs[1];
  const auto give = [&](std::size_t i, const Tensor& t) { v.result[i] = sum_to(t, v.input_specs[i].shape); };
  switch (kind) {
    case BinaryKind::add:
    case BinaryKind::sub:
      if (v.needs[0]) give(0, g);
      if (v.needs[1]) give(1, kind == BinaryKind::add ? g : neg(g));
      return;
    case BinaryKind::mul:
      if (v.needs[0]) give(0, mul(g, b));
      if (v.needs[1]) give(1, mul(g, a));
      return;
    case BinaryKind::div:
      if (v.needs[0]) give(0, div(g, b));
      if (v.needs[1]) give(1, neg(div(mul(g, a), square(b))));
      return;
    default: vjp_extremum(v, kind == BinaryKind::maximum);
  }
}

void infer_where(Inputs in, const void*, Outputs& out) {
  if (in[0].dtype() != DType::boolean) throw DTypeError("where", "the condition must be bool, got " + describe_all(in), "Make it with a comparison such as mien::greater.");
  check_same_dtype("where", in.subspan(1));
  const Shape shape = broadcast(broadcast(in[0].shape(), in[1].shape(), "where"), in[2].shape(), "where");
  Layout layout = Layout::contiguous;
  for (const auto& t : in)
    if (t.shape() == shape && layout_like(t) == Layout::channels_last) layout = Layout::channels_last;
  out.push_back({shape, in[1].dtype(), layout});
}

void vjp_where(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  const Tensor zero = full({}, 0, {.dtype = g.dtype(), .device = g.device()});
  if (v.needs[1]) v.result[1] = sum_to(where(v.inputs[0], g, zero), v.input_specs[1].shape);
  if (v.needs[2]) v.result[2] = sum_to(where(v.inputs[0], zero, g), v.input_specs[2].shape);
}

// Sums and differences need nothing saved: their operands may be freed or overwritten before backward.
Saves saves(const void* params) {
  const BinaryKind kind = static_cast<const BinaryParams*>(params)->kind;
  return kind == BinaryKind::add || kind == BinaryKind::sub || kind >= BinaryKind::eq ? Saves{} : Saves{bit(0) | bit(1), 0};
}

Tensor binary(BinaryKind kind, const Tensor& a, const Tensor& b) { return apply(op_binary, {a, b}, BinaryParams{kind}); }

}  // namespace

constinit const Op op_binary{.name = "binary", .infer = infer, .vjp = vjp, .save_inputs = bit(0) | bit(1), .kernels = {&ref::binary_entry, &KernelTable::binary},
                             .broadcast = Broadcast::full, .fusion = Fusion::elementwise, .member = member, .saves = saves};
constinit const Op op_where{.name = "where", .infer = infer_where, .vjp = vjp_where, .save_inputs = bit(0), .kernels = {&ref::where_entry, &KernelTable::where},
                            .broadcast = Broadcast::full, .fusion = Fusion::elementwise};

Tensor add(const Tensor& a, const Tensor& b) { return binary(BinaryKind::add, a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary(BinaryKind::sub, a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary(BinaryKind::mul, a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary(BinaryKind::div, a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary(BinaryKind::maximum, a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary(BinaryKind::minimum, a, b); }
Tensor equal(const Tensor& a, const Tensor& b) { return binary(BinaryKind::eq, a, b); }
Tensor not_equal(const Tensor& a, const Tensor& b) { return binary(BinaryKind::ne, a, b); }
Tensor less(const Tensor& a, const Tensor& b) { return binary(BinaryKind::lt, a, b); }
Tensor less_equal(const Tensor& a, const Tensor& b) { return binary(BinaryKind::le, a, b); }
Tensor greater(const Tensor& a, const Tensor& b) { return binary(BinaryKind::gt, a, b); }
Tensor greater_equal(const Tensor& a, const Tensor& b) { return binary(BinaryKind::ge, a, b); }
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) { return apply(op_where, {condition, a, b}); }

Tensor operator+(const Tensor& a, double b) { return affine(a, 1, b); }
Tensor operator-(const Tensor& a, double b) { return affine(a, 1, -b); }
Tensor operator-(double a, const Tensor& b) { return affine(b, -1, a); }
Tensor operator*(const Tensor& a, double b) { return affine(a, b, 0); }
Tensor operator/(const Tensor& a, double b) { return affine(a, 1 / b, 0); }

}  // namespace mien
