// Batch norm with the statistics of the batch, its derivative, and the affine map of eval mode. Maps may be 16-bit; statistics, parameters and their gradients
// are then f32 (they have the map's own type for f32 and f64). Sums are made in f64.
#include "mien/kernels/cuda/norm.cuh"

namespace mien::cuda {
namespace {

// --- forward -----------------------------------------------------------------------------------------------------------------
// With what the mean lost when it was rounded: a mean far from 0 would cost digits of the distance from it.
template <class P>
struct Forward {
  struct Numbers : NormNumbers<P> {
    P rest;
  };
  Norm<P> norm;
  const double* mean;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const {
    const NormNumbers<P> k = norm.prepare(c);
    return {k, static_cast<P>(mean[c] - static_cast<double>(k.mean))};
  }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&x)[1]) const {
    const P v = ((x[0] - k.mean) - k.rest) * k.invstd * k.weight + k.bias;
    return norm.low(v) ? k.slope * v : v;  // NaN stays
  }
};
template <class T, class P>
void batch_norm(const KernelArgs& args) {
  const auto& q = args.get<NormParams>();
  const View &x = args.in[0], &y = args.out[0];
  Workspace work(args.workspace);
  auto* mean = work.take<double>(x.size(1));
  moments<T, P>(args, "batch_norm", x, args.out[1], args.out[2], q.eps, work.take(0), mean);
  Norm<P> norm{ChannelValues<P>(args.out[1]),   ChannelValues<P>(args.out[2]), ChannelValues<P>(args.in[1]), ChannelValues<P>(args.in[2]), {},
               q.activation != Activation::none};
  if (q.activation == Activation::prelu) norm.slope = ChannelValues<P>(args.in[3]);
  apply_channels<T, 1>(args, "batch_norm", {x}, y, Forward<P>{norm, mean});
}
std::int64_t workspace(const KernelArgs& args) {
  Workspace work;
  work.take<double>(args.in[0].size(1));
  return work.bytes() + norm_bytes(args.in[0].dtype, "batch_norm", [&](auto t) { return moments_workspace<typename decltype(t)::type>(args.in[0]); });
}

// --- backward ----------------------------------------------------------------------------------------------------------------
// Sums of g after the activation, of g times the normalised x, and of what the slope's gradient adds up. Operands: g and x.
template <class P>
struct GradientSums {
  static constexpr int sums = 3;
  using Part = P;
  using Numbers = NormNumbers<P>;
  Norm<P> norm;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return norm.prepare(c); }
  __device__ __forceinline__ void operator()(const Numbers& k, const P (&v)[2], P (&sum)[3]) const {
    const P normal = k.normal(v[1]), y = normal * k.weight + k.bias;
    const bool low = norm.low(y);
    const P g = low ? v[0] * k.slope : v[0];
    sum[0] += g;
    sum[1] += g * normal;
    if (low) sum[2] += v[0] * y;
  }
};
template <class P>
struct StoreGradients {
  double* means;  // [2][channels]: the first two sums over the count, for the second pass
  std::int64_t channels;
  double count;
  ChannelValues<P> weight, bias, slope;
  __device__ void operator()(std::int64_t c, const double (&s)[3]) const {
    means[c] = s[0] / count;
    means[channels + c] = s[1] / count;
    weight.data[c * weight.step] = static_cast<P>(s[1]);
    bias.data[c * bias.step] = static_cast<P>(s[0]);
    if (slope.data) slope.data[c * slope.step] = static_cast<P>(s[2]);
  }
};
template <class P>
struct InputGradient {
  struct Numbers : NormNumbers<P> {
    P mean_g, mean_gx;
  };
  Norm<P> norm;
  const double* means;
  std::int64_t channels;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return {norm.prepare(c), static_cast<P>(means[c]), static_cast<P>(means[channels + c])}; }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&v)[2]) const {
    const P normal = k.normal(v[1]);
    const P g = norm.low(normal * k.weight + k.bias) ? v[0] * k.slope : v[0];
    return k.weight * k.invstd * (g - (k.mean_g + normal * k.mean_gx));
  }
};

template <class T, class P>
void batch_norm_backward(const KernelArgs& args) {
  const auto& q = args.get<NormParams>();
  const View &g = args.in[0], &x = args.in[1], &gx = args.out[0];
  const std::int64_t c = x.size(1);
  if (c == 0) return;
  Workspace work(args.workspace);
  auto* means = work.take<double>(2 * c);
  // Without an activation nothing depends on the bias.
  Norm<P> norm{ChannelValues<P>(args.in[3]), ChannelValues<P>(args.in[4]), ChannelValues<P>(args.in[2]), {}, {}, q.activation != Activation::none};
  StoreGradients<P> to{means, c, static_cast<double>(x.numel() / c), ChannelValues<P>(args.out[1]), ChannelValues<P>(args.out[2]), {}};
  if (norm.active) norm.bias = ChannelValues<P>(args.in[5]);
  if (q.activation == Activation::prelu) {
    norm.slope = ChannelValues<P>(args.in[6]);
    to.slope = ChannelValues<P>(args.out[3]);
  }
  sum_channels<T, 2>(args, "batch_norm_backward", {g, x}, work.take(0), GradientSums<P>{norm}, to);
  apply_channels<T, 2>(args, "batch_norm_backward", {g, x}, gx, InputGradient<P>{norm, means, c});
}
std::int64_t backward_workspace(const KernelArgs& args) {
  Workspace work;
  work.take<double>(2 * args.in[1].size(1));
  return work.bytes() + norm_bytes(args.in[1].dtype, "batch_norm_backward", [&](auto t) {
           return sum_channels_workspace<typename decltype(t)::type, 3, 2>({args.in[0], args.in[1]});
         });
}

// --- y = x * scale[c] + shift[c] -----------------------------------------------------------------------------------------------
template <class P>
struct Affine {
  struct Numbers {
    P scale, shift;
  };
  ChannelValues<P> scale, shift;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return {scale[c], shift[c]}; }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&x)[1]) const { return x[0] * k.scale + k.shift; }
};
template <class T, class P>
void affine(const KernelArgs& args) {
  apply_channels<T, 1>(args, "channel_affine", {args.in[0]}, args.out[0], Affine<P>{ChannelValues<P>(args.in[1]), ChannelValues<P>(args.in[2])});
}

}  // namespace

const KernelEntry batch_norm_entry = {MIEN_NORM(args.in[0], "batch_norm", batch_norm), nullptr, workspace};
const KernelEntry batch_norm_backward_entry = {MIEN_NORM(args.in[1], "batch_norm_backward", batch_norm_backward), nullptr, backward_workspace};
const KernelEntry channel_affine_entry = {MIEN_NORM(args.in[0], "channel_affine", affine)};

}  // namespace mien::cuda
