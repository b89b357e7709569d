// One element of each row, chosen by an index, and its way back.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// The offset of [n, index[n]] in x; ops/pick.cpp has checked the indices.
std::int64_t place(const View& x, const View& index, std::int64_t n) { return n * x.stride(0) + typed<std::int64_t>(index)[n * index.stride(0)] * x.stride(1); }

template <class T>
void pick(const KernelArgs& args) {
  const View &vx = args.in[0], &index = args.in[1], &vy = args.out[0];
  for (std::int64_t n = 0; n < vx.size(0); ++n) typed<T>(vy)[n * vy.stride(0)] = typed<T>(vx)[place(vx, index, n)];
}

template <class T>
void pick_add(const KernelArgs& args) {
  const View &vx = args.in[0], &index = args.in[1], &values = args.in[2], &vy = args.out[0];
  const T* x = typed<T>(vx);
  T* y = typed<T>(vy);
  iterate<2>(vy.shape, {vx.strides, vy.strides}, [&](const Offsets<2>& o) { y[o[1]] = x[o[0]]; });
  for (std::int64_t n = 0; n < vy.size(0); ++n) y[place(vy, index, n)] += typed<T>(values)[n * values.stride(0)];
}

void run_pick(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "pick", [&](auto t) { pick<decltype(t)>(args); });
}
void run_pick_add(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "pick_add", [&](auto t) { pick_add<decltype(t)>(args); });
}

}  // namespace

const KernelEntry pick_entry = {run_pick};
const KernelEntry pick_add_entry = {run_pick_add};

}  // namespace mien::ref
