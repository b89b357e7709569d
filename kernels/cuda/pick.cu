// One element of each row, chosen by an index, and its way back. An index out of range (ops/ throws on one) gives 0, or is left out.
#include "mien/kernels/cuda/moves.cuh"

namespace mien::cuda {
namespace {

void run_pick(const KernelArgs& args) {
  const View &x = args.in[0], &index = args.in[1], &y = args.out[0];
  dispatch_bytes(item_size(y.dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<3>(args, "pick", y.shape, {Strides{x.stride(0)}, index.strides, y.strides},
                Select<T>{x.ptr<T>(), index.ptr<std::int64_t>(), y.ptr<T>(), x.size(1), x.stride(1)});
  });
}

template <class T>
struct PickAdd {
  const T* x;
  const std::int64_t* index;
  const T* values;
  T* y;
  std::int64_t size, x_step, y_step;
  template <class I>
  __device__ __forceinline__ void operator()(const I (&o)[4]) const {
    const std::int64_t i = index[o[1]];
    if (i >= 0 && i < size) y[o[3] + i * y_step] = store<T>(load(x[o[0] + i * x_step]) + load(values[o[2]]));
  }
};

void run_pick_add(const KernelArgs& args) {
  const View &x = args.in[0], &index = args.in[1], &values = args.in[2], &y = args.out[0];
  if (y.numel() == 0) return;
  move_bits(args, "pick_add", item_size(y.dtype), y.shape, x.data, x.strides, y.data, y.strides);
  dispatch_floats(y.dtype, "pick_add", [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<4>(args, "pick_add", index.shape, {Strides{x.stride(0)}, index.strides, values.strides, Strides{y.stride(0)}},
                PickAdd<T>{x.ptr<T>(), index.ptr<std::int64_t>(), values.ptr<T>(), y.ptr<T>(), y.size(1), x.stride(1), y.stride(1)});
  });
}

}  // namespace

const KernelEntry pick_entry = {run_pick};
const KernelEntry pick_add_entry = {run_pick_add};

}  // namespace mien::cuda
