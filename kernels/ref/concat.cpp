// Tensors laid one after the other along a dimension.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

void run_concat(const KernelArgs& args) {
  const int dim = args.get<DimParams>().dim;
  const View& vy = args.out[0];
  dispatch_size(vy.dtype, [&](auto t) {
    using T = decltype(t);
    std::int64_t start = 0;
    for (const View& vx : args.in) {
      internal_check(vx.dtype == vy.dtype, "concat: dtypes differ");
      const T* x = vx.ptr<T>();
      T* y = vy.ptr<T>() + start * vy.stride(dim);
      iterate<2>(vx.shape, {vx.strides, vy.strides}, [&](const Offsets<2>& o) { y[o[1]] = x[o[0]]; });
      start += vx.size(dim);
    }
  });
}

}  // namespace

const KernelEntry concat_entry = {run_concat, nullptr, nullptr, true};

}  // namespace mien::ref
