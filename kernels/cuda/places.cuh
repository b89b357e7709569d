// A thread an element of a map.
#pragma once

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

// Element (n, c, h, w) of a map from a flat index whose neighbours are neighbours in `like`'s memory: channels first when those are closest.
struct Place {
  std::int64_t n, c, h, w;
};
struct ElementOrder {
  std::int64_t c, h, w;
  bool channels_fastest;
  template <class I>  // wide enough for i and the sizes
  __device__ Place operator()(I i) const {
    const I cs = static_cast<I>(c), hs = static_cast<I>(h), ws = static_cast<I>(w);
    Place p;
    if (channels_fastest) {
      p.c = i % cs, i /= cs;
      p.w = i % ws, i /= ws;
      p.h = i % hs, p.n = i / hs;
    } else {
      p.w = i % ws, i /= ws;
      p.h = i % hs, i /= hs;
      p.c = i % cs, p.n = i / cs;
    }
    return p;
  }
};
inline ElementOrder order_of(const View& v) {
  return {v.size(1), v.size(2), v.size(3), v.stride(1) != 0 && std::abs(v.stride(1)) < std::abs(v.stride(3)) && v.size(1) > 1};
}

template <class I, class F>
__global__ void __launch_bounds__(block_threads) place_kernel(ElementOrder order, I count, F f) {
  for (I i = static_cast<I>(blockIdx.x) * block_threads + threadIdx.x; i < count; i += static_cast<I>(gridDim.x) * block_threads) f(order(i));
}
template <class F>
void each_place(const KernelArgs& args, const char* what, const View& v, const F& f) {
  if (v.numel() == 0) return;
  // Divisions of 64 bits take several times as long.
  if (v.numel() <= index_limit)
    place_kernel<std::uint32_t><<<blocks_for(v.numel()), block_threads, 0, stream(args)>>>(order_of(v), static_cast<std::uint32_t>(v.numel()), f);
  else place_kernel<std::int64_t><<<blocks_for(v.numel()), block_threads, 0, stream(args)>>>(order_of(v), v.numel(), f);
  check_launch(what);
}

}  // namespace mien::cuda
