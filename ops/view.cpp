#include "mien/ops/view.h"

#include <algorithm>
#include <optional>

#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

// Strides of `to` over the same memory, or nothing when the elements don't lie that way.
std::optional<Strides> strides_for(const View& x, const Shape& to) {
  if (x.is_contiguous()) return contiguous_strides(to);
  Strides out = Shape::filled(to.rank(), 0);
  const Shape& from = x.shape;
  int f = from.rank() - 1, t = to.rank() - 1;
  while (f >= 0 || t >= 0) {
    while (f >= 0 && from[f] == 1) --f;
    if (f < 0) break;
    // A run of dimensions of `from` that lies densely is shared out among dimensions of `to`.
    std::int64_t run = from[f], step = x.strides[f];
    while (f > 0 && (from[f - 1] == 1 || x.strides[f - 1] == run * step)) run *= from[--f];
    --f;
    while (t >= 0 && run > 1) {
      if (run % to[t] != 0) return std::nullopt;
      out[t] = step;
      step *= to[t];
      run /= to[t];
      --t;
    }
    if (run > 1) return std::nullopt;
  }
  return out;
}

// `shape` with its -1 worked out.
Shape complete(const Tensor& x, const Shape& shape) {
  Shape to = shape;
  int unknown = -1;
  for (int i = 0; i < to.rank() && unknown < 0; ++i)
    if (to[i] == -1) unknown = i;
  if (unknown >= 0) to[unknown] = 1;
  const auto fail = [&](const char* hint) {
    throw ShapeError("reshape", "expects a shape of " + std::to_string(x.numel()) + " elements, got " + to_string(shape) + " for " + describe(x), hint);
  };
  if (std::any_of(to.begin(), to.end(), [](std::int64_t s) { return s < 0; })) fail("Only one size may be -1.");
  const std::int64_t known = numel(to);
  if (unknown < 0) {
    if (known != x.numel()) fail("");
  } else {
    if (known == 0 || x.numel() % known != 0) fail(known == 0 ? "-1 follows from the other sizes only when none of them is 0." : "");
    to[unknown] = x.numel() / known;
  }
  return to;
}

bool view_reshape(View& v, const void* params) {
  const Shape& to = static_cast<const ShapeParams*>(params)->shape;
  const auto strides = strides_for(v, to);
  if (strides) v.shape = to, v.strides = *strides;
  return strides.has_value();
}
// Note [Sizes that follow]
// A plan is traced at one size and runs at others. What a shape in a call's parameters meant is told by the traced sizes: from the left, a size that
// equals the input's in the same place is that dimension (mostly the batch). What follows the first difference holds the rest of the elements: one
// size there is worked out as with -1 (the first that is larger than 1 when the rest changed), so flatten(x, 1) and reshape(x, {N, 2, -1}) follow. Where none can,
// the shape stays, and the plan refuses the size (Sizer in infer/graph.cpp).
void follow_reshape(void* params, const Shape& then, const Shape& now) {
  Shape& to = static_cast<ShapeParams*>(params)->shape;
  int same = 0;
  while (same < to.rank() && same < then.rank() && to[same] == then[same]) {
    to[same] = now[same];
    ++same;
  }
  std::int64_t rest_then = 1, rest_now = 1;
  for (int i = same; i < then.rank(); ++i) rest_then *= then[i], rest_now *= now[i];
  if (rest_then == rest_now || rest_then == 0) return;
  for (int i = same; i < to.rank(); ++i)
    if (to[i] > 1 && rest_now % (rest_then / to[i]) == 0) {
      to[i] = rest_now / (rest_then / to[i]);
      return;
    }
}
void vjp_reshape(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = reshape(v.grads[0], v.input_specs[0].shape);
}

bool view_permute(View& v, const void* params) {
  const Shape& order = static_cast<const ShapeParams*>(params)->shape;
  const View x = v;
  for (int i = 0; i < order.rank(); ++i) {
    v.shape[i] = x.shape[static_cast<int>(order[i])];
    v.strides[i] = x.strides[static_cast<int>(order[i])];
  }
  return true;
}
void vjp_permute(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const Shape& order = v.get<ShapeParams>().shape;
  Shape back = order;
  for (int i = 0; i < order.rank(); ++i) back[static_cast<int>(order[i])] = i;
  v.result[0] = permute(v.grads[0], back);
}

bool view_expand(View& v, const void* params) {
  const Shape& to = static_cast<const ShapeParams*>(params)->shape;
  Strides strides = Shape::filled(to.rank(), 0);
  const int shift = to.rank() - v.rank();
  for (int i = 0; i < v.rank(); ++i) strides[shift + i] = v.shape[i] == to[shift + i] ? v.strides[i] : 0;
  v.shape = to;
  v.strides = strides;
  return true;
}
void follow_expand(void* params, const Shape& then, const Shape& now) {
  Shape& to = static_cast<ShapeParams*>(params)->shape;
  const int shift = to.rank() - then.rank();
  for (int i = 0; i < then.rank(); ++i)
    if (to[shift + i] == then[i]) to[shift + i] = now[i];
}
void vjp_expand(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = sum_to(v.grads[0], v.input_specs[0].shape);
}

// Slices carry their length: SliceParams alone doesn't say where to stop.
struct SliceViewParams : SliceParams {
  std::int64_t length = 0;
};
bool view_slice(View& v, const void* params) {
  const auto& p = *static_cast<const SliceViewParams*>(params);
  if (p.length > 0) v.data = v.ptr<std::byte>() + p.start * v.strides[p.dim] * item_size(v.dtype);
  v.shape[p.dim] = p.length;
  v.strides[p.dim] *= p.step;
  return true;
}
// A slice that reached the end still does; one that ended earlier keeps its length as far as it fits.
void follow_slice(void* params, const Shape& then, const Shape& now) {
  auto& p = *static_cast<SliceViewParams*>(params);
  const auto length_to = [&](std::int64_t end) { return std::max<std::int64_t>(0, (end - p.start + p.step - 1) / p.step); };
  const bool whole = p.length == length_to(then[p.dim]);
  p.length = whole ? length_to(now[p.dim]) : std::min(p.length, length_to(now[p.dim]));
}

// The derivative of slice: zeros of the whole shape with the gradient in its place.
struct SliceBackwardParams : SliceViewParams {
  Shape whole;
  Layout layout = Layout::contiguous;
};
void vjp_slice(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  SliceBackwardParams p;
  static_cast<SliceViewParams&>(p) = v.get<SliceViewParams>();
  p.whole = v.input_specs[0].shape;
  p.layout = v.input_specs[0].layout;
  v.result[0] = apply(op_slice_backward, {v.grads[0]}, p);
}
void infer_slice_backward(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const SliceBackwardParams*>(params);
  out.push_back({p.whole, in[0].dtype(), p.layout});
}
void vjp_slice_backward(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_slice, {v.grads[0]}, static_cast<const SliceViewParams&>(v.get<SliceBackwardParams>()));
}

}  // namespace

constinit const Op op_reshape{.name = "reshape", .infer = nullptr, .vjp = vjp_reshape, .view = view_reshape, .follow = follow_reshape};
constinit const Op op_permute{.name = "permute", .infer = nullptr, .vjp = vjp_permute, .view = view_permute};
constinit const Op op_expand{.name = "expand", .infer = nullptr, .vjp = vjp_expand, .view = view_expand, .follow = follow_expand};
constinit const Op op_slice{.name = "slice", .infer = nullptr, .vjp = vjp_slice, .view = view_slice, .follow = follow_slice};
constinit const Op op_slice_backward{.name = "slice_backward", .infer = infer_slice_backward, .vjp = vjp_slice_backward, .kernels = {&ref::slice_backward_entry, &KernelTable::slice_backward}};

Tensor reshape(const Tensor& x, const Shape& shape) {
  const Shape to = complete(x, shape);
  if (to == x.shape()) return x;
  const Tensor& from = strides_for(x.view(), to) ? x : contiguous(x);
  return apply(op_reshape, {from}, ShapeParams{to});
}

Tensor flatten(const Tensor& x, std::int64_t first, std::int64_t last) {
  const int a = normalize_dim(first, x.rank(), "flatten"), b = normalize_dim(last, x.rank(), "flatten");
  if (a > b) throw ShapeError("flatten", "expects first <= last, got " + std::to_string(first) + " and " + std::to_string(last) + " for " + describe(x));
  Shape to;
  for (int i = 0; i < x.rank(); ++i) {
    if (i <= a || i > b) to.push_back(x.shape()[i]);
    else to.back() *= x.shape()[i];
  }
  return reshape(x, to);
}

Tensor permute(const Tensor& x, const Shape& order) {
  Shape normal = order;
  std::uint32_t seen = 0;
  if (order.rank() == x.rank()) {
    for (auto& d : normal) {
      d = normalize_dim(d, x.rank(), "permute");
      seen |= bit(static_cast<int>(d));
    }
  }
  if (order.rank() != x.rank() || seen != bit(x.rank()) - 1) throw ShapeError("permute", "expects each dimension once, got " + to_string(order) + " for " + describe(x));
  return apply(op_permute, {x}, ShapeParams{normal});
}

Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b) {
  Shape order = Shape::filled(x.rank(), 0);
  for (int i = 0; i < x.rank(); ++i) order[i] = i;
  std::swap(order[normalize_dim(a, x.rank(), "transpose")], order[normalize_dim(b, x.rank(), "transpose")]);
  return permute(x, order);
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const int shift = shape.rank() - x.rank();
  bool fits = shift >= 0;
  for (int i = 0; fits && i < x.rank(); ++i) fits = x.shape()[i] == shape[shift + i] || x.shape()[i] == 1;
  for (const auto s : shape) fits = fits && s >= 0;
  if (!fits) throw ShapeError("expand", describe(x) + " does not expand to " + to_string(shape), "Only sizes of 1 repeat; new dimensions come first.");
  if (shape == x.shape()) return x;
  return apply(op_expand, {x}, ShapeParams{shape});
}

Tensor slice(const Tensor& x, std::int64_t dim, std::int64_t start, std::optional<std::int64_t> stop, std::int64_t step) {
  const int d = normalize_dim(dim, x.rank(), "slice");
  const std::int64_t n = x.shape()[d];
  if (step < 1) throw ValueError("slice", "expects step >= 1, got " + std::to_string(step) + " for " + describe(x));
  step = std::min(step, std::max<std::int64_t>(n, 1));  // a longer step picks the same first element, and cannot overflow below
  const auto clip = [n](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? i + n : i, 0, n); };
  const std::int64_t begin = clip(start), end = clip(stop.value_or(n));
  SliceViewParams p;
  p.dim = d;
  p.start = begin;
  p.step = step;
  p.length = end > begin ? (end - begin + step - 1) / step : 0;
  return apply(op_slice, {x}, p);
}

Tensor squeeze(const Tensor& x, std::int64_t dim) {
  const int d = normalize_dim(dim, x.rank(), "squeeze");
  if (x.shape()[d] != 1) throw ShapeError("squeeze", "expects size 1 in dimension " + std::to_string(d) + ", got " + describe(x));
  Shape to;
  for (int i = 0; i < x.rank(); ++i)
    if (i != d) to.push_back(x.shape()[i]);
  return reshape(x, to);
}

Tensor unsqueeze(const Tensor& x, std::int64_t dim) {
  const int d = normalize_dim(dim, x.rank() + 1, "unsqueeze");
  Shape to;
  for (int i = 0; i <= x.rank(); ++i) {
    if (i == d) to.push_back(1);
    if (i < x.rank()) to.push_back(x.shape()[i]);
  }
  return reshape(x, to);
}

}  // namespace mien
