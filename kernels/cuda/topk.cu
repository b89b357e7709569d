// A mask of the largest values among those that count. One block: the k-th largest key is found digit by digit, ties go to the lower index.
#include "mien/kernels/cuda/common.cuh"
#include "mien/kernels/cuda/convert.cuh"

namespace mien::cuda {
namespace {

constexpr int threads = 512;

// Larger values have larger keys; NaN has the largest: a broken loss stays visible instead of being mined away. -0 and 0 are equal.
__device__ std::uint64_t key_of(double v) {
  if (v != v) return ~std::uint64_t{0};
  if (v == 0) v = 0;
  const auto bits = static_cast<std::uint64_t>(__double_as_longlong(v));
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}

// Sum over the block, whole in every thread.
__device__ std::int64_t block_count(std::int64_t own, std::int64_t* shared) {
  __syncthreads();
  shared[threadIdx.x] = own;
  for (int step = threads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) shared[threadIdx.x] += shared[threadIdx.x + static_cast<unsigned>(step)];
  }
  __syncthreads();
  return shared[0];
}

template <class T>
__global__ void __launch_bounds__(threads)
    topk_kernel(std::int64_t n, const T* x, std::int64_t sx, const bool* valid, std::int64_t sv, T* mask, std::int64_t sm, double keep) {
  __shared__ std::int64_t shared[threads];
  __shared__ unsigned digits[256];
  __shared__ std::uint64_t prefix;
  __shared__ std::int64_t wanted;
  std::int64_t own = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += threads) own += valid[i * sv];
  const std::int64_t count = block_count(own, shared);
  if (threadIdx.x == 0) {
    prefix = 0;
    wanted = count == 0 ? 0 : min(max(convert<std::int64_t>(keep * static_cast<double>(count)), std::int64_t{1}), count);
  }
  __syncthreads();
  const std::int64_t k = wanted;
  // After each round `prefix` holds the leading digits of the k-th largest key, `wanted` how many of the keys with that prefix are taken.
  for (int shift = 56; k > 0 && shift >= 0; shift -= 8) {
    for (int d = static_cast<int>(threadIdx.x); d < 256; d += threads) digits[d] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < n; i += threads) {
      if (!valid[i * sv]) continue;
      const std::uint64_t key = key_of(static_cast<double>(load(x[i * sx])));
      if (shift == 56 || (key >> (shift + 8)) == (prefix >> (shift + 8)))
        atomicAdd(&digits[(key >> shift) & 255], 1u);  // counts of integers: the same in any order
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int d = 255;
      while (d > 0 && static_cast<std::int64_t>(digits[d]) < wanted) wanted -= digits[d--];
      prefix |= static_cast<std::uint64_t>(d) << shift;
    }
    __syncthreads();
  }
  // Keys above the threshold, and the first `wanted` equal to it: each thread takes a stretch, so that a prefix sum over threads numbers the equals.
  const std::int64_t each = (n + threads - 1) / threads, begin = min(n, each * static_cast<std::int64_t>(threadIdx.x)), end = min(n, begin + each);
  std::int64_t equals = 0;
  for (std::int64_t i = begin; i < end; ++i)
    if (valid[i * sv] && key_of(static_cast<double>(load(x[i * sx]))) == prefix) ++equals;
  __syncthreads();
  shared[threadIdx.x] = equals;
  __syncthreads();
  std::int64_t before = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) before += shared[t];
  for (std::int64_t i = begin; i < end; ++i) {
    bool taken = false;
    if (k > 0 && valid[i * sv]) {
      const std::uint64_t key = key_of(static_cast<double>(load(x[i * sx])));
      taken = key > prefix || (key == prefix && before++ < wanted);
    }
    mask[i * sm] = store<T>(taken ? Compute<T>(1) : Compute<T>(0));
  }
}

void run_topk_mask(const KernelArgs& args) {
  const View &x = args.in[0], &v = args.in[1], &m = args.out[0];
  if (x.size(0) == 0) return;
  dispatch_floats(m.dtype, "topk_mask", [&](auto t) {
    using T = typename decltype(t)::type;
    topk_kernel<T>
        <<<1, threads, 0, stream(args)>>>(x.size(0), x.ptr<T>(), x.stride(0), v.ptr<bool>(), v.stride(0), m.ptr<T>(), m.stride(0), args.get<TopkParams>().keep);
  });
  check_launch("topk_mask");
}

}  // namespace

const KernelEntry topk_mask_entry = {run_topk_mask};

}  // namespace mien::cuda
