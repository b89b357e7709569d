// A batch norm whose moments are known, plus another map.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
double value(const View& v, std::int64_t c) {
  return static_cast<double>(typed<T>(v)[c * v.stride(0)]);
}
// f(n, c, h, w) for a whole map.
template <class T, class F>
void each(const Image<T>& x, const F& f) {
  for (std::int64_t n = 0; n < x.n; ++n)
    for (std::int64_t c = 0; c < x.c; ++c)
      for (std::int64_t h = 0; h < x.h; ++h)
        for (std::int64_t w = 0; w < x.w; ++w) f(n, c, h, w);
}

void forward(const KernelArgs& a) {
  dispatch_float(a.out[0].dtype, "norm_add", [&](auto t) {
    using T = decltype(t);
    const Image<T> x(a.in[0]), r(a.in[a.in.size() > 5 ? 5 : 0]), y(a.out[0]);
    each(x, [&](auto n, auto c, auto h, auto w) {
      const double v = (static_cast<double>(x(n, c, h, w)) - value<T>(a.in[1], c)) * value<T>(a.in[2], c) * value<T>(a.in[3], c) + value<T>(a.in[4], c);
      y(n, c, h, w) = static_cast<T>(a.in.size() > 5 ? v + static_cast<double>(r(n, c, h, w)) : v);
    });
  });
}

void backward(const KernelArgs& a) {
  dispatch_float(a.out[0].dtype, "norm_add_backward", [&](auto t) {
    using T = decltype(t);
    const Image<T> g(a.in[0]), x(a.in[1]), gx(a.out[0]);
    for (std::int64_t c = 0; c < x.c; ++c) {
      const double mean = value<T>(a.in[2], c), invstd = value<T>(a.in[3], c), weight = value<T>(a.in[4], c);
      double sum = 0, sum_d = 0;
      for (std::int64_t n = 0; n < x.n; ++n)
        for (std::int64_t h = 0; h < x.h; ++h)
          for (std::int64_t w = 0; w < x.w; ++w) {
            const double own = static_cast<double>(g(n, c, h, w));
            sum += own;
            sum_d += own * (static_cast<double>(x(n, c, h, w)) - mean);
            gx(n, c, h, w) = static_cast<T>(own * weight * invstd);
          }
      const double gradients[] = {-weight * invstd * sum, weight * sum_d, invstd * sum_d, sum};
      for (std::size_t k = 0; k < 4; ++k) typed<T>(a.out[1 + k])[c * a.out[1 + k].stride(0)] = static_cast<T>(gradients[k]);
    }
  });
}

}  // namespace

const KernelEntry norm_add_entry = {forward};
const KernelEntry norm_add_backward_entry = {backward};

}  // namespace mien::ref
