// Reductions over some dimensions of strided operands: for every kept index o the values of f(o, offsets) over all part indices, combined by a fixed tree.
// The tree depends on the shapes alone, so the same operands give the same bits on every GPU.
#pragma once

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

// The two halves of a shape: dimensions that stay and dimensions that go, for N operands. An index of the kept half and one of the part give an element's
// offsets.
template <int N>
struct Lines {
  Shape kept, part;
  std::array<Strides, N> kept_strides, part_strides;
  std::int64_t outputs() const { return count(kept); }
  std::int64_t length() const { return count(part); }
  static std::int64_t count(const Shape& s) {
    std::int64_t n = 1;
    for (const auto d : s) n *= d;
    return n;
  }
};
// Dimensions of which `reduced(d)` says true go.
template <int N, class R>
Lines<N> make_lines(const Shape& shape, const std::array<Strides, N>& strides, const R& reduced) {
  Lines<N> l;
  for (int d = 0; d < shape.rank(); ++d) {
    (reduced(d) ? l.part : l.kept).push_back(shape[d]);
    for (std::size_t k = 0; k < N; ++k) (reduced(d) ? l.part_strides[k] : l.kept_strides[k]).push_back(strides[k][d]);
  }
  return l;
}
template <int N>
Lines<N> channel_lines(const Shape& shape, const std::array<Strides, N>& strides) {
  return make_lines<N>(shape, strides, [](int d) { return d != 1; });
}

// How a reduction is cut: `pieces` of `chunk` part indices, a block for `wide` outputs with 256 / wide threads each.
struct LinesPlan {
  int wide = 1;
  std::int64_t pieces = 1, chunk = 1;
};
template <int N>
LinesPlan lines_plan(const Lines<N>& l) {
  LinesPlan p;
  const std::int64_t outputs = std::max<std::int64_t>(l.outputs(), 1), length = std::max<std::int64_t>(l.length(), 1);
  const auto least = [](const Shape& shape, const Strides& s) {
    std::int64_t v = std::numeric_limits<std::int64_t>::max();
    for (int d = 0; d < shape.rank(); ++d)
      if (shape[d] > 1 && s[d] != 0) v = std::min(v, s[d] < 0 ? -s[d] : s[d]);
    return v;
  };
  // Neighbouring threads read neighbours in memory: outputs side by side where those lie closer than the parts.
  const bool columns = outputs > 1 && least(l.kept, l.kept_strides[0]) <= least(l.part, l.part_strides[0]);
  if (length <= 16) p.wide = 256;
  else if (columns) p.wide = 32;
  const std::int64_t lanes = 256 / p.wide, blocks = (outputs + p.wide - 1) / p.wide;
  p.pieces = std::clamp<std::int64_t>(std::min(length / (lanes * 16), 1024 / blocks), 1, 256);
  p.chunk = (length + p.pieces - 1) / p.pieces;
  p.pieces = (length + p.chunk - 1) / p.chunk;
  return p;
}
template <class Acc, int N>
std::int64_t lines_workspace(const Lines<N>& l) {
  const LinesPlan p = lines_plan(l);
  return p.pieces > 1 ? (p.pieces * l.outputs() * static_cast<std::int64_t>(sizeof(Acc)) + 255) / 256 * 256 : 0;
}

// Combines the values of the threads with equal threadIdx.x % wide; whole in the first `wide` threads.
template <class Acc, class C>
__device__ __forceinline__ Acc combine_lanes(Acc own, int wide, Acc* shared, const C& combine) {
  shared[threadIdx.x] = own;
  for (int step = 128; step >= wide; step /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + static_cast<unsigned>(step)]);
  }
  __syncthreads();
  return shared[threadIdx.x];
}

template <class Acc, int N, class F, class C, class G>
__global__ void __launch_bounds__(256) lines_kernel(const __grid_constant__ Walk<N, std::int64_t> kept, const __grid_constant__ Walk<N, std::int64_t> part,
                                                    std::int64_t outputs, std::int64_t length, LinesPlan plan, F f, C combine, G finish, Acc* partial) {
  __shared__ __align__(16) unsigned char raw[256 * sizeof(Acc)];
  Acc* shared = reinterpret_cast<Acc*>(raw);
  const int lane = static_cast<int>(threadIdx.x) / plan.wide, lanes = 256 / plan.wide;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * plan.wide + static_cast<int>(threadIdx.x) % plan.wide;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * plan.chunk, end = begin + plan.chunk < length ? begin + plan.chunk : length;
  Acc sum = combine.identity();
  if (o < outputs) {
    std::int64_t base[N];
    kept.offsets(o, base);
    for (std::int64_t i = begin + lane; i < end; i += lanes) {
      std::int64_t at[N];
      part.offsets(i, at);
#pragma unroll
      for (int k = 0; k < N; ++k) at[k] += base[k];
      sum = combine(sum, f(o, i, at));
    }
  }
  sum = combine_lanes(sum, plan.wide, shared, combine);
  if (static_cast<int>(threadIdx.x) < plan.wide && o < outputs) {
    if (plan.pieces == 1) finish(o, sum);
    else partial[static_cast<std::int64_t>(blockIdx.y) * outputs + o] = sum;
  }
}
template <class Acc, class C, class G>
__global__ void __launch_bounds__(256) finish_lines_kernel(std::int64_t outputs, std::int64_t pieces, const Acc* partial, C combine, G finish) {
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (o >= outputs) return;
  Acc sum = combine.identity();
  for (std::int64_t p = 0; p < pieces; ++p) sum = combine(sum, partial[p * outputs + o]);
  finish(o, sum);
}

// f(o, i, offsets) -> Acc, combine(Acc, Acc) with identity(), finish(o, Acc) writes. `workspace`: lines_workspace<Acc>(l) bytes.
template <class Acc, int N, class F, class C, class G>
void reduce_lines(const KernelArgs& args, const char* what, const Lines<N>& l, void* workspace, const F& f, const C& combine, const G& finish) {
  const std::int64_t outputs = l.outputs(), length = l.length();
  if (outputs == 0) return;
  const LinesPlan plan = lines_plan(l);
  const dim3 grid(static_cast<unsigned>((outputs + plan.wide - 1) / plan.wide), static_cast<unsigned>(plan.pieces));
  lines_kernel<Acc, N><<<grid, 256, 0, stream(args)>>>(make_walk<N, std::int64_t>(l.kept, l.kept_strides), make_walk<N, std::int64_t>(l.part, l.part_strides),
                                                       outputs, length, plan, f, combine, finish, static_cast<Acc*>(workspace));
  check_launch(what);
  if (plan.pieces == 1) return;
  finish_lines_kernel<<<static_cast<unsigned>((outputs + 255) / 256), 256, 0, stream(args)>>>(outputs, plan.pieces, static_cast<const Acc*>(workspace), combine,
                                                                                              finish);
  check_launch(what);
}

// K sums at once.
template <int K, class A = double>
struct Sums {
  A v[K];
};
template <int K, class A = double>
struct AddSums {
  __device__ __forceinline__ Sums<K, A> identity() const { return {}; }
  __device__ __forceinline__ Sums<K, A> operator()(const Sums<K, A>& a, const Sums<K, A>& b) const {
    Sums<K, A> s;
#pragma unroll
    for (int k = 0; k < K; ++k) s.v[k] = a.v[k] + b.v[k];
    return s;
  }
};

}  // namespace mien::cuda
