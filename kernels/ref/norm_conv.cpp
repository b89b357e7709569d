// Convolution of a map that a batch norm and an activation come before, and the mean and 1/std of what comes out.
#include <cmath>
#include <vector>

#include "mien/kernels/ref/ref.h"
#include "mien/kernels/ref/taps_impl.h"

namespace mien::ref {
namespace {

// One channel of the norm, from the inputs that begin at `first`; none there: x goes in as it is.
template <class T>
struct Norm {
  Norm(const KernelArgs& a, std::size_t first, std::int64_t c) : activation(a.get<NormConvParams>().activation) {
    const auto value = [&](std::size_t i) { return static_cast<double>(typed<T>(a.in[i])[c * a.in[i].stride(0)]); };
    if (a.in.size() <= first) return;
    mean = value(first), invstd = value(first + 1), weight = value(first + 2), bias = value(first + 3);
    if (a.in.size() > first + 4) slope = value(first + 4);
  }
  double before(double x) const { return (x - mean) * invstd * weight + bias; }
  bool low(double v) const { return activation != Activation::none && v <= 0; }
  double operator()(double x) const {
    const double v = before(x);
    return low(v) ? slope * v : v;
  }
  Activation activation;
  double mean = 0, invstd = 1, weight = 1, bias = 0, slope = 0;
};
template <class T>
std::vector<Norm<T>> norms(const KernelArgs& a, std::size_t first, std::int64_t channels) {
  std::vector<Norm<T>> all;
  for (std::int64_t c = 0; c < channels; ++c) all.emplace_back(a, first, c);
  return all;
}
template <class T>
void put(const View& v, std::int64_t c, double value) {
  typed<T>(v)[c * v.stride(0)] = static_cast<T>(value);
}

// f(n, o, oh, ow) for all outputs.
template <class F>
void for_image(const View& y, const F& f) {
  for (std::int64_t n = 0; n < y.size(0); ++n)
    for (std::int64_t o = 0; o < y.size(1); ++o)
      for (std::int64_t oh = 0; oh < y.size(2); ++oh)
        for (std::int64_t ow = 0; ow < y.size(3); ++ow) f(n, o, oh, ow);
}

template <class T>
void forward(const KernelArgs& a) {
  const auto& p = a.get<NormConvParams>();
  const Image<T> x(a.in[0]), w(a.in[1]), y(a.out[0]);
  const auto norm = norms<T>(a, 2, x.c);
  const std::int64_t outputs = y.c / p.groups;
  for_image(a.out[0], [&](auto n, auto o, auto oh, auto ow) {
    double sum = 0;
    for (std::int64_t c = 0; c < w.c; ++c) {
      const std::int64_t from = o / outputs * w.c + c;
      for_taps(p, w.h, w.w, x.h, x.w, oh, ow, [&](auto kh, auto kw, auto ih, auto iw) {
        sum += norm[static_cast<std::size_t>(from)](static_cast<double>(x(n, from, ih, iw))) * static_cast<double>(w(o, c, kh, kw));
      });
    }
    y(n, o, oh, ow) = static_cast<T>(sum);
  });
  const double count = static_cast<double>(y.n * y.h * y.w);
  std::vector<double> mean(static_cast<std::size_t>(y.c)), squares(mean.size());
  for_image(a.out[0], [&](auto n, auto o, auto oh, auto ow) { mean[static_cast<std::size_t>(o)] += static_cast<double>(y(n, o, oh, ow)) / count; });
  for_image(a.out[0], [&](auto n, auto o, auto oh, auto ow) {
    const double d = static_cast<double>(y(n, o, oh, ow)) - mean[static_cast<std::size_t>(o)];
    squares[static_cast<std::size_t>(o)] += d * d;
  });
  for (std::int64_t o = 0; o < y.c; ++o) {
    put<T>(a.out[1], o, mean[static_cast<std::size_t>(o)]);
    put<T>(a.out[2], o, 1 / std::sqrt(squares[static_cast<std::size_t>(o)] / count + p.eps));
  }
}

template <class T>
void backward(const KernelArgs& a) {
  constexpr std::size_t first = 8;
  const auto& p = a.get<NormConvParams>();
  const Image<T> gy(a.in[0]), y(a.in[3]), x(a.in[6]), w(a.in[7]), gx(a.out[0]), gw(a.out[1]);
  const auto norm = norms<T>(a, first, x.c);
  const auto value = [&](std::size_t i, std::int64_t c) { return static_cast<double>(typed<T>(a.in[i])[c * a.in[i].stride(0)]); };
  const double count = static_cast<double>(y.n * y.h * y.w);
  const std::int64_t outputs = y.c / p.groups;
  std::vector<double> map(static_cast<std::size_t>(x.n * x.c * x.h * x.w)), weights(static_cast<std::size_t>(w.n * w.c * w.h * w.w));
  const auto in_map = [&](auto n, auto c, auto h, auto v) -> double& { return map[static_cast<std::size_t>(((n * x.c + c) * x.h + h) * x.w + v)]; };
  for_image(a.in[0], [&](auto n, auto o, auto oh, auto ow) {
    const double invstd = value(5, o), d = static_cast<double>(y(n, o, oh, ow)) - value(4, o);
    const double g = static_cast<double>(gy(n, o, oh, ow)) + value(1, o) / count - value(2, o) * invstd * invstd * invstd * d / count;
    for (std::int64_t c = 0; c < w.c; ++c) {
      const std::int64_t from = o / outputs * w.c + c;
      for_taps(p, w.h, w.w, x.h, x.w, oh, ow, [&](auto kh, auto kw, auto ih, auto iw) {
        in_map(n, from, ih, iw) += g * static_cast<double>(w(o, c, kh, kw));
        weights[static_cast<std::size_t>(((o * w.c + c) * w.h + kh) * w.w + kw)] += g * norm[static_cast<std::size_t>(from)](static_cast<double>(x(n, from, ih, iw)));
      });
    }
  });
  std::size_t at = 0;
  for_image(a.out[1], [&](auto o, auto c, auto kh, auto kw) { gw(o, c, kh, kw) = static_cast<T>(weights[at++]); });
  std::vector<double> sum(static_cast<std::size_t>(x.c)), sum_d(sum.size()), sum_slope(sum.size());
  for_image(a.in[6], [&](auto n, auto c, auto ih, auto iw) {
    const auto k = static_cast<std::size_t>(c);
    const double v = norm[k].before(static_cast<double>(x(n, c, ih, iw))), own = in_map(n, c, ih, iw), g = norm[k].low(v) ? own * norm[k].slope : own;
    sum[k] += g;
    sum_d[k] += g * (static_cast<double>(x(n, c, ih, iw)) - norm[k].mean);
    if (norm[k].low(v)) sum_slope[k] += own * v;
    gx(n, c, ih, iw) = static_cast<T>(g * norm[k].weight * norm[k].invstd);
  });
  if (a.in.size() <= first) return;
  for (std::int64_t c = 0; c < x.c; ++c) {
    const auto k = static_cast<std::size_t>(c);
    put<T>(a.out[2], c, -norm[k].weight * norm[k].invstd * sum[k]);
    put<T>(a.out[3], c, norm[k].weight * sum_d[k]);
    put<T>(a.out[4], c, norm[k].invstd * sum_d[k]);
    put<T>(a.out[5], c, sum[k]);
    if (a.in.size() > first + 4) put<T>(a.out[6], c, sum_slope[k]);
  }
}

void run_forward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "norm_conv", [&](auto t) { forward<decltype(t)>(args); });
}
void run_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "norm_conv_backward", [&](auto t) { backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry norm_conv_entry = {run_forward};
const KernelEntry norm_conv_backward_entry = {run_backward};

}  // namespace mien::ref
