// Convolution of a map that a batch norm and an activation come before, and the moments of what comes out. The normalised map is made in the workspace and goes
// through the plain convolution; the backward pass makes it anew instead of keeping it.
#include "mien/kernels/cuda/compose.cuh"
#include "mien/kernels/cuda/norm.cuh"

namespace mien::cuda {
namespace {

const ConvParams& conv_params(const KernelArgs& args) { return args.get<NormConvParams>(); }
template <class P>
Norm<P> norm_from(const KernelArgs& args, std::size_t first) {
  return norm_of<P>(args.in.subspan(first), args.get<NormConvParams>().activation != Activation::none);
}

// --- forward -----------------------------------------------------------------------------------------------------------------
// Where everything lies in the workspace; with a null workspace, how much it is.
struct Forward {
  explicit Forward(const KernelArgs& args, void* workspace) : x(args.in[0]) {
    Workspace work(workspace);
    if (args.in.size() > 2) x = map_in(work.take(bytes_of(x)), x, x.shape);
    rest = work.take(0);
    bytes = work.bytes();
  }
  View x;  // what the convolution reads
  void* rest;
  std::int64_t bytes;
};

template <class T, class P>
void forward(const KernelArgs& args) {
  const Forward f(args, args.workspace);
  if (args.in.size() > 2) apply_channels<T, 1>(args, "norm_conv", {args.in[0]}, f.x, norm_from<P>(args, 2));
  const View in[] = {f.x, args.in[1]};
  run_best(mien_cuda_library.conv2d, conv2d_entry, with(args, in, args.out.first(1), &conv_params(args), f.rest));
  moments<T, P>(args, "norm_conv", args.out[0], args.out[1], args.out[2], args.get<NormConvParams>().eps, f.rest);
}
const char* decline(const KernelArgs& args) {
  const Forward f(args, nullptr);
  const View in[] = {f.x, args.in[1]};
  return decline_best(mien_cuda_library.conv2d, conv2d_entry, with(args, in, args.out.first(1), &conv_params(args), nullptr));
}
std::int64_t workspace(const KernelArgs& args) {
  const Forward f(args, nullptr);
  const View in[] = {f.x, args.in[1]};
  return f.bytes + std::max(workspace_best(mien_cuda_library.conv2d, conv2d_entry, with(args, in, args.out.first(1), &conv_params(args), nullptr)),
                            norm_bytes(args.out[0].dtype, "norm_conv", [&](auto t) { return moments_workspace<typename decltype(t)::type>(args.out[0]); }));
}

// --- backward ----------------------------------------------------------------------------------------------------------------
constexpr std::size_t norm_at = 8;  // where the norm's operands begin

struct Backward {
  explicit Backward(const KernelArgs& args, void* workspace) : x(args.in[6]), gx(args.out[0]), norm(args.in.size() > norm_at) {
    Workspace work(workspace);
    const View& y = args.in[3];
    gy = map_in(work.take(bytes_of(y)), y, y.shape);
    if (norm) {
      x = map_in(work.take(bytes_of(x)), x, x.shape);
      gx = map_in(work.take(bytes_of(x)), x, x.shape);
    }
    rest = work.take(0);
    bytes = work.bytes();
  }
  View gy, x, gx;  // the whole gradient of y; the convolution's input and its gradient
  bool norm;
  void* rest;
  std::int64_t bytes;
};

// The moments' gradients reach y too: g + gm / count - gs * invstd^3 * (y - mean) / count. Operands: g and y.
template <class P>
struct WholeGradient {
  struct Numbers {
    P shift, slope, mean;
  };
  ChannelValues<P> gm, gs, mean, invstd;
  double count;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const {
    const auto is = static_cast<double>(invstd[c]);
    return {static_cast<P>(static_cast<double>(gm[c]) / count), static_cast<P>(static_cast<double>(gs[c]) * is * is * is / count), mean[c]};
  }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&v)[2]) const { return v[0] + k.shift - k.slope * (v[1] - k.mean); }
};

template <class T, class P>
void backward(const KernelArgs& args) {
  const Backward b(args, args.workspace);
  const View &g = args.in[0], &y = args.in[3], &x = args.in[6], &w = args.in[7];
  if (y.numel() > 0)
    apply_channels<T, 2>(args, "norm_conv_backward", {g, y}, b.gy,
                         WholeGradient<P>{ChannelValues<P>(args.in[1]), ChannelValues<P>(args.in[2]), ChannelValues<P>(args.in[4]),
                                          ChannelValues<P>(args.in[5]), static_cast<double>(y.numel() / y.size(1))});
  if (b.norm) apply_channels<T, 1>(args, "norm_conv_backward", {x}, b.x, norm_from<P>(args, norm_at));
  const View weight_in[] = {b.gy, b.x}, input_in[] = {b.gy, w};
  run_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry, with(args, weight_in, args.out.subspan(1, 1), &conv_params(args), b.rest));
  run_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input_in, {&b.gx, 1}, &conv_params(args), b.rest));
  if (!b.norm) return;
  const Norm<P> norm = norm_from<P>(args, norm_at);
  StoreNormGradients<P> to{norm, {}};
  for (std::size_t i = 0; i < 5 && i + 2 < args.out.size(); ++i) to.out[i] = ChannelValues<P>(args.out[2 + i]);
  sum_channels<T, 2>(args, "norm_conv_backward", {b.gx, x}, b.rest, NormGradientSums<P>{norm}, to);
  apply_channels<T, 2>(args, "norm_conv_backward", {b.gx, x}, args.out[0], NormInputGradient<P>{norm});
}
const char* backward_decline(const KernelArgs& args) {
  const Backward b(args, nullptr);
  const View weight_in[] = {b.gy, b.x}, input_in[] = {b.gy, args.in[7]};
  const char* reason =
      decline_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry, with(args, weight_in, args.out.subspan(1, 1), &conv_params(args), nullptr));
  return reason ? reason : decline_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input_in, {&b.gx, 1}, &conv_params(args), nullptr));
}
std::int64_t backward_workspace(const KernelArgs& args) {
  const Backward b(args, nullptr);
  const View weight_in[] = {b.gy, b.x}, input_in[] = {b.gy, args.in[7]};
  const std::int64_t sums = norm_bytes(args.in[6].dtype, "norm_conv_backward", [&](auto t) {
    return sum_channels_workspace<typename decltype(t)::type, 3, 2>({b.gx, args.in[6]});
  });
  return b.bytes +
         std::max({workspace_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry,
                                  with(args, weight_in, args.out.subspan(1, 1), &conv_params(args), nullptr)),
                   workspace_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input_in, {&b.gx, 1}, &conv_params(args), nullptr)),
                   b.norm ? sums : 0});
}

}  // namespace

const KernelEntry norm_conv_entry = {MIEN_NORM(args.in[0], "norm_conv", forward), decline, workspace};
const KernelEntry norm_conv_backward_entry = {MIEN_NORM(args.in[6], "norm_conv_backward", backward), backward_decline, backward_workspace};

}  // namespace mien::cuda
