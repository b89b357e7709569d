// Softmax and log-softmax along one dimension, a block a line, with the largest value taken off first; the derivative.
#include "mien/kernels/cuda/lines.cuh"

namespace mien::cuda {
namespace {

constexpr int threads = 256;

template <class C>
struct Largest {
  __device__ C identity() const { return -static_cast<C>(INFINITY); }
  __device__ C operator()(C a, C b) const { return a != a || a > b ? a : b; }
};
struct Add {
  __device__ double operator()(double a, double b) const { return a + b; }
};
// Whole in every thread.
template <class A, class F>
__device__ __forceinline__ A everywhere(A own, A* shared, const F& f) {
  __syncthreads();  // before values of an earlier call are overwritten
  const A v = combine_lanes(own, 1, shared, f);
  (void)v;
  return shared[0];
}

template <class T>
__global__ void __launch_bounds__(threads)
    softmax_kernel(const __grid_constant__ Walk<2, std::int64_t> lines, std::int64_t size, const T* x, std::int64_t sx, T* y, std::int64_t sy, bool log_form) {
  using C = Compute<T>;
  __shared__ C tops[threads];
  __shared__ double sums[threads];
  std::int64_t o[2];
  lines.offsets(static_cast<std::int64_t>(blockIdx.x), o);
  const Largest<C> largest;
  C top = largest.identity();
  for (std::int64_t i = threadIdx.x; i < size; i += threads) top = largest(top, load(x[o[0] + i * sx]));
  top = everywhere(top, tops, largest);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < size; i += threads) sum += static_cast<double>(exp(load(x[o[0] + i * sx]) - top));
  sum = everywhere(sum, sums, Add{});
  const C logarithm = static_cast<C>(log(sum)), share = static_cast<C>(1 / sum);
  for (std::int64_t i = threadIdx.x; i < size; i += threads) {
    const C shifted = load(x[o[0] + i * sx]) - top;
    y[o[1] + i * sy] = store<T>(log_form ? shifted - logarithm : exp(shifted) * share);
  }
}

template <class T>
__global__ void __launch_bounds__(threads) softmax_backward_kernel(const __grid_constant__ Walk<3, std::int64_t> lines, std::int64_t size, const T* g, std::int64_t sg,
                                                                   const T* y, std::int64_t sy, T* gx, std::int64_t sx, bool log_form) {
  using C = Compute<T>;
  __shared__ double sums[threads];
  std::int64_t o[3];
  lines.offsets(static_cast<std::int64_t>(blockIdx.x), o);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < size; i += threads)
    sum += static_cast<double>(load(g[o[0] + i * sg])) * (log_form ? 1.0 : static_cast<double>(load(y[o[1] + i * sy])));
  sum = everywhere(sum, sums, Add{});
  for (std::int64_t i = threadIdx.x; i < size; i += threads) {
    const C gi = load(g[o[0] + i * sg]), yi = load(y[o[1] + i * sy]);
    gx[o[2] + i * sx] = store<T>(log_form ? gi - exp(yi) * static_cast<C>(sum) : yi * (gi - static_cast<C>(sum)));
  }
}

const char* decline(const KernelArgs& args) {
  const View& y = args.out[0];
  const std::int64_t size = y.size(args.get<SoftmaxParams>().dim);
  return size > 0 && y.numel() / size > std::numeric_limits<std::int32_t>::max() ? "2^31 lines or more" : nullptr;  // more blocks than a launch may have
}
void run_softmax(const KernelArgs& args) {
  const auto& p = args.get<SoftmaxParams>();
  const View &x = args.in[0], &y = args.out[0];
  if (y.numel() == 0) return;
  const std::int64_t size = x.size(p.dim);
  const auto lines = make_walk<2, std::int64_t>(without(x.shape, p.dim), {without(x.strides, p.dim), without(y.strides, p.dim)});
  dispatch_floats(y.dtype, "softmax", [&](auto t) {
    using T = typename decltype(t)::type;
    softmax_kernel<T>
        <<<static_cast<unsigned>(y.numel() / size), threads, 0, stream(args)>>>(lines, size, x.ptr<T>(), x.stride(p.dim), y.ptr<T>(), y.stride(p.dim), p.log);
  });
  check_launch("softmax");
}
void run_softmax_backward(const KernelArgs& args) {
  const auto& p = args.get<SoftmaxParams>();
  const View &g = args.in[0], &y = args.in[1], &gx = args.out[0];
  if (gx.numel() == 0) return;
  const std::int64_t size = gx.size(p.dim);
  const auto lines = make_walk<3, std::int64_t>(without(gx.shape, p.dim), {without(g.strides, p.dim), without(y.strides, p.dim), without(gx.strides, p.dim)});
  dispatch_floats(gx.dtype, "softmax_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    softmax_backward_kernel<T><<<static_cast<unsigned>(gx.numel() / size), threads, 0, stream(args)>>>(lines, size, g.ptr<T>(), g.stride(p.dim), y.ptr<T>(),
                                                                                                       y.stride(p.dim), gx.ptr<T>(), gx.stride(p.dim), p.log);
  });
  check_launch("softmax_backward");
}

}  // namespace

const KernelEntry softmax_entry = {run_softmax, decline};
const KernelEntry softmax_backward_entry = {run_softmax_backward, decline};

}  // namespace mien::cuda
