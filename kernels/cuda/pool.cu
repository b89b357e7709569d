// Pooling, a thread an output element; backward of averages a thread an input element, which looks at the windows that contain it, so sums have a fixed order.
#include "mien/kernels/cuda/places.cuh"

namespace mien::cuda {
namespace {

struct Window {
  std::int64_t kh, kw, sh, sw, ph, pw, dh, dw;
  explicit Window(const PoolParams& p)
      : kh(p.kernel[0]), kw(p.kernel[1]), sh(p.stride[0]), sw(p.stride[1]), ph(p.padding[0]), pw(p.padding[1]), dh(p.dilation[0]), dw(p.dilation[1]) {}
};

// --- max ---------------------------------------------------------------------------------------------------------------------
template <class T, class I>  // I: of the winners, std::int64_t (places in the picture) or std::uint8_t (in the window)
struct MaxPool {
  Image<T> x, y;
  Image<I> index;  // data null: not wanted
  Window p;
  __device__ void operator()(const Place& at) const {
    using C = Compute<T>;
    C best = -static_cast<C>(INFINITY);
    bool found = false;  // not when the window lies outside the picture
    std::int64_t winner = -1;
    for (std::int64_t i = 0; i < p.kh; ++i) {
      const std::int64_t h = at.h * p.sh - p.ph + i * p.dh;
      if (h < 0 || h >= x.h) continue;
      for (std::int64_t j = 0; j < p.kw; ++j) {
        const std::int64_t w = at.w * p.sw - p.pw + j * p.dw;
        if (w < 0 || w >= x.w) continue;
        const C v = load(x(at.n, at.c, h, w));
        if (!found || v > best || (v != v && best == best)) {
          best = v;
          winner = sizeof(I) == 1 ? i * p.kw + j : h * x.w + w;
          found = true;
        }
      }
    }
    y(at.n, at.c, at.h, at.w) = store<T>(best);
    if (index.data) index(at.n, at.c, at.h, at.w) = static_cast<I>(winner);
  }
};
template <class I>
void max_pool2d(const KernelArgs& args) {
  const View& y = args.out[0];
  dispatch_floats(y.dtype, "max_pool2d", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "max_pool2d", y,
               MaxPool<T, I>{Image<T>(args.in[0]), Image<T>(y), args.out.size() > 1 ? Image<I>(args.out[1]) : Image<I>{}, Window(args.get<PoolParams>())});
  });
}
void run_max_pool2d(const KernelArgs& args) {
  args.out.size() > 1 && args.out[1].dtype == DType::u8 ? max_pool2d<std::uint8_t>(args) : max_pool2d<std::int64_t>(args);
}

// Each plane of gx belongs to one block, which adds the elements of gy in chunks of its threads; of those that hit one place in a chunk, the one with the lowest
// number adds for all, in their order.
constexpr int scatter_threads = 128;
template <class T, class I>
__global__ void __launch_bounds__(scatter_threads) max_backward_kernel(Image<T> gy, Image<I> index, Window p, double* sums, std::int64_t plane, std::int64_t width) {
  __shared__ std::int64_t places[scatter_threads];
  __shared__ double values[scatter_threads];
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) / gy.c, c = static_cast<std::int64_t>(blockIdx.x) % gy.c, count = gy.h * gy.w;
  double* own = sums + static_cast<std::int64_t>(blockIdx.x) * plane;
  for (std::int64_t i = threadIdx.x; i < plane; i += scatter_threads) own[i] = 0;
  for (std::int64_t first = 0; first < count; first += scatter_threads) {
    __syncthreads();
    const std::int64_t i = first + threadIdx.x;
    std::int64_t at = -1;
    if (i < count) {
      const I kept = index(n, c, i / gy.w, i % gy.w);
      at = kept;
      if (sizeof(I) == 1) at = (i / gy.w * p.sh - p.ph + at / p.kw * p.dh) * width + i % gy.w * p.sw - p.pw + at % p.kw * p.dw;
      if (kept == static_cast<I>(-1) || at >= plane) at = -1;
      values[threadIdx.x] = static_cast<double>(load(gy(n, c, i / gy.w, i % gy.w)));
    }
    places[threadIdx.x] = at;
    __syncthreads();
    if (at < 0) continue;
    bool lowest = true;
    for (unsigned k = 0; k < threadIdx.x && lowest; ++k) lowest = places[k] != at;
    if (!lowest) continue;
    double sum = own[at];
    for (unsigned k = threadIdx.x; k < scatter_threads; ++k)
      if (places[k] == at) sum += values[k];
    own[at] = sum;
  }
}
template <class T>
struct StoreSum {
  const double* sums;
  Image<T> gx;
  __device__ void operator()(const Place& p) const {
    gx(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sums[((p.n * gx.c + p.c) * gx.h + p.h) * gx.w + p.w]));
  }
};
template <class I>
void max_pool2d_backward(const KernelArgs& args) {
  const View &gy = args.in[0], &index = args.in[1], &gx = args.out[0];
  if (gx.numel() == 0) return;
  dispatch_floats(gx.dtype, "max_pool2d_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    auto* sums = static_cast<double*>(args.workspace);
    max_backward_kernel<T, I><<<static_cast<unsigned>(gx.size(0) * gx.size(1)), scatter_threads, 0, stream(args)>>>(
        Image<T>(gy), Image<I>(index), Window(args.get<PoolParams>()), sums, gx.size(2) * gx.size(3), gx.size(3));
    check_launch("max_pool2d_backward");
    each_place(args, "max_pool2d_backward", gx, StoreSum<T>{sums, Image<T>(gx)});
  });
}
void run_max_pool2d_backward(const KernelArgs& args) {
  args.in[1].dtype == DType::u8 ? max_pool2d_backward<std::uint8_t>(args) : max_pool2d_backward<std::int64_t>(args);
}
std::int64_t scatter_bytes(const KernelArgs& args) { return args.out[0].numel() * static_cast<std::int64_t>(sizeof(double)); }

// --- average -----------------------------------------------------------------------------------------------------------------
struct Average {
  Window p;
  bool include;
  std::int64_t divisor_override;
  explicit Average(const PoolParams& q) : p(q), include(q.count_include_pad), divisor_override(q.divisor_override) {}
  struct Area {
    std::int64_t top, bottom, left, right, divisor;
    __device__ bool empty() const { return top >= bottom || left >= right; }
  };
  __device__ Area area(std::int64_t H, std::int64_t W, std::int64_t oh, std::int64_t ow) const {
    std::int64_t top = oh * p.sh - p.ph, left = ow * p.sw - p.pw;
    std::int64_t bottom = min(top + p.kh, H + p.ph), right = min(left + p.kw, W + p.pw);
    const std::int64_t padded = (bottom - top) * (right - left);
    top = max(top, std::int64_t{0});
    left = max(left, std::int64_t{0});
    bottom = min(bottom, H);
    right = min(right, W);
    return {top, bottom, left, right, divisor_override ? divisor_override : include ? padded : (bottom - top) * (right - left)};
  }
};
template <class T>
struct AvgPool {
  Image<T> x, y;
  Average p;
  __device__ void operator()(const Place& at) const {
    const auto a = p.area(x.h, x.w, at.h, at.w);
    double sum = 0;
    for (std::int64_t h = a.top; h < a.bottom; ++h)
      for (std::int64_t w = a.left; w < a.right; ++w) sum += static_cast<double>(load(x(at.n, at.c, h, w)));
    y(at.n, at.c, at.h, at.w) = store<T>(static_cast<Compute<T>>(a.empty() ? 0.0 : sum / static_cast<double>(a.divisor)));
  }
};
template <class T>
struct AvgBackward {
  Image<T> gy, gx;
  Average p;
  __device__ void operator()(const Place& at) const {
    // Windows that begin at or before this row (column) and reach it.
    const auto first = [](std::int64_t i, std::int64_t pad, std::int64_t kernel, std::int64_t stride) {
      return max(std::int64_t{0}, (i + pad - kernel + stride) / stride);
    };
    double sum = 0;
    for (std::int64_t oh = first(at.h, p.p.ph, p.p.kh, p.p.sh); oh < gy.h && oh * p.p.sh - p.p.ph <= at.h; ++oh)
      for (std::int64_t ow = first(at.w, p.p.pw, p.p.kw, p.p.sw); ow < gy.w && ow * p.p.sw - p.p.pw <= at.w; ++ow) {
        const auto a = p.area(gx.h, gx.w, oh, ow);
        if (at.h < a.top || at.h >= a.bottom || at.w < a.left || at.w >= a.right) continue;
        sum += static_cast<double>(load(gy(at.n, at.c, oh, ow))) / static_cast<double>(a.divisor);
      }
    gx(at.n, at.c, at.h, at.w) = store<T>(static_cast<Compute<T>>(sum));
  }
};
void run_avg_pool2d(const KernelArgs& args) {
  dispatch_floats(args.out[0].dtype, "avg_pool2d", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "avg_pool2d", args.out[0], AvgPool<T>{Image<T>(args.in[0]), Image<T>(args.out[0]), Average(args.get<PoolParams>())});
  });
}
void run_avg_pool2d_backward(const KernelArgs& args) {
  dispatch_floats(args.out[0].dtype, "avg_pool2d_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "avg_pool2d_backward", args.out[0], AvgBackward<T>{Image<T>(args.in[0]), Image<T>(args.out[0]), Average(args.get<PoolParams>())});
  });
}

}  // namespace

const KernelEntry max_pool2d_entry = {run_max_pool2d};
const KernelEntry max_pool2d_backward_entry = {run_max_pool2d_backward, nullptr, scatter_bytes};
const KernelEntry avg_pool2d_entry = {run_avg_pool2d};
const KernelEntry avg_pool2d_backward_entry = {run_avg_pool2d_backward};

}  // namespace mien::cuda
