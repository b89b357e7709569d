#include "mien/ops/pool.h"

#include <algorithm>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/op.h"
#include "mien/ops/pool_shape_impl.h"
#include "mien/ops/resize.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

// PyTorch's rule: with ceil_mode a last window that would start in the right padding is dropped.
std::int64_t pooled(std::int64_t in, std::int64_t kernel, std::int64_t stride, std::int64_t pad, std::int64_t dilation, bool ceil) {
  const std::int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1;
  if (room < 0 && !ceil) return 0;
  std::int64_t out = (room + (ceil ? stride - 1 : 0)) / stride + 1;
  if (ceil && (out - 1) * stride >= in + pad) --out;
  return out;
}

Shape pool_shape(const char* op, const Tensor& x, const PoolParams& p) {
  check_rank(op, "the input", x, 4);
  return pooled_shape(op, x.shape(), p, describe(x));
}

struct PoolGradParams : PoolParams {
  Shape shape;
  Layout layout = Layout::contiguous;  // the input's; the gradient that comes may be a slice of a wider one
};
PoolGradParams with_shape(const PoolParams& p, const OutputSpec& input) {
  PoolGradParams g;
  static_cast<PoolParams&>(g) = p;
  g.shape = input.shape;
  g.layout = input.layout;
  return g;
}

void infer_max_as(Inputs in, const PoolParams& p, DType winners, Outputs& out) {
  check_floating("max_pool2d", in[0]);
  const Shape shape = pool_shape("max_pool2d", in[0], p);
  out.push_back({shape, in[0].dtype(), layout_like(in[0])});
  out.push_back({shape, winners, layout_like(in[0])});
}
void infer_max_with_indices(Inputs in, const void* params, Outputs& out) { infer_max_as(in, *static_cast<const PoolParams*>(params), DType::i64, out); }
// Where nobody will see the winners, a byte is kept of each: training reads and writes them with every step.
void infer_max(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const PoolParams*>(params);
  const bool bytes = p.kernel[0] < 256 && p.kernel[1] < 256 && p.kernel[0] * p.kernel[1] < 256;
  infer_max_as(in, p, bytes ? DType::u8 : DType::i64, out);
}
void vjp_max(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_max_pool2d_backward, {v.grads[0], v.outputs[1]}, with_shape(v.get<PoolParams>(), v.input_specs[0]));
}
void infer_avg(Inputs in, const void* params, Outputs& out) {
  check_floating("avg_pool2d", in[0]);
  out.push_back({pool_shape("avg_pool2d", in[0], *static_cast<const PoolParams*>(params)), in[0].dtype(), layout_like(in[0])});
}
void vjp_avg(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_avg_pool2d_backward, {v.grads[0]}, with_shape(v.get<PoolParams>(), v.input_specs[0]));
}
void infer_backward(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const PoolGradParams*>(params);
  out.push_back({p.shape, in[0].dtype(), p.layout});
}
// Average pooling is linear: the derivative of its gradient is the pooling itself.
void vjp_avg_backward(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = avg_pool2d(v.grads[0], v.get<PoolGradParams>());
}

}  // namespace

Shape pooled_shape(const char* op, const Shape& x, const PoolParams& p, const std::string& seen) {
  Shape shape = x;
  for (std::size_t k = 0; k < 2; ++k) {
    if (p.kernel[k] < 1 || p.stride[k] < 1 || p.dilation[k] < 1) throw ValueError(op, "kernel, stride and dilation must be at least 1, got " + std::to_string(std::min({p.kernel[k], p.stride[k], p.dilation[k]})));
    if (p.padding[k] < 0 || 2 * p.padding[k] > p.kernel[k])
      throw ValueError(op, "padding must be at most half of the kernel, got " + std::to_string(p.padding[k]) + " for a kernel of " + std::to_string(p.kernel[k]));
    const int d = static_cast<int>(k) + 2;
    shape[d] = pooled(x[d], p.kernel[k], p.stride[k], p.padding[k], p.dilation[k], p.ceil_mode);
    if (shape[d] < 1) throw ShapeError(op, "the window [" + std::to_string(p.kernel[0]) + ", " + std::to_string(p.kernel[1]) + "] is larger than the padded input " + seen, "Pad the input or use a smaller window.");
  }
  return shape;
}

constinit const Op op_max_pool2d{.name = "max_pool2d", .infer = infer_max, .vjp = vjp_max, .save_outputs = bit(1), .kernels = {&ref::max_pool2d_entry, &KernelTable::max_pool2d}};
constinit const Op op_max_pool2d_with_indices{.name = "max_pool2d_with_indices", .infer = infer_max_with_indices, .vjp = vjp_max, .save_outputs = bit(1),
                                              .kernels = {&ref::max_pool2d_entry, &KernelTable::max_pool2d}};
constinit const Op op_max_pool2d_backward{.name = "max_pool2d_backward", .infer = infer_backward,
                                          .kernels = {&ref::max_pool2d_backward_entry, &KernelTable::max_pool2d_backward}};
constinit const Op op_avg_pool2d{.name = "avg_pool2d", .infer = infer_avg, .vjp = vjp_avg, .kernels = {&ref::avg_pool2d_entry, &KernelTable::avg_pool2d}};
constinit const Op op_avg_pool2d_backward{.name = "avg_pool2d_backward", .infer = infer_backward, .vjp = vjp_avg_backward, .kernels = {&ref::avg_pool2d_backward_entry, &KernelTable::avg_pool2d_backward}};

std::pair<Tensor, Tensor> max_pool2d_with_indices(const Tensor& x, const PoolParams& params) {
  auto out = apply_all(op_max_pool2d_with_indices, {x}, params);
  return {out[0], out[1]};
}
Tensor max_pool2d(const Tensor& x, const PoolParams& params) { return std::move(apply_all(op_max_pool2d, {x}, params)[0]); }
Tensor avg_pool2d(const Tensor& x, const PoolParams& params) { return apply(op_avg_pool2d, {x}, params); }
Tensor global_avg_pool2d(const Tensor& x) { return adaptive_avg_pool2d(x, {1, 1}); }

}  // namespace mien
