// Copies: any dtypes, any strides. Values are converted as kernels/ref/iterate_impl.h says.
#include "mien/kernels/cuda/common.cuh"
#include "mien/kernels/cuda/convert.cuh"

namespace mien::cuda {
namespace {

template <class To, class From>
struct Copy {
  const From* x;
  To* y;
  template <class I>
  __device__ void operator()(const I (&o)[2]) const {
    y[o[1]] = convert<To>(x[o[0]]);
  }
};

void run_copy(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (x.dtype == y.dtype && y.numel() > 0 && ((x.is_contiguous() && y.is_contiguous()) || (x.is_channels_last() && y.is_channels_last()))) {
    check(cudaMemcpyAsync(y.data, x.data, static_cast<std::size_t>(y.numel() * item_size(y.dtype)), cudaMemcpyDeviceToDevice, stream(args)), "copy");
    return;
  }
  dispatch_every(y.dtype, [&](auto to) {
    dispatch_every(x.dtype, [&](auto from) {
      using To = typename decltype(to)::type;
      using From = typename decltype(from)::type;
      for_each<2>(args, "copy", y.shape, {x.strides, y.strides}, Copy<To, From>{x.ptr<From>(), y.ptr<To>()});
    });
  });
}

void run_transfer(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (y.numel() == 0) return;
  check(cudaMemcpyAsync(y.data, x.data, static_cast<std::size_t>(y.numel() * item_size(y.dtype)), cudaMemcpyDefault, stream(args)), "to");
  if (y.device.is_cpu()) check(cudaStreamSynchronize(stream(args)), "to");
}

template <class T>
struct Fill {
  T* y;
  T value;
  template <class I>
  __device__ void operator()(const I (&o)[1]) const {
    y[o[0]] = value;
  }
};

void run_fill(const KernelArgs& args) {
  const View& y = args.out[0];
  dispatch_every(y.dtype, [&](auto to) {
    using T = typename decltype(to)::type;
    for_each<1>(args, "fill", y.shape, {y.strides}, Fill<T>{y.ptr<T>(), convert<T>(args.get<FillParams>().value)});
  });
}

}  // namespace

const KernelEntry copy_entry = {run_copy};
const KernelEntry transfer_entry = {run_transfer};
const KernelEntry fill_entry = {run_fill};

}  // namespace mien::cuda
