// What the CUDA kernels share: launches, element types, strided indices, sums over a block.
//
// A kernel file holds device code and its entries, `extern const KernelEntry NAME_entry`, in namespace mien::cuda. Host code in it allocates nothing and waits
// for nothing: it puts work into stream(args).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <type_traits>

#include "mien/kernels/cuda/table.h"
#include "mien/kernels/cuda/workspace.h"
#include "mien/kernels/params.h"

namespace mien::cuda {

#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE

inline cudaStream_t stream(const KernelArgs& args) noexcept { return static_cast<cudaStream_t>(args.stream); }

// DeviceError with CUDA's words. After an error that stays (illegal address, lost device) every later call throws the same one.
void check(cudaError_t status, const char* what);
// After a launch: whether it could be started at all.
inline void check_launch(const char* what) { check(cudaPeekAtLastError(), what); }

// Threads of a block for elementwise kernels, and blocks for `count` elements where each thread walks on by the whole grid.
inline constexpr int block_threads = 256;
inline unsigned blocks_for(std::int64_t count, int threads = block_threads, std::int64_t most = 132 * 16) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((count + threads - 1) / threads, 1, most));
}

// --- element types ---------------------------------------------------------------------------------------------------------
using bf16 = __nv_bfloat16;
using f16 = __half;
template <class T>
inline constexpr bool is_half = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;
template <class T>
inline constexpr bool is_float = std::is_floating_point_v<T> || is_half<T>;
// What a value of T is computed in: f32 for the 16-bit types, T itself for the others.
template <class T>
using Compute = std::conditional_t<is_half<T>, float, T>;
template <class T>
__host__ __device__ __forceinline__ Compute<T> load(const T& v) {
  if constexpr (std::is_same_v<T, bf16>) return __bfloat162float(v);
  else if constexpr (std::is_same_v<T, f16>) return __half2float(v);
  else return v;
}
template <class T>
__host__ __device__ __forceinline__ T store(Compute<T> v) {  // rounds to nearest even
  if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16_rn(v);
  else if constexpr (std::is_same_v<T, f16>) return __float2half_rn(v);
  else return v;
}

template <class T>
struct Type {
  using type = T;
};
// Calls f(Type<T>{}) for f32, f64, bf16 and f16; DTypeError naming `op` otherwise.
template <class F>
decltype(auto) dispatch_floats(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::f32: return f(Type<float>{});
    case DType::f64: return f(Type<double>{});
    case DType::bf16: return f(Type<bf16>{});
    case DType::f16: return f(Type<f16>{});
    default: throw DTypeError(op, std::string("expects a floating type, got ") + name(dtype), "Cast with mien::cast(x, DType::f32).");
  }
}
// The same for every dtype.
template <class F>
decltype(auto) dispatch_every(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(Type<float>{});
    case DType::f64: return f(Type<double>{});
    case DType::bf16: return f(Type<bf16>{});
    case DType::f16: return f(Type<f16>{});
    case DType::i32: return f(Type<std::int32_t>{});
    case DType::i64: return f(Type<std::int64_t>{});
    case DType::u8: return f(Type<std::uint8_t>{});
    case DType::boolean: break;
  }
  return f(Type<bool>{});
}

// Sizes and offsets up to this go through 32-bit indices, larger ones through 64 bits or another way. The tests on an emulated GPU lower it, so that tensors
// that fit a test go there.
#ifdef MIEN_CUDA_EMULATED
inline const std::int64_t index_limit = [] {
  const char* set = std::getenv("MIEN_EMULATED_INDEX_LIMIT");
  return set ? std::atoll(set) : std::numeric_limits<std::int32_t>::max() / 2;
}();
#else
inline constexpr std::int64_t index_limit = std::numeric_limits<std::int32_t>::max() / 2;
#endif

// --- strided indices -------------------------------------------------------------------------------------------------------
// A flat logical index to the offsets of N operands of one shape. Neighbouring dimensions that every operand steps through evenly are joined, so contiguous
// operands cost no division. Passed to kernels by value, as a __grid_constant__: a plain parameter that a loop indexes is first copied to every thread's local
// memory. I: std::int32_t where the shape and all offsets fit, else std::int64_t.
template <int N, class I>
struct Walk {
  int rank = 0;
  I size[max_rank];
  I step[N][max_rank];
  __device__ __forceinline__ void offsets(I index, I (&out)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) out[k] = 0;
    for (int d = rank - 1; d > 0; --d) {
      const I next = index / size[d], at = index - next * size[d];
      index = next;
#pragma unroll
      for (int k = 0; k < N; ++k) out[k] += at * step[k][d];
    }
    if (rank > 0) {
#pragma unroll
      for (int k = 0; k < N; ++k) out[k] += index * step[k][0];
    }
  }
};

template <int N>
bool fits_int32(const Shape& shape, const std::array<Strides, N>& strides) {
  std::int64_t count = 1;
  for (const auto s : shape) count *= s;
  if (count > index_limit) return false;
  for (const auto& st : strides) {
    std::int64_t reach = 0;
    for (int d = 0; d < shape.rank(); ++d) reach += (shape[d] - 1) * (st[d] < 0 ? -st[d] : st[d]);
    if (reach > index_limit) return false;
  }
  return true;
}

template <int N, class I>
Walk<N, I> make_walk(const Shape& shape, const std::array<Strides, N>& strides) {
  Walk<N, I> w{};
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    bool even = w.rank > 0;
    for (int k = 0; k < N && even; ++k) even = static_cast<std::int64_t>(w.step[k][w.rank - 1]) == strides[static_cast<std::size_t>(k)][d] * shape[d];
    if (!even) ++w.rank;
    w.size[w.rank - 1] = static_cast<I>(even ? static_cast<std::int64_t>(w.size[w.rank - 1]) * shape[d] : shape[d]);
    for (int k = 0; k < N; ++k) w.step[k][w.rank - 1] = static_cast<I>(strides[static_cast<std::size_t>(k)][d]);
  }
  return w;
}

// A shape, or strides, without one dimension.
inline Shape without(const Shape& s, int dim) {
  Shape out;
  for (int d = 0; d < s.rank(); ++d)
    if (d != dim) out.push_back(s[d]);
  return out;
}

template <int N, class I, class F>
__global__ void __launch_bounds__(block_threads) walk_kernel(const __grid_constant__ Walk<N, I> walk, I count, F f) {
  for (I i = static_cast<I>(blockIdx.x) * block_threads + static_cast<I>(threadIdx.x); i < count; i += static_cast<I>(gridDim.x) * block_threads) {
    I o[N];
    walk.offsets(i, o);
    f(o);
  }
}

// Calls f(o) on the device for every index of `shape`; o[k] is the offset in elements of operand k. `f` is a functor of plain data with a __device__ operator()
// that is a template over the index type (or a generic lambda marked __device__). The order is not defined.
template <int N, class F>
void for_each(const KernelArgs& args, const char* what, const Shape& shape, const std::array<Strides, N>& strides, const F& f) {
  std::int64_t count = 1;
  for (const auto s : shape) count *= s;
  if (count == 0) return;
  // Elements in memory order of the last operand (the output) are neighbours in a warp: walk dimensions from its largest stride to its smallest.
  Shape sorted = shape;
  std::array<Strides, N> st = strides;
  for (int a = 1; a < sorted.rank(); ++a)
    for (int b = a; b > 0; --b) {
      const auto size_of = [&](int d) { const auto s = st[N - 1][d]; return s < 0 ? -s : s; };
      if (size_of(b - 1) >= size_of(b)) break;
      std::swap(sorted[b - 1], sorted[b]);
      for (auto& one : st) std::swap(one[b - 1], one[b]);
    }
  if (fits_int32<N>(sorted, st)) {
    walk_kernel<N, std::int32_t>
        <<<blocks_for(count), block_threads, 0, stream(args)>>>(make_walk<N, std::int32_t>(sorted, st), static_cast<std::int32_t>(count), f);
  } else {
    walk_kernel<N, std::int64_t><<<blocks_for(count), block_threads, 0, stream(args)>>>(make_walk<N, std::int64_t>(sorted, st), count, f);
  }
  check_launch(what);
}

// x(n, c, h, w) of a rank-4 view on the device, whatever its strides.
template <class T>
struct Image {
  Image() = default;
  explicit Image(const View& v)
      : data(v.ptr<T>()), n(v.size(0)), c(v.size(1)), h(v.size(2)), w(v.size(3)), sn(v.stride(0)), sc(v.stride(1)), sh(v.stride(2)), sw(v.stride(3)) {}
  __device__ __forceinline__ T& operator()(std::int64_t in, std::int64_t ic, std::int64_t ih, std::int64_t iw) const {
    return data[in * sn + ic * sc + ih * sh + iw * sw];
  }
  T* data = nullptr;
  std::int64_t n = 0, c = 0, h = 0, w = 0, sn = 0, sc = 0, sh = 0, sw = 0;
};

// --- sums over threads: the same tree every time -----------------------------------------------------------------------------
template <class A, class F>
__device__ __forceinline__ A warp_reduce(A v, const F& f) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = f(v, __shfl_down_sync(0xffffffffu, v, step));
  return v;  // whole in lane 0
}
template <class A>
__device__ __forceinline__ A warp_sum(A v) {
  return warp_reduce(v, [](A a, A b) { return a + b; });
}
// Over a block of Threads (a multiple of 32); every thread takes part; the sum is whole in thread 0.
template <int Threads, class A>
__device__ __forceinline__ A block_sum(A v) {
  __shared__ A parts[Threads / 32];
  v = warp_sum(v);
  __syncthreads();  // before `parts` of an earlier call is overwritten
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) v = warp_sum(threadIdx.x < Threads / 32 ? parts[threadIdx.x] : A(0));
  return v;
}

}  // namespace mien::cuda
