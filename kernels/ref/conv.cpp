// Convolution: cross-correlation with zeros outside. The three kernels walk the same (output, weight, input) triples and differ in who sums.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// Input row or column that tap k of output position o reads; outside [0, size) it is padding.
std::int64_t source(std::int64_t o, std::int64_t k, std::int64_t stride, std::int64_t pad, std::int64_t dilation) {
  return o * stride - pad + k * dilation;
}
bool inside(std::int64_t i, std::int64_t size) { return i >= 0 && i < size; }

// f(kh, kw, h, w) for the taps of output position (oh, ow) that fall on the picture.
template <class F>
void for_taps(const ConvParams& p, std::int64_t kernel_h, std::int64_t kernel_w, std::int64_t H, std::int64_t W, std::int64_t oh, std::int64_t ow,
              const F& f) {
  for (std::int64_t kh = 0; kh < kernel_h; ++kh) {
    const auto h = source(oh, kh, p.stride[0], p.padding[0], p.dilation[0]);
    if (!inside(h, H)) continue;
    for (std::int64_t kw = 0; kw < kernel_w; ++kw) {
      const auto w = source(ow, kw, p.stride[1], p.padding[2], p.dilation[1]);
      if (inside(w, W)) f(kh, kw, h, w);
    }
  }
}

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
void conv2d_grad_input(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const Image<T> gy(args.in[0]), w(args.in[1]), gx(args.out[0]);
  double* sums = scatter_sums(args);
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
void run_conv2d_grad_weight(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv2d_grad_weight", [&](auto t) { conv2d_grad_weight<decltype(t)>(args); });
}

}  // namespace

const KernelEntry conv2d_entry = {run_conv2d};
const KernelEntry conv2d_grad_input_entry = {run_conv2d_grad_input, nullptr, scatter_bytes};
const KernelEntry conv2d_grad_weight_entry = {run_conv2d_grad_weight, nullptr, scatter_bytes};

}  // namespace mien::ref
