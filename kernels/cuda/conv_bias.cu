// The bias of a convolution that a library made.
#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda_library {
void add_bias(const KernelArgs& args, const View& y, const View& bias);

namespace {
template <class T>
struct AddBias {
  const T* bias;
  T* y;
  template <class I>
  __device__ void operator()(const I (&o)[2]) const {
    y[o[1]] = cuda::store<T>(cuda::load(y[o[1]]) + cuda::load(bias[o[0]]));
  }
};
}  // namespace

void add_bias(const KernelArgs& args, const View& y, const View& bias) {
  Strides along = Strides::filled(y.rank(), 0);
  along[1] = bias.stride(0);
  cuda::dispatch_floats(y.dtype, "conv2d", [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::for_each<2>(args, "conv2d", y.shape, {along, y.strides}, AddBias<T>{bias.ptr<T>(), y.ptr<T>()});
  });
}

}  // namespace mien::cuda_library
