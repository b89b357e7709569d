// The block as what it is made of: convolution, PReLU, max pooling, one after the other through the workspace.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

constexpr ConvParams plain{};

Shape map_shape(const View& x, const View& w) { return {x.size(0), w.size(0), x.size(2) - w.size(2) + 1, x.size(3) - w.size(3) + 1}; }
std::int64_t map_elements(const View& x, const View& w) { return numel(map_shape(x, w)); }
View in_workspace(void* at, DType dtype, const Shape& shape) { return {at, dtype, shape, contiguous_strides(shape)}; }

template <class T>
struct Scratch {
  explicit Scratch(void* workspace) : next(static_cast<std::byte*>(workspace)) {}
  View take(const Shape& shape, DType dtype = dtype_v<T>) {
    const View v = in_workspace(next, dtype, shape);
    next += (v.numel() * item_size(dtype) + 63) / 64 * 64;
    return v;
  }
  std::byte* next;
};

template <class T>
void conv_block(const KernelArgs& args) {
  const auto& q = args.get<ConvBlockParams>();
  const View &x = args.in[0], &w = args.in[1];
  Scratch<T> scratch(args.workspace);
  const Shape shape = map_shape(x, w);
  const View map = scratch.take(shape), active = scratch.take(shape);
  conv2d_entry.run({args.in.first(3), {&map, 1}, &plain});
  const View activation[] = {map, args.in[3]}, pooled[] = {args.out[0], args.out[2]};
  prelu_entry.run({activation, {&active, 1}});
  const PoolParams pool{.kernel = q.kernel, .stride = q.stride, .ceil_mode = q.ceil_mode};
  max_pool2d_entry.run({{&active, 1}, pooled, &pool});
  const Image<T> seen(map), raw(args.out[1]);
  const Image<std::uint8_t> winner(args.out[2]);
  for (std::int64_t n = 0; n < raw.n; ++n)
    for (std::int64_t c = 0; c < raw.c; ++c)
      for (std::int64_t h = 0; h < raw.h; ++h)
        for (std::int64_t u = 0; u < raw.w; ++u) {
          const std::int64_t k = winner(n, c, h, u);
          raw(n, c, h, u) = seen(n, c, h * q.stride[0] + k / q.kernel[1], u * q.stride[1] + k % q.kernel[1]);
        }
}
std::int64_t workspace(const KernelArgs& args) {
  return 2 * (map_elements(args.in[0], args.in[1]) * item_size(args.out[0].dtype) + 64);
}

template <class T>
void conv_block_backward(const KernelArgs& args) {
  const auto& q = args.get<ConvBlockParams>();
  const View &x = args.in[1], &w = args.in[2];
  Scratch<T> scratch(args.workspace);
  const Shape pooled = args.in[0].shape;
  const View map = scratch.take(map_shape(x, w)), slope = scratch.take(pooled);
  // The gradient after the slope, at the winners; then where they came from.
  const View through[] = {args.in[0], args.in[4], args.in[3]}, made[] = {slope, args.out[3]};
  prelu_backward_entry.run({through, made});
  const View landed[] = {slope, args.in[5]};
  const PoolParams pool{.kernel = q.kernel, .stride = q.stride, .ceil_mode = q.ceil_mode};
  max_pool2d_backward_entry.run({landed, {&map, 1}, &pool, scratch.next});
  const View input[] = {map, w}, weight[] = {map, x};
  if (q.input_gradient) conv2d_grad_input_entry.run({input, {&args.out[0], 1}, &plain, scratch.next});
  conv2d_grad_weight_entry.run({weight, {&args.out[1], 1}, &plain, scratch.next});
  for (std::int64_t o = 0; o < args.out[2].size(0); ++o) {
    double sum = 0;
    const Image<T> all(slope);
    for (std::int64_t n = 0; n < all.n; ++n)
      for (std::int64_t h = 0; h < all.h; ++h)
        for (std::int64_t u = 0; u < all.w; ++u) sum += static_cast<double>(all(n, o, h, u));
    typed<T>(args.out[2])[o * args.out[2].stride(0)] = static_cast<T>(sum);
  }
}
std::int64_t workspace_backward(const KernelArgs& args) {
  const std::int64_t map = map_elements(args.in[1], args.in[2]), pooled = args.in[0].numel();
  return (map + pooled) * item_size(args.out[1].dtype) + 2 * 64 + 8 * std::max({map, args.in[1].numel(), args.in[2].numel()});
}

void run(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv_block", [&](auto t) { conv_block<decltype(t)>(args); });
}
void run_backward(const KernelArgs& args) {
  dispatch_float(args.out[1].dtype, "conv_block_backward", [&](auto t) { conv_block_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry conv_block_entry = {run, nullptr, workspace};
const KernelEntry conv_block_backward_entry = {run_backward, nullptr, workspace_backward};

}  // namespace mien::ref
