// PReLU with one slope, or one per channel (dimension 1; dimension 0 of a rank-1 tensor).
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

int channel_dim(const View& x) { return x.rank() > 1 ? 1 : 0; }

// Strides of the slope as if it had x's shape: 0 everywhere but along the channels.
Strides slope_strides(const View& slope, const View& x) {
  Strides s = Shape::filled(x.rank(), 0);
  if (x.rank() > 0 && slope.numel() > 1) s[channel_dim(x)] = slope.stride(0);
  return s;
}

template <class T>
void prelu(const KernelArgs& args) {
  const View &vx = args.in[0], &va = args.in[1], &vy = args.out[0];
  const T *x = typed<T>(vx), *a = typed<T>(va);
  T* y = typed<T>(vy);
  iterate<3>(vy.shape, {vx.strides, slope_strides(va, vx), vy.strides}, [&](const Offsets<3>& o) {
    const T v = x[o[0]];
    y[o[2]] = v > T(0) ? v : a[o[1]] * v;
  });
}

template <class T>
void prelu_backward(const KernelArgs& args) {
  const View &vg = args.in[0], &vx = args.in[1], &va = args.in[2], &vgx = args.out[0], &vga = args.out[1];
  const T *g = typed<T>(vg), *x = typed<T>(vx), *a = typed<T>(va);
  T *gx = typed<T>(vgx), *ga = typed<T>(vga);
  iterate<4>(vgx.shape, {vg.strides, vx.strides, slope_strides(va, vx), vgx.strides},
             [&](const Offsets<4>& o) { gx[o[3]] = x[o[1]] > T(0) ? g[o[0]] : a[o[2]] * g[o[0]]; });
  const bool one = va.numel() == 1 || vx.rank() == 0;
  const int dim = channel_dim(vx);
  Shape part = vx.shape;
  if (!one) part[dim] = 1;
  for (std::int64_t c = 0; c < va.numel(); ++c) {
    const T *gc = one ? g : g + c * vg.stride(dim), *xc = one ? x : x + c * vx.stride(dim);
    double sum = 0;
    iterate<2>(part, {vg.strides, vx.strides}, [&](const Offsets<2>& o) {
      if (!(xc[o[1]] > T(0))) sum += static_cast<double>(gc[o[0]]) * static_cast<double>(xc[o[1]]);
    });
    ga[vga.rank() > 0 ? c * vga.stride(0) : 0] = static_cast<T>(sum);
  }
}

void run_prelu(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "prelu", [&](auto t) { prelu<decltype(t)>(args); });
}
void run_prelu_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "prelu_backward", [&](auto t) { prelu_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry prelu_entry = {run_prelu};
const KernelEntry prelu_backward_entry = {run_prelu_backward};

}  // namespace mien::ref
