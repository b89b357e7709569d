#include "mien/ops/shape.h"

#include <algorithm>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void infer_concat(Inputs in, const void* params, Outputs& out) {
  const int dim = static_cast<const DimParams*>(params)->dim;
  check_same_dtype("concat", in);
  Shape shape = in[0].shape();
  for (std::size_t i = 1; i < in.size(); ++i) {
    bool fits = in[i].rank() == shape.rank();
    for (int d = 0; fits && d < shape.rank(); ++d) fits = d == dim || in[i].shape()[d] == shape[d];
    if (!fits) throw ShapeError("concat", "expects equal sizes in all dimensions but " + std::to_string(dim) + ", got " + describe_all(in));
    shape[dim] += in[i].shape()[dim];
  }
  out.push_back({shape, in[0].dtype(), layout_like(in[0])});
}
void vjp_concat(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const int dim = v.get<DimParams>().dim;
  std::int64_t at = 0;
  for (std::size_t i = 0; i < v.input_specs.size(); ++i) {
    const std::int64_t n = v.input_specs[i].shape[dim];
    if (v.needs[i]) v.result[i] = slice(v.grads[0], dim, at, at + n);
    at += n;
  }
}

void infer_pad(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const PadParams*>(params);
  Shape shape = in[0].shape();
  for (int d = 0; d < shape.rank(); ++d)
    for (const std::int64_t extra : {p.low[d], p.high[d]})
      if (__builtin_add_overflow(shape[d], extra, &shape[d])) throw ShapeError("pad", "size of dimension " + std::to_string(d) + " overflows for " + describe(in[0]));
  out.push_back({shape, in[0].dtype(), layout_like(in[0])});
}
void vjp_pad(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  Tensor g = v.grads[0];
  const auto& p = v.get<PadParams>();
  for (int d = 0; d < g.rank(); ++d)
    if (p.low[d] || p.high[d]) g = slice(g, d, p.low[d], p.low[d] + v.input_specs[0].shape[d]);
  v.result[0] = g;
}

void check_index(const char* op, const Tensor& index, std::int64_t rows) {
  check_rank(op, "the index", index, 1);
  if (index.dtype() != DType::i64) throw DTypeError(op, "the index must be i64, got " + describe(index), "Cast with mien::cast(index, DType::i64).");
  const Tensor here = to(index, Device::cpu());
  for (std::int64_t k = 0; k < here.numel(); ++k)
    if (const std::int64_t i = here.at<std::int64_t>({k}); i < 0 || i >= rows)
      throw ShapeError(op, "expects indices from 0 to below " + std::to_string(rows) + ", got " + std::to_string(i) + " at place " + std::to_string(k));
}
void infer_select(Inputs in, const void*, Outputs& out) {
  if (in[0].rank() < 1) throw ShapeError("index_select", "expects at least 1 dimension, got " + describe(in[0]));
  check_index("index_select", in[1], in[0].size(0));
  Shape shape = in[0].shape();
  shape[0] = in[1].numel();
  out.push_back({shape, in[0].dtype(), Layout::contiguous});
}
struct IndexAddParams : DimParams {
  std::int64_t rows = 0;
};
void vjp_select(const Vjp& v) {
  IndexAddParams p;
  p.rows = v.input_specs[0].shape[0];
  if (v.grads[0].defined() && v.needs[0]) v.result[0] = apply(op_index_add, {v.grads[0], v.inputs[1]}, p);
}
void infer_add(Inputs in, const void* params, Outputs& out) {
  Shape shape = in[0].shape();
  shape[0] = static_cast<const IndexAddParams*>(params)->rows;
  check_index("index_add", in[1], shape[0]);
  out.push_back({shape, in[0].dtype(), Layout::contiguous});
}
void vjp_add(const Vjp& v) {
  if (v.grads[0].defined() && v.needs[0]) v.result[0] = index_select(v.grads[0], v.inputs[1]);
}

}  // namespace

constinit const Op op_concat{.name = "concat", .infer = infer_concat, .vjp = vjp_concat, .kernels = {&ref::concat_entry, &KernelTable::concat}};
constinit const Op op_pad{.name = "pad", .infer = infer_pad, .vjp = vjp_pad, .kernels = {&ref::pad_entry, &KernelTable::pad}};
constinit const Op op_index_select{.name = "index_select", .infer = infer_select, .vjp = vjp_select, .save_inputs = bit(1), .kernels = {&ref::index_select_entry, &KernelTable::index_select}, .reads = bit(1)};
constinit const Op op_index_add{.name = "index_add", .infer = infer_add, .vjp = vjp_add, .save_inputs = bit(1), .kernels = {&ref::index_add_entry, &KernelTable::index_add}, .reads = bit(1)};

// An op takes up to 32 inputs: more parts are joined in groups first.
constexpr std::size_t at_once = 32;

Tensor concat(const std::vector<Tensor>& parts, std::int64_t dim) {
  if (parts.empty()) throw ValueError("concat", "expects at least one tensor");
  const DimParams p{normalize_dim(dim, parts[0].rank(), "concat")};
  if (parts.size() <= at_once) return apply(op_concat, Inputs(parts), p);
  std::vector<Tensor> groups;
  for (std::size_t i = 0; i < parts.size(); i += at_once) groups.push_back(apply(op_concat, Inputs(parts).subspan(i, std::min(at_once, parts.size() - i)), p));
  return concat(groups, p.dim);
}

Tensor stack(const std::vector<Tensor>& parts, std::int64_t dim) {
  if (parts.empty()) throw ValueError("stack", "expects at least one tensor");
  std::vector<Tensor> rows;
  for (const auto& p : parts) rows.push_back(unsqueeze(p, dim));
  return concat(rows, dim);
}

Tensor pad(const Tensor& x, const std::vector<std::array<std::int64_t, 2>>& pads, double value) {
  if (static_cast<int>(pads.size()) != x.rank())
    throw ShapeError("pad", "expects {low, high} for each of " + std::to_string(x.rank()) + " dimensions, got " + std::to_string(pads.size()) + " for " + describe(x));
  PadParams p;
  for (const auto& [low, high] : pads) {
    if (low < 0 || high < 0) throw ValueError("pad", "expects pads >= 0, got " + std::to_string(low) + " and " + std::to_string(high), "Cut with mien::slice.");
    p.low.push_back(low);
    p.high.push_back(high);
  }
  p.value = value;
  return apply(op_pad, {x}, p);
}

Tensor index_select(const Tensor& x, const Tensor& index) { return apply(op_index_select, {x, index}); }

}  // namespace mien
