#include "mien/ops/reduce.h"

#include <algorithm>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

struct ReduceSpec : ReduceParams {
  std::uint32_t dims = 0;  // bit d: dimension d becomes 1
};
const char* member(const void* params) {
  static constexpr const char* names[] = {"sum", "max", "min"};
  return names[static_cast<int>(static_cast<const ReduceParams*>(params)->kind)];
}
void infer(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const ReduceSpec*>(params);
  Shape shape = in[0].shape();
  for (int d = 0; d < shape.rank(); ++d)
    if (p.dims & bit(d)) {
      if (p.kind != ReduceKind::sum && shape[d] == 0) throw ShapeError(member(params), "has no value over an empty dimension, got " + describe(in[0]));
      shape[d] = 1;
    }
  const bool counts = p.kind == ReduceKind::sum && !is_floating(in[0].dtype());
  out.push_back({shape, counts ? DType::i64 : in[0].dtype(), layout_like(in[0])});
}
Saves saves(const void* params) { return static_cast<const ReduceParams*>(params)->kind == ReduceKind::sum ? Saves{} : Saves{bit(0), bit(0)}; }
void vjp(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const Tensor g = expand(v.grads[0], v.input_specs[0].shape);
  const auto& p = v.get<ReduceSpec>();
  if (p.kind == ReduceKind::sum) {
    v.result[0] = g;
    return;
  }
  // All winners share the gradient equally.
  const Tensor hit = cast(equal(v.inputs[0], v.outputs[0]), g.dtype());
  const Tensor count = apply(op_reduce, {hit}, [&] {
    ReduceSpec s = p;
    s.kind = ReduceKind::sum;
    return s;
  }());
  v.result[0] = mul(g, div(hit, count));
}

const char* member_arg(const void* params) { return static_cast<const ArgReduceParams*>(params)->max ? "argmax" : "argmin"; }
void infer_arg(Inputs in, const void* params, Outputs& out) {
  Shape shape = in[0].shape();
  const int dim = static_cast<const ArgReduceParams*>(params)->dim;
  if (shape[dim] == 0) throw ShapeError(member_arg(params), "has no value over an empty dimension, got " + describe(in[0]));
  shape[dim] = 1;
  out.push_back({shape, DType::i64, Layout::contiguous});
}

Tensor drop_ones(const Tensor& x, std::uint32_t dims) {
  Shape to;
  for (int d = 0; d < x.rank(); ++d)
    if (!(dims & bit(d))) to.push_back(x.shape()[d]);
  return reshape(x, to);
}

std::uint32_t dim_bits(const Tensor& x, const std::vector<std::int64_t>& dims, const char* op) {
  if (dims.empty()) return bit(x.rank()) - 1;
  std::uint32_t bits = 0;
  for (const auto d : dims) bits |= bit(normalize_dim(d, x.rank(), op));
  return bits;
}

Tensor reduce(ReduceKind kind, const Tensor& x, const std::vector<std::int64_t>& dims, bool keepdim, const char* op) {
  ReduceSpec p;
  p.kind = kind;
  p.dims = dim_bits(x, dims, op);
  const Tensor y = apply(op_reduce, {x}, p);
  return keepdim ? y : drop_ones(y, p.dims);
}

Tensor arg(const Tensor& x, std::int64_t dim, bool keepdim, bool largest, const char* op) {
  const int d = normalize_dim(dim, x.rank(), op);
  const Tensor y = apply(op_arg_reduce, {x}, ArgReduceParams{largest, d});
  return keepdim ? y : drop_ones(y, bit(d));
}

}  // namespace

constinit const Op op_reduce{.name = "reduce", .infer = infer, .vjp = vjp, .save_inputs = bit(0), .save_outputs = bit(0),
                             .kernels = {&ref::reduce_entry, &KernelTable::reduce}, .fusion = Fusion::reduction, .member = member, .saves = saves};
constinit const Op op_arg_reduce{.name = "arg_reduce", .infer = infer_arg, .kernels = {&ref::arg_reduce_entry, &KernelTable::arg_reduce}, .fusion = Fusion::reduction, .member = member_arg};

Tensor sum(const Tensor& x, const std::vector<std::int64_t>& dims, bool keepdim) { return reduce(ReduceKind::sum, x, dims, keepdim, "sum"); }
Tensor max(const Tensor& x, const std::vector<std::int64_t>& dims, bool keepdim) { return reduce(ReduceKind::max, x, dims, keepdim, "max"); }
Tensor min(const Tensor& x, const std::vector<std::int64_t>& dims, bool keepdim) { return reduce(ReduceKind::min, x, dims, keepdim, "min"); }

Tensor mean(const Tensor& x, const std::vector<std::int64_t>& dims, bool keepdim) {
  check_floating("mean", x);
  const Tensor total = sum(x, dims, keepdim);
  const double count = static_cast<double>(x.numel()) / static_cast<double>(std::max<std::int64_t>(total.numel(), 1));
  return affine(total, 1.0 / count, 0);
}

Tensor argmax(const Tensor& x, std::int64_t dim, bool keepdim) { return arg(x, dim, keepdim, true, "argmax"); }
Tensor argmin(const Tensor& x, std::int64_t dim, bool keepdim) { return arg(x, dim, keepdim, false, "argmin"); }

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const int shift = x.rank() - shape.rank();
  ReduceSpec p;
  p.kind = ReduceKind::sum;
  for (int d = 0; d < x.rank(); ++d)
    if (d < shift || (shape[d - shift] == 1 && x.shape()[d] != 1)) p.dims |= bit(d);
  return reshape(p.dims ? apply(op_reduce, {x}, p) : x, shape);
}

// Where x is 0 the root of 1 is taken and thrown away, so that no infinity meets the zero gradient.
Tensor safe_sqrt(const Tensor& x) {
  const Tensor zero = full({}, 0, {.dtype = x.dtype(), .device = x.device()}), empty = equal(x, zero);
  return where(empty, zero, sqrt(where(empty, full({}, 1, {.dtype = x.dtype(), .device = x.device()}), x)));
}

Tensor norm(const Tensor& x, double p, const std::vector<std::int64_t>& dims, bool keepdim) {
  if (!(p >= 1)) throw ValueError("norm", "expects p >= 1, got " + std::to_string(p));
  if (p == 1) return sum(abs(x), dims, keepdim);
  if (p == 2) return safe_sqrt(sum(square(x), dims, keepdim));
  const Tensor s = sum(pow(abs(x), p), dims, keepdim), zero = full({}, 0, {.dtype = s.dtype(), .device = s.device()}), empty = equal(s, zero);
  return where(empty, zero, pow(where(empty, full({}, 1, {.dtype = s.dtype(), .device = s.device()}), s), 1 / p));
}

}  // namespace mien
