// Softmax and log-softmax along one dimension, with the largest value taken off first.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void softmax(const KernelArgs& args) {
  const auto& p = args.get<SoftmaxParams>();
  const View &vx = args.in[0], &vy = args.out[0];
  const T* x = typed<T>(vx);
  T* y = typed<T>(vy);
  const std::int64_t size = vx.size(p.dim), sx = vx.stride(p.dim), sy = vy.stride(p.dim);
  if (size == 0) return;
  iterate<2>(without(vx.shape, p.dim), {without(vx.strides, p.dim), without(vy.strides, p.dim)}, [&](const Offsets<2>& o) {
    const T* line = x + o[0];
    double top = static_cast<double>(line[0]), sum = 0;
    for (std::int64_t i = 1; i < size; ++i) top = std::max(top, static_cast<double>(line[i * sx]));
    for (std::int64_t i = 0; i < size; ++i) sum += std::exp(static_cast<double>(line[i * sx]) - top);
    for (std::int64_t i = 0; i < size; ++i) {
      const double shifted = static_cast<double>(line[i * sx]) - top;
      y[o[1] + i * sy] = static_cast<T>(p.log ? shifted - std::log(sum) : std::exp(shifted) / sum);
    }
  });
}

template <class T>
void softmax_backward(const KernelArgs& args) {
  const auto& p = args.get<SoftmaxParams>();
  const View &vg = args.in[0], &vy = args.in[1], &vgx = args.out[0];
  const T *g = typed<T>(vg), *y = typed<T>(vy);
  T* gx = typed<T>(vgx);
  const std::int64_t size = vgx.size(p.dim), sg = vg.stride(p.dim), sy = vy.stride(p.dim), sx = vgx.stride(p.dim);
  iterate<3>(without(vgx.shape, p.dim), {without(vg.strides, p.dim), without(vy.strides, p.dim), without(vgx.strides, p.dim)},
             [&](const Offsets<3>& o) {
               double sum = 0;  // of g for the logarithm, else of g*y
               for (std::int64_t i = 0; i < size; ++i)
                 sum += static_cast<double>(g[o[0] + i * sg]) * (p.log ? 1.0 : static_cast<double>(y[o[1] + i * sy]));
               for (std::int64_t i = 0; i < size; ++i) {
                 const double gi = static_cast<double>(g[o[0] + i * sg]), yi = static_cast<double>(y[o[1] + i * sy]);
                 gx[o[2] + i * sx] = static_cast<T>(p.log ? gi - std::exp(yi) * sum : yi * (gi - sum));
               }
             });
}

void run_softmax(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "softmax", [&](auto t) { softmax<decltype(t)>(args); });
}
void run_softmax_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "softmax_backward", [&](auto t) { softmax_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry softmax_entry = {run_softmax};
const KernelEntry softmax_backward_entry = {run_softmax_backward};

}  // namespace mien::ref
