// Pooling. The op decides OH and OW (ceil mode drops a last window that would start in the right padding); a window is clipped to the picture.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// T: bfloat16, too. I: of the winners, std::int64_t (places in the picture) or std::uint8_t (in the window).
template <class T, class I>
void max_pool2d(const KernelArgs& args) {
  using Number = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;
  const auto& p = args.get<PoolParams>();
  const Image<T> x(args.in[0]), y(args.out[0]);
  const bool wants_index = args.out.size() > 1;  // inference leaves it out
  for (std::int64_t n = 0; n < y.n; ++n)
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          Number best = -std::numeric_limits<Number>::infinity();
          bool found = false;  // not when the window lies outside the picture
          std::int64_t winner = -1;
          for (std::int64_t kh = 0; kh < p.kernel[0]; ++kh)
            for (std::int64_t kw = 0; kw < p.kernel[1]; ++kw) {
              const std::int64_t h = oh * p.stride[0] - p.padding[0] + kh * p.dilation[0], w = ow * p.stride[1] - p.padding[1] + kw * p.dilation[1];
              if (h < 0 || h >= x.h || w < 0 || w >= x.w) continue;
              const Number v = convert<Number>(x(n, c, h, w));
              // The first of equals wins; the first NaN wins over everything.
              if (!found || v > best || (v != v && best == best)) {
                best = v;
                winner = sizeof(I) == 1 ? kh * p.kernel[1] + kw : h * x.w + w;
                found = true;
              }
            }
          y(n, c, oh, ow) = convert<T>(best);
          if (wants_index) Image<I>(args.out[1])(n, c, oh, ow) = static_cast<I>(winner);
        }
}

template <class T, class I>
void max_pool2d_backward(const KernelArgs& args) {
  const auto& p = args.get<PoolParams>();
  const Image<T> gy(args.in[0]), gx(args.out[0]);
  const Image<I> index(args.in[1]);
  double* sums = scatter_sums(args);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t c = 0; c < gy.c; ++c)
      for (std::int64_t oh = 0; oh < gy.h; ++oh)
        for (std::int64_t ow = 0; ow < gy.w; ++ow) {
          std::int64_t i = index(n, c, oh, ow);
          if (index(n, c, oh, ow) == static_cast<I>(-1)) continue;
          if constexpr (sizeof(I) == 1)
            i = (oh * p.stride[0] - p.padding[0] + i / p.kernel[1] * p.dilation[0]) * gx.w + ow * p.stride[1] - p.padding[1] + i % p.kernel[1] * p.dilation[1];
          if (i >= 0 && i < gx.h * gx.w) sums[(n * gx.c + c) * gx.h * gx.w + i] += static_cast<double>(gy(n, c, oh, ow));
        }
  store_sums<T>(args.out[0], sums);
}

struct Window {
  std::int64_t top, bottom, left, right;  // on the picture, half-open
  double divisor;
  bool empty() const { return top >= bottom || left >= right; }
};

Window average_window(const PoolParams& p, std::int64_t H, std::int64_t W, std::int64_t oh, std::int64_t ow) {
  std::int64_t top = oh * p.stride[0] - p.padding[0], left = ow * p.stride[1] - p.padding[1];
  std::int64_t bottom = std::min(top + p.kernel[0], H + p.padding[0]), right = std::min(left + p.kernel[1], W + p.padding[1]);
  const std::int64_t with_padding = (bottom - top) * (right - left);
  top = std::max<std::int64_t>(top, 0);
  left = std::max<std::int64_t>(left, 0);
  bottom = std::min(bottom, H);
  right = std::min(right, W);
  const std::int64_t divisor = p.divisor_override ? p.divisor_override : p.count_include_pad ? with_padding : (bottom - top) * (right - left);
  return {top, bottom, left, right, static_cast<double>(divisor)};
}

template <class T>
void avg_pool2d(const KernelArgs& args) {
  const auto& p = args.get<PoolParams>();
  const Image<T> x(args.in[0]), y(args.out[0]);
  for (std::int64_t n = 0; n < y.n; ++n)
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          const Window window = average_window(p, x.h, x.w, oh, ow);
          double sum = 0;
          for (std::int64_t h = window.top; h < window.bottom; ++h)
            for (std::int64_t w = window.left; w < window.right; ++w) sum += static_cast<double>(x(n, c, h, w));
          y(n, c, oh, ow) = window.empty() ? T(0) : static_cast<T>(sum / window.divisor);
        }
}

template <class T>
void avg_pool2d_backward(const KernelArgs& args) {
  const auto& p = args.get<PoolParams>();
  const Image<T> gy(args.in[0]), gx(args.out[0]);
  double* sums = scatter_sums(args);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t c = 0; c < gy.c; ++c)
      for (std::int64_t oh = 0; oh < gy.h; ++oh)
        for (std::int64_t ow = 0; ow < gy.w; ++ow) {
          const Window window = average_window(p, gx.h, gx.w, oh, ow);
          if (window.empty()) continue;
          const double share = static_cast<double>(gy(n, c, oh, ow)) / window.divisor;
          for (std::int64_t h = window.top; h < window.bottom; ++h)
            for (std::int64_t w = window.left; w < window.right; ++w) sums[((n * gx.c + c) * gx.h + h) * gx.w + w] += share;
        }
  store_sums<T>(args.out[0], sums);
}

void run_max_pool2d(const KernelArgs& args) {
  const auto run = [&](auto t) {
    if (args.out.size() > 1 && args.out[1].dtype == DType::u8) max_pool2d<decltype(t), std::uint8_t>(args);
    else max_pool2d<decltype(t), std::int64_t>(args);
  };
  if (args.out[0].dtype == DType::bf16) return run(bfloat16{});
  dispatch_float(args.out[0].dtype, "max_pool2d", run);
}
void run_max_pool2d_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "max_pool2d_backward", [&](auto t) {
    if (args.in[1].dtype == DType::u8) max_pool2d_backward<decltype(t), std::uint8_t>(args);
    else max_pool2d_backward<decltype(t), std::int64_t>(args);
  });
}
void run_avg_pool2d(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "avg_pool2d", [&](auto t) { avg_pool2d<decltype(t)>(args); });
}
void run_avg_pool2d_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "avg_pool2d_backward", [&](auto t) { avg_pool2d_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry max_pool2d_entry = {run_max_pool2d};
const KernelEntry max_pool2d_backward_entry = {run_max_pool2d_backward, nullptr, scatter_bytes};
const KernelEntry avg_pool2d_entry = {run_avg_pool2d};
const KernelEntry avg_pool2d_backward_entry = {run_avg_pool2d_backward, nullptr, scatter_bytes};

}  // namespace mien::ref
