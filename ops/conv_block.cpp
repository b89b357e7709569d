#include "mien/ops/conv_block.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/pool_shape_impl.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

void infer(Inputs in, const void* params, Outputs& out) {
  constexpr const char* op = "conv_block";
  const auto& q = *static_cast<const ConvBlockParams*>(params);
  const Tensor &x = in[0], &w = in[1];
  check_same_dtype(op, in);
  check_floating(op, x);
  check_rank(op, "the input", x, 4);
  check_rank(op, "weight", w, 4);
  check_rank(op, "bias", in[2], 1);
  check_rank(op, "slope", in[3], 1);
  if (x.size(1) != w.size(1))
    throw ShapeError(op, "weight expects " + std::to_string(w.size(1)) + " input channels, input has " + std::to_string(x.size(1)) + " (" + describe_all(in) + ")");
  if (in[2].size(0) != w.size(0) || (in[3].size(0) != 1 && in[3].size(0) != w.size(0)))
    throw ShapeError(op, "bias and slope expect a value for each of " + std::to_string(w.size(0)) + " output channels, got " + describe_all(in),
                     "One slope for all is allowed, too.");
  if (x.size(2) < w.size(2) || x.size(3) < w.size(3)) throw ShapeError(op, "the kernel is larger than the input (" + describe_all(in) + ")");
  const Shape map{x.size(0), w.size(0), x.size(2) - w.size(2) + 1, x.size(3) - w.size(3) + 1};
  const Shape shape = pooled_shape(op, map, {.kernel = q.kernel, .stride = q.stride, .ceil_mode = q.ceil_mode}, std::string("map ") + name(x.dtype()) + to_string(map));
  out.push_back({shape, x.dtype(), Layout::channels_last});
  out.push_back({shape, x.dtype(), Layout::channels_last});
  out.push_back({shape, DType::u8, Layout::channels_last});
}

void vjp(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  ConvBlockParams q = v.get<ConvBlockParams>();
  q.input_gradient = v.needs[0];
  const Tensor& dense = g.strides()[1] == 1 || g.size(1) == 1 ? g : channels_last(g);
  auto made = apply_all(op_conv_block_backward, {dense, v.inputs[0], v.inputs[1], v.inputs[3], v.outputs[1], v.outputs[2]}, q);
  for (std::size_t i = 0; i < 4; ++i)
    if (v.needs[i]) v.result[i] = made[i];
}
void infer_backward(Inputs in, const void* params, Outputs& out) {
  const Tensor &x = in[1], &w = in[2], &slope = in[3];
  const bool wanted = static_cast<const ConvBlockParams*>(params)->input_gradient;
  out.push_back({wanted ? x.shape() : Shape{0}, x.dtype(), wanted ? Layout::channels_last : Layout::contiguous});
  out.push_back(spec_like(w));
  out.push_back({{w.size(0)}, w.dtype(), Layout::contiguous});
  out.push_back({slope.shape(), w.dtype(), Layout::contiguous});
}

}  // namespace

constinit const Op op_conv_block{.name = "conv_block", .infer = infer, .vjp = vjp, .save_inputs = bit(0) | bit(1) | bit(3), .save_outputs = bit(1) | bit(2),
                                 .kernels = {&ref::conv_block_entry, &KernelTable::conv_block}, .fusion = Fusion::contraction};
constinit const Op op_conv_block_backward{.name = "conv_block_backward", .infer = infer_backward,
                                          .kernels = {&ref::conv_block_backward_entry, &KernelTable::conv_block_backward}, .fusion = Fusion::contraction};

Tensor conv_block(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& slope, const PoolParams& window) {
  if (window.padding != Pair{0, 0} || window.dilation != Pair{1, 1} || window.kernel[0] * window.kernel[1] > 255)
    throw ValueError("conv_block", "expects a window without padding and dilation and with at most 255 places", "Compose conv2d, prelu and max_pool2d instead.");
  const Tensor dense = x.rank() != 4 || x.is_contiguous() || x.is_channels_last() ? x : contiguous(x);
  const ConvBlockParams params{.kernel = window.kernel, .stride = window.stride, .ceil_mode = window.ceil_mode};
  return std::move(apply_all(op_conv_block, {dense, weight, bias, slope}, params)[0]);
}

}  // namespace mien
