// Constant padding (negative amounts crop), and the way back of a slice.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void set_all(const View& v, T value) {
  T* data = v.ptr<T>();
  iterate<1>(v.shape, {v.strides}, [&](const Offsets<1>& o) { data[o[0]] = value; });
}

void run_pad(const KernelArgs& args) {
  const auto& p = args.get<PadParams>();
  const View &vx = args.in[0], &vy = args.out[0];
  internal_check(vx.dtype == vy.dtype, "pad: dtypes differ");
  dispatch_all(vy.dtype, [&](auto t) { set_all(vy, convert<decltype(t)>(p.value)); });
  // What is left of x after cropping, and where it lands.
  Shape kept = vx.shape;
  std::int64_t from = 0, to = 0;
  for (int d = 0; d < kept.rank(); ++d) {
    const std::int64_t begin = std::max<std::int64_t>(0, -p.low[d]), end = std::min(vx.size(d), vx.size(d) + p.high[d]);
    kept[d] = std::max<std::int64_t>(0, end - begin);
    from += begin * vx.stride(d);
    to += (begin + p.low[d]) * vy.stride(d);
  }
  if (numel(kept) == 0) return;
  dispatch_size(vy.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = vx.ptr<T>() + from;
    T* y = vy.ptr<T>() + to;
    iterate<2>(kept, {vx.strides, vy.strides}, [&](const Offsets<2>& o) { y[o[1]] = x[o[0]]; });
  });
}

void run_slice_backward(const KernelArgs& args) {
  const auto& p = args.get<SliceParams>();
  const View &vg = args.in[0], &vgx = args.out[0];
  internal_check(vg.dtype == vgx.dtype, "slice_backward: dtypes differ");
  if (vgx.numel() == 0) return;
  Strides steps = vgx.strides;
  steps[p.dim] *= p.step;
  dispatch_size(vgx.dtype, [&](auto t) {
    using T = decltype(t);
    set_all(vgx, T(0));  // zero is all bits 0 in every dtype
    if (vg.numel() == 0) return;
    const T* g = vg.ptr<T>();
    T* gx = vgx.ptr<T>() + p.start * vgx.stride(p.dim);
    iterate<2>(vg.shape, {vg.strides, steps}, [&](const Offsets<2>& o) { gx[o[1]] = g[o[0]]; });
  });
}

}  // namespace

const KernelEntry pad_entry = {run_pad, nullptr, nullptr, true};
const KernelEntry slice_backward_entry = {run_slice_backward, nullptr, nullptr, true};

}  // namespace mien::ref
