// The end of a residual block: x + scale * h, rectified or not.
#include "mien/kernels/cuda/elementwise.cuh"

namespace mien::cuda {
namespace {

template <class A>
struct Residual {
  A scale;
  bool relu;
  __device__ __forceinline__ A operator()(A x, A h) const {
    const A v = x + scale * h;
    return relu && v <= A(0) ? A(0) : v;  // NaN stays
  }
};

void run(const KernelArgs& args) {
  const auto& p = args.get<ResidualParams>();
  dispatch_floats(args.out[0].dtype, "residual", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Compute<T>;
    map<T, T, T>(args, "residual", Residual<A>{static_cast<A>(p.scale), p.relu}, args.out[0], {args.in[0], args.in[1]});
  });
}

}  // namespace

const KernelEntry residual_entry = {run};

}  // namespace mien::cuda
