// Elementwise kernels: map() for y = f(x0, x1, ...) with any strides. Operands that lie alike in memory (or are one value everywhere) go through
// vectors of up to 16 bytes; the others through for_each.
#pragma once

#include <utility>

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
  T v[V];
};
template <class T, int V>
bool aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % alignof(Pack<T, V>) == 0;
}

// Dimensions by falling stride of the last operand, those of size 1 dropped, neighbours that every operand steps through evenly made one.
// The shape must not be empty.
template <int N>
void simplify(Shape& shape, std::array<Strides, N>& strides) {
  int rank = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    shape[rank] = shape[d];
    for (auto& s : strides) s[rank] = s[d];
    ++rank;
  }
  const auto reach = [&](int d) { return strides[N - 1][d] < 0 ? -strides[N - 1][d] : strides[N - 1][d]; };
  for (int a = 1; a < rank; ++a)
    for (int b = a; b > 0 && reach(b - 1) < reach(b); --b) {
      std::swap(shape[b - 1], shape[b]);
      for (auto& s : strides) std::swap(s[b - 1], s[b]);
    }
  int last = -1;
  for (int d = 0; d < rank; ++d) {
    bool even = last >= 0;
    for (const auto& s : strides) even = even && s[last] == s[d] * shape[d];
    if (!even) ++last;
    shape[last] = even ? shape[last] * shape[d] : shape[d];
    for (auto& s : strides) s[last] = s[d];
  }
  shape.resize(last + 1);
  for (auto& s : strides) s.resize(last + 1);
}

// An operand of a flat walk: step 1, or 0 for one value that stands everywhere.
template <class X>
struct Flat {
  const X* data;
  std::int64_t step;
};
template <int V, class X>
__device__ __forceinline__ Pack<X, V> read(const Flat<X>& x, std::int64_t pack) {
  if (x.step) return reinterpret_cast<const Pack<X, V>*>(x.data)[pack];
  Pack<X, V> p;
  const X value = *x.data;
#pragma unroll
  for (int j = 0; j < V; ++j) p.v[j] = value;
  return p;
}

template <int V, class F, class Y, class... X>
__global__ void __launch_bounds__(block_threads) flat_kernel(F f, std::int64_t count, Y* y, Flat<X>... x) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x, packs = count / V;
  for (std::int64_t i = first; i < packs; i += static_cast<std::int64_t>(gridDim.x) * block_threads) {
    const auto whole = [&](const Pack<X, V>&... in) {
      Pack<Y, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) out.v[j] = store<Y>(f(load(in.v[j])...));
      reinterpret_cast<Pack<Y, V>*>(y)[i] = out;
    };
    whole(read<V>(x, i)...);
  }
  if (first < count % V) {  // V is below the size of a block
    const std::int64_t i = packs * V + first;
    y[i] = store<Y>(f(load(x.data[i * x.step])...));
  }
}

template <class F, class Y, class... X>
struct Strided {
  static constexpr int n = sizeof...(X);
  F f;
  Y* y;
  const void* x[n > 0 ? n : 1];
  template <class I>
  __device__ __forceinline__ void operator()(const I (&o)[n + 1]) const {
    at(o, std::make_index_sequence<n>{});
  }
  template <class I, std::size_t... K>
  __device__ __forceinline__ void at(const I (&o)[n + 1], std::index_sequence<K...>) const {
    y[o[n]] = store<Y>(f(load(static_cast<const X*>(x[K])[o[K]])...));
  }
};

// The flat walk if the operands allow it: false otherwise.
template <class Y, class... X, class F, std::size_t... K>
bool map_flat(const KernelArgs& args, const char* what, const F& f, const View& y, const std::array<View, sizeof...(X)>& x, std::index_sequence<K...>) {
  constexpr int n = sizeof...(X);
  Shape shape = y.shape;
  std::array<Strides, n + 1> strides;
  ((strides[K] = x[K].strides), ...);
  strides[n] = y.strides;
  simplify<n + 1>(shape, strides);
  if (shape.rank() > 1) return false;
  const auto step = [&](std::size_t k) { return shape.rank() == 0 ? std::int64_t{1} : strides[k][0]; };
  if (step(n) != 1) return false;
  if (!((step(K) == 0 || step(K) == 1) && ...)) return false;
  constexpr int widest = static_cast<int>(std::max({sizeof(Y), sizeof(X)...})), vector = 16 / widest;
  const std::int64_t count = shape.rank() == 0 ? 1 : shape[0];
  if (aligned<Y, vector>(y.ptr<Y>()) && ((step(K) == 0 || aligned<X, vector>(x[K].template ptr<X>())) && ...)) {
    flat_kernel<vector, F, Y, X...>
        <<<blocks_for((count + vector - 1) / vector), block_threads, 0, stream(args)>>>(f, count, y.ptr<Y>(), Flat<X>{x[K].template ptr<X>(), step(K)}...);
  } else {
    flat_kernel<1, F, Y, X...><<<blocks_for(count), block_threads, 0, stream(args)>>>(f, count, y.ptr<Y>(), Flat<X>{x[K].template ptr<X>(), step(K)}...);
  }
  check_launch(what);
  return true;
}
template <class Y, class... X, class F>
void map_strided(const KernelArgs& args, const char* what, const F& f, const View& y, const std::array<View, sizeof...(X)>& x) {
  constexpr std::size_t n = sizeof...(X);
  Strided<F, Y, X...> g{f, y.ptr<Y>(), {}};
  std::array<Strides, n + 1> strides;
  std::size_t k = 0;
  for (const View& v : x) {
    g.x[k] = v.data;
    strides[k++] = v.strides;
  }
  strides[n] = y.strides;
  for_each<static_cast<int>(n) + 1>(args, what, y.shape, strides, g);
}

// y = f(x...) for operands of y's shape. f takes and gives values as load() and store() have them: f32 for 16-bit types. Two functors that do the same may be
// given: `flat`, compiled for one case, and `any`, which looks at run time, for the strided walk that is compiled for two widths of indices.
template <class Y, class... X, class F, class G>
void map(const KernelArgs& args, const char* what, const F& flat, const G& any, const View& y, const std::array<View, sizeof...(X)>& x) {
  if (y.numel() == 0) return;
  if (!map_flat<Y, X...>(args, what, flat, y, x, std::index_sequence_for<X...>{})) map_strided<Y, X...>(args, what, any, y, x);
}
template <class Y, class... X, class F>
void map(const KernelArgs& args, const char* what, const F& f, const View& y, const std::array<View, sizeof...(X)>& x) {
  map<Y, X...>(args, what, f, f, y, x);
}

// Calls f(Type<T>{}) with an unsigned type (or uint4) of `bytes` bytes.
template <class F>
decltype(auto) dispatch_bytes(std::int64_t bytes, F&& f) {
  switch (bytes) {
    case 1: return f(Type<std::uint8_t>{});
    case 2: return f(Type<std::uint16_t>{});
    case 4: return f(Type<std::uint32_t>{});
    case 8: return f(Type<std::uint64_t>{});
    default: return f(Type<uint4>{});
  }
}

}  // namespace mien::cuda
