// Greedy non-maximum suppression on the device. Each box gets its place by falling score (a count of the better ones); a bit matrix says which better box would
// drop which; one block then walks the boxes in order. Overlaps are formed in the steps of the reference, without contraction, so that decisions are its own.
#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {
namespace {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};
// Products and sums each rounded by themselves.
__device__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ double times(double a, double b) { return __dmul_rn(a, b); }
__device__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ double plus(double a, double b) { return __dadd_rn(a, b); }
__device__ float over(float a, float b) { return __fdiv_rn(a, b); }
__device__ double over(double a, double b) { return __ddiv_rn(a, b); }
// As std::max and std::min, whose first argument stays where neither is larger.
template <class T>
__device__ T larger(T a, T b) {
  return a < b ? b : a;
}
template <class T>
__device__ T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__device__ T area(const Box<T>& b, T offset) {
  return times(plus(plus(b.x2, -b.x1), offset), plus(plus(b.y2, -b.y1), offset));
}
template <class T>
__device__ T overlap(const Box<T>& a, const Box<T>& b, T offset, bool by_smaller) {
  const T w = larger(T(0), plus(plus(smaller(a.x2, b.x2), -larger(a.x1, b.x1)), offset));
  const T h = larger(T(0), plus(plus(smaller(a.y2, b.y2), -larger(a.y1, b.y1)), offset));
  const T common = times(w, h), area_a = area(a, offset), area_b = area(b, offset);
  return over(common, by_smaller ? smaller(area_a, area_b) : plus(plus(area_a, area_b), -common));
}

// Box i goes to place `rank`: how many come before it. NaN scores come last; of equals the lower index first.
template <class T>
__global__ void __launch_bounds__(block_threads) rank_kernel(std::int64_t n, const T* boxes, std::int64_t sb, std::int64_t sc, const T* scores, std::int64_t ss,
                                                             std::int64_t* order, Box<Compute<T>>* sorted) {
  using C = Compute<T>;
  __shared__ C tile[block_threads];
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  const C own = i < n ? load(scores[i * ss]) : C(0);
  std::int64_t rank = 0;
  for (std::int64_t first = 0; first < n; first += block_threads) {
    __syncthreads();
    if (first + threadIdx.x < n) tile[threadIdx.x] = load(scores[(first + threadIdx.x) * ss]);
    __syncthreads();
    const std::int64_t count = min(static_cast<std::int64_t>(block_threads), n - first);
    for (std::int64_t k = 0; k < count; ++k) {
      const C other = tile[k];
      const std::int64_t j = first + k;
      const bool before = (other != other) != (own != own) ? own != own : other > own || (!(own > other) && j < i);
      rank += before;
    }
  }
  if (i >= n) return;
  order[rank] = i;
  const T* b = boxes + i * sb;
  sorted[rank] = {load(b[0]), load(b[sc]), load(b[2 * sc]), load(b[3 * sc])};
}

// Word w of row i: which of the boxes 64 w .. 64 w + 63 that come after i drop out when i stays.
template <class C>
__global__ void __launch_bounds__(64)
    mask_kernel(std::int64_t n, std::int64_t words, const Box<C>* sorted, double threshold, C offset, bool by_smaller, std::uint64_t* mask) {
  __shared__ Box<C> tile[64];
  const std::int64_t blocks = words, row = static_cast<std::int64_t>(blockIdx.x) / blocks * 64 + threadIdx.x,
                     word = static_cast<std::int64_t>(blockIdx.x) % blocks;
  const std::int64_t column = word * 64 + threadIdx.x;
  if (column < n) tile[threadIdx.x] = sorted[column];
  __syncthreads();
  if (row >= n) return;
  std::uint64_t bits = 0;
  if (word * 64 + 63 > row) {
    const Box<C> own = sorted[row];
    for (int k = 0; k < 64 && word * 64 + k < n; ++k)
      if (word * 64 + k > row && static_cast<double>(overlap(own, tile[k], offset, by_smaller)) > threshold) bits |= std::uint64_t{1} << k;
  }
  mask[row * words + word] = bits;
}

__global__ void __launch_bounds__(block_threads) sweep_kernel(std::int64_t n, std::int64_t words, const std::uint64_t* mask, std::uint64_t* gone,
                                                              const std::int64_t* order, std::int64_t* kept, std::int64_t sk, std::int64_t* count) {
  __shared__ std::int64_t found;
  __shared__ bool stays;
  for (std::int64_t w = threadIdx.x; w < words; w += block_threads) gone[w] = 0;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  for (std::int64_t i = 0; i < n; ++i) {
    if (threadIdx.x == 0) {
      stays = !(gone[i / 64] >> (i % 64) & 1);
      if (stays) kept[found++ * sk] = order[i];
    }
    __syncthreads();
    if (stays)
      for (std::int64_t w = i / 64 + threadIdx.x; w < words; w += block_threads) gone[w] |= mask[i * words + w];
    __syncthreads();
  }
  for (std::int64_t i = found + threadIdx.x; i < n; i += block_threads) kept[i * sk] = -1;
  if (threadIdx.x == 0) *count = found;
}

struct Parts {
  std::int64_t words, bytes;
  std::int64_t* order;
  void* sorted;
  std::uint64_t *mask, *gone;
};
Parts parts_of(const KernelArgs& args, void* workspace) {
  Workspace work(workspace);
  Parts p{};
  const std::int64_t n = args.in[1].size(0);
  p.words = (n + 63) / 64;
  p.order = work.take<std::int64_t>(n);
  p.sorted = work.take(n * static_cast<std::int64_t>(sizeof(Box<double>)));
  p.mask = work.take<std::uint64_t>(n * p.words);
  p.gone = work.take<std::uint64_t>(p.words);
  p.bytes = work.bytes();
  return p;
}

void run_nms(const KernelArgs& args) {
  const auto& q = args.get<NmsParams>();
  const View &b = args.in[0], &s = args.in[1], &kept = args.out[0];
  auto* count = args.out[1].ptr<std::int64_t>();
  const std::int64_t n = s.size(0);
  if (n == 0) {
    check(cudaMemsetAsync(count, 0, sizeof *count, stream(args)), "nms");
    return;
  }
  const Parts p = parts_of(args, args.workspace);
  dispatch_floats(b.dtype, "nms", [&](auto t) {
    using T = typename decltype(t)::type;
    using C = Compute<T>;
    auto* sorted = static_cast<Box<C>*>(p.sorted);
    rank_kernel<T><<<static_cast<unsigned>((n + block_threads - 1) / block_threads), block_threads, 0, stream(args)>>>(
        n, b.ptr<T>(), b.stride(0), b.stride(1), s.ptr<T>(), s.stride(0), p.order, sorted);
    mask_kernel<C><<<static_cast<unsigned>(p.words * p.words), 64, 0, stream(args)>>>(n, p.words, sorted, q.threshold, static_cast<C>(q.offset),
                                                                                      q.mode == NmsMode::min, p.mask);
  });
  sweep_kernel<<<1, block_threads, 0, stream(args)>>>(n, p.words, p.mask, p.gone, p.order, kept.ptr<std::int64_t>(), kept.stride(0), count);
  check_launch("nms");
}
std::int64_t workspace(const KernelArgs& args) { return parts_of(args, nullptr).bytes; }

}  // namespace

const KernelEntry nms_entry = {run_nms, nullptr, workspace};

}  // namespace mien::cuda
