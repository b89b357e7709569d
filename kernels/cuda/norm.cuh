// What the kernels around batch norm share: moments of a map's channels, and the norm of an element from the numbers of its channel.
#pragma once

#include "mien/kernels/cuda/channel_map.cuh"

namespace mien::cuda {

// f(Type<T>, Type<P>): P, the type of parameters and statistics, is f32 for 16-bit maps.
template <class F>
void dispatch_norm(DType dtype, const char* op, const F& f) {
  dispatch_floats(dtype, op, [&](auto t) { f(t, Type<Compute<typename decltype(t)::type>>{}); });
}
// An entry's function from a template over T and P that takes the arguments.
#define MIEN_NORM(operand, op, function)                                                                                                 \
  [](const KernelArgs& args) {                                                                                                           \
    dispatch_norm((operand).dtype, op, [&](auto t, auto p) { function<typename decltype(t)::type, typename decltype(p)::type>(args); }); \
  }

// A value for each channel; null data: 0.
template <class P>
struct ChannelValues {
  ChannelValues() = default;
  explicit ChannelValues(const View& v) : data(v.ptr<P>()), step(v.stride(0)) {}
  __device__ __forceinline__ P operator[](std::int64_t c) const { return data ? data[c * step] : P(0); }
  P* data = nullptr;
  std::int64_t step = 0;
};

// v = (x - mean) * invstd * weight + bias, then times `slope` where that is not above 0 and there is an activation.
template <class P>
struct NormNumbers {
  P mean, invstd, weight, bias, slope;
  __device__ __forceinline__ P normal(P x) const { return (x - mean) * invstd; }
  __device__ __forceinline__ P before(P x) const { return normal(x) * weight + bias; }
};
template <class P>
struct Norm {
  using Numbers = NormNumbers<P>;
  ChannelValues<P> mean, invstd, weight, bias, slope;
  bool active = false;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return {mean[c], invstd[c], weight[c], bias[c], slope[c]}; }
  __device__ __forceinline__ bool low(P v) const { return active && v <= P(0); }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&x)[1]) const {
    const P v = k.before(x[0]);
    return low(v) ? k.slope * v : v;  // NaN stays
  }
};

// Of mean, invstd, weight, bias and, where there is one, slope.
template <class P>
Norm<P> norm_of(std::span<const View> in, bool active) {
  Norm<P> norm{ChannelValues<P>(in[0]), ChannelValues<P>(in[1]), ChannelValues<P>(in[2]), ChannelValues<P>(in[3]), {}, active};
  if (in.size() > 4) norm.slope = ChannelValues<P>(in[4]);
  return norm;
}

// --- mean and 1 / standard deviation of every channel ---------------------------------------------------------------------------
// Sums of the distance from the channel's first element and of its square, in f64: the map is read once, and a mean far from 0 costs no digits.
template <class T>
struct MomentSums {
  static constexpr int sums = 2;
  using Part = double;
  using Numbers = double;
  const T* x;
  std::int64_t step;
  __device__ __forceinline__ double prepare(std::int64_t c) const {
    const auto first = static_cast<double>(load(x[c * step]));
    return isfinite(first) ? first : 0.0;
  }
  __device__ __forceinline__ void operator()(double first, const Compute<T> (&v)[1], double (&sum)[2]) const {
    const double d = static_cast<double>(v[0]) - first;
    sum[0] += d;
    sum[1] += d * d;
  }
};
template <class T, class P>
struct StoreMoments {
  MomentSums<T> sums;
  ChannelValues<P> mean, invstd;
  double count, eps;
  double* exact;  // the mean before it is rounded, unless null
  __device__ void operator()(std::int64_t c, const double (&s)[2]) const {
    const double distance = s[0] / count, variance = s[1] / count - distance * distance;
    const double whole = (count > 0 ? sums.prepare(c) : 0.0) + distance;
    mean.data[c * mean.step] = static_cast<P>(whole);
    if (exact) exact[c] = whole;
    invstd.data[c * invstd.step] = static_cast<P>(1.0 / sqrt((variance < 0 ? 0.0 : variance) + eps));
  }
};
template <class T>
std::int64_t moments_workspace(const View& x) {
  return sum_channels_workspace<T, 2, 1>({x});
}
template <class T, class P>
void moments(const KernelArgs& args, const char* what, const View& x, const View& mean, const View& invstd, double eps, void* workspace,
             double* exact = nullptr) {
  if (x.size(1) == 0) return;
  const MomentSums<T> f{x.ptr<T>(), x.stride(1)};
  sum_channels<T, 1>(args, what, {x}, workspace, f,
                     StoreMoments<T, P>{f, ChannelValues<P>(mean), ChannelValues<P>(invstd), static_cast<double>(x.numel() / x.size(1)), eps, exact});
}
// Workspace functions know the dtype at run time only.
template <class F>
std::int64_t norm_bytes(DType dtype, const char* op, const F& f) {
  return dispatch_floats(dtype, op, [&](auto t) -> std::int64_t { return f(t); });
}

// --- gradients of a norm with known moments: of mean, invstd, weight, bias and slope ----------------------------------------------
// Operands: the gradient after the activation, and x.
template <class P>
struct NormGradientSums {
  static constexpr int sums = 3;
  using Part = P;
  using Numbers = NormNumbers<P>;
  Norm<P> norm;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return norm.prepare(c); }
  __device__ __forceinline__ void operator()(const Numbers& k, const P (&v)[2], P (&sum)[3]) const {
    const P y = k.before(v[1]);
    const bool low = norm.low(y);
    const P g = low ? v[0] * k.slope : v[0];
    sum[0] += g;
    sum[1] += g * (v[1] - k.mean);
    if (low) sum[2] += v[0] * y;
  }
};
template <class P>
struct StoreNormGradients {
  Norm<P> norm;
  ChannelValues<P> out[5];  // null data: not wanted
  __device__ void operator()(std::int64_t c, const double (&s)[3]) const {
    const double weight = static_cast<double>(norm.weight[c]), invstd = static_cast<double>(norm.invstd[c]);
    const double all[] = {-weight * invstd * s[0], weight * s[1], invstd * s[1], s[0], s[2]};
#pragma unroll
    for (int i = 0; i < 5; ++i)
      if (out[i].data) out[i].data[c * out[i].step] = static_cast<P>(all[i]);
  }
};
// The gradient of x, the moments held.
template <class P>
struct NormInputGradient {
  using Numbers = NormNumbers<P>;
  Norm<P> norm;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return norm.prepare(c); }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&v)[2]) const {
    return (norm.low(k.before(v[1])) ? v[0] * k.slope : v[0]) * (k.weight * k.invstd);
  }
};

}  // namespace mien::cuda
