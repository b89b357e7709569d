// Convolution: cross-correlation with zeros outside. The three kernels walk the same (output, weight, input) triples and differ in who sums.
#include "mien/kernels/ref/taps_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void conv2d(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const Image<T> x(args.in[0]), w(args.in[1]), y(args.out[0]);
  const T* bias = args.in.size() > 2 ? typed<T>(args.in[2]) : nullptr;
  const std::int64_t outputs = y.c / p.groups;
  for (std::int64_t n = 0; n < y.n; ++n)
    for (std::int64_t o = 0; o < y.c; ++o)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          double sum = bias ? static_cast<double>(bias[o * args.in[2].stride(0)]) : 0.0;
          const std::int64_t first = o / outputs * w.c;
          for (std::int64_t c = 0; c < w.c; ++c)
            for_taps(p, w.h, w.w, x.h, x.w, oh, ow, [&](auto kh, auto kw, auto ih, auto iw) {
              sum += static_cast<double>(x(n, first + c, ih, iw)) * static_cast<double>(w(o, c, kh, kw));
            });
          y(n, o, oh, ow) = static_cast<T>(sum);
        }
}

template <class T>
void sum_grad_input(const ConvParams& p, const Image<T>& gy, const Image<T>& w, const Image<T>& gx, double* sums) {
  const std::int64_t outputs = std::max<std::int64_t>(gy.c / p.groups, 1);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t o = 0; o < gy.c; ++o)
      for (std::int64_t oh = 0; oh < gy.h; ++oh)
        for (std::int64_t ow = 0; ow < gy.w; ++ow) {
          const double g = static_cast<double>(gy(n, o, oh, ow));
          const std::int64_t first = o / outputs * w.c;
          for (std::int64_t c = 0; c < w.c; ++c) {
            double* plane = sums + (n * gx.c + first + c) * gx.h * gx.w;
            for_taps(p, w.h, w.w, gx.h, gx.w, oh, ow,
                     [&](auto kh, auto kw, auto ih, auto iw) { plane[ih * gx.w + iw] += g * static_cast<double>(w(o, c, kh, kw)); });
          }
        }
}
template <class T>
void conv2d_grad_input(const KernelArgs& args) {
  double* sums = scatter_sums(args);
  sum_grad_input(args.get<ConvParams>(), Image<T>(args.in[0]), Image<T>(args.in[1]), Image<T>(args.out[0]), sums);
  store_sums<T>(args.out[0], sums);
}

template <class T>
void conv2d_grad_weight(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const Image<T> gy(args.in[0]), x(args.in[1]), gw(args.out[0]);
  double* sums = scatter_sums(args);
  const std::int64_t outputs = std::max<std::int64_t>(gy.c / p.groups, 1);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t o = 0; o < gy.c; ++o)
      for (std::int64_t c = 0; c < gw.c; ++c) {
        double* plane = sums + (o * gw.c + c) * gw.h * gw.w;
        const std::int64_t from = o / outputs * gw.c + c;
        for (std::int64_t oh = 0; oh < gy.h; ++oh)
          for (std::int64_t ow = 0; ow < gy.w; ++ow) {
            const double g = static_cast<double>(gy(n, o, oh, ow));
            for_taps(p, gw.h, gw.w, x.h, x.w, oh, ow,
                     [&](auto kh, auto kw, auto ih, auto iw) { plane[kh * gw.w + kw] += g * static_cast<double>(x(n, from, ih, iw)); });
          }
      }
  store_sums<T>(args.out[0], sums);
}

void run_conv2d(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv2d", [&](auto t) { conv2d<decltype(t)>(args); });
}
void run_conv2d_grad_input(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv2d_grad_input", [&](auto t) { conv2d_grad_input<decltype(t)>(args); });
}
// in gy, w, a map like gx; out that map plus the gradient, in the same memory or not.
template <class T>
void add_grad_input(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const Image<T> gy(args.in[0]), w(args.in[1]), before(args.in[2]), sum(args.out[0]);
  double* sums = scatter_sums(args);
  sum_grad_input(p, gy, w, sum, sums);
  for (std::int64_t n = 0, i = 0; n < sum.n; ++n)
    for (std::int64_t c = 0; c < sum.c; ++c)
      for (std::int64_t h = 0; h < sum.h; ++h)
        for (std::int64_t x = 0; x < sum.w; ++x, ++i) sum(n, c, h, x) = static_cast<T>(static_cast<double>(before(n, c, h, x)) + sums[i]);
}
void run_conv2d_grad_input_add(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv2d_grad_input_add", [&](auto t) { add_grad_input<decltype(t)>(args); });
}
void run_conv2d_grad_weight(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv2d_grad_weight", [&](auto t) { conv2d_grad_weight<decltype(t)>(args); });
}

}  // namespace

const KernelEntry conv2d_entry = {run_conv2d};
const KernelEntry conv2d_grad_input_entry = {run_conv2d_grad_input, nullptr, scatter_bytes};
const KernelEntry conv2d_grad_input_add_entry = {run_conv2d_grad_input_add, nullptr, scatter_bytes};
const KernelEntry conv2d_grad_weight_entry = {run_conv2d_grad_weight, nullptr, scatter_bytes};

}  // namespace mien::ref
