// The end of a residual block: x + scale * h, rectified or not.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

void run(const KernelArgs& args) {
  const auto& p = args.get<ResidualParams>();
  const View &vx = args.in[0], &vh = args.in[1], &vy = args.out[0];
  dispatch_float(vy.dtype, "residual", [&](auto t) {
    using T = decltype(t);
    const T *x = typed<T>(vx), *h = typed<T>(vh);
    T* y = typed<T>(vy);
    iterate<3>(vy.shape, {vx.strides, vh.strides, vy.strides}, [&](const Offsets<3>& o) {
      const double v = static_cast<double>(x[o[0]]) + p.scale * static_cast<double>(h[o[1]]);
      y[o[2]] = static_cast<T>(p.relu && v <= 0 ? 0 : v);
    });
  });
}

}  // namespace

const KernelEntry residual_entry = {run};

}  // namespace mien::ref
