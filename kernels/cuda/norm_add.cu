// A batch norm whose moments are known, plus another map; its derivative.
#include "mien/kernels/cuda/norm.cuh"

namespace mien::cuda {
namespace {

template <class P>
struct NormAdd {
  using Numbers = NormNumbers<P>;
  Norm<P> norm;
  __device__ __forceinline__ Numbers prepare(std::int64_t c) const { return norm.prepare(c); }
  __device__ __forceinline__ P operator()(const Numbers& k, const P (&v)[2]) const { return k.before(v[0]) + v[1]; }
};

template <class T, class P>
void norm_add(const KernelArgs& args) {
  const Norm<P> norm = norm_of<P>(args.in.subspan(1, 4), false);
  if (args.in.size() > 5) apply_channels<T, 2>(args, "norm_add", {args.in[0], args.in[5]}, args.out[0], NormAdd<P>{norm});
  else apply_channels<T, 1>(args, "norm_add", {args.in[0]}, args.out[0], norm);
}

template <class P>
struct Scaled {
  using Numbers = P;
  Norm<P> norm;
  __device__ __forceinline__ P prepare(std::int64_t c) const { return norm.weight[c] * norm.invstd[c]; }
  __device__ __forceinline__ P operator()(P scale, const P (&g)[1]) const { return g[0] * scale; }
};
template <class T, class P>
void norm_add_backward(const KernelArgs& args) {
  const View &g = args.in[0], &x = args.in[1];
  const Norm<P> norm = norm_of<P>(args.in.subspan(2, 4), false);
  StoreNormGradients<P> to{norm, {}};
  for (std::size_t i = 0; i < 4; ++i) to.out[i] = ChannelValues<P>(args.out[1 + i]);
  sum_channels<T, 2>(args, "norm_add_backward", {g, x}, args.workspace, NormGradientSums<P>{norm}, to);
  apply_channels<T, 1>(args, "norm_add_backward", {g}, args.out[0], Scaled<P>{norm});
}
std::int64_t backward_workspace(const KernelArgs& args) {
  return norm_bytes(args.in[1].dtype, "norm_add_backward", [&](auto t) {
    return sum_channels_workspace<typename decltype(t)::type, 3, 2>({args.in[0], args.in[1]});
  });
}

}  // namespace

const KernelEntry norm_add_entry = {MIEN_NORM(args.in[0], "norm_add", norm_add)};
const KernelEntry norm_add_backward_entry = {MIEN_NORM(args.in[1], "norm_add_backward", norm_add_backward), nullptr, backward_workspace};

}  // namespace mien::cuda
