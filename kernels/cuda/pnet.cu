// P-Net over the scales of a picture: from u8 pixels to the cells that reach the threshold. A launch a stage for all scales together: scaling; first
// convolution with its pooling; second; third with the heads; then the cells above the threshold are gathered in their order (counted, summed up, written: no
// atomics). Every thread makes all channels of one pixel in registers; the weights lie in shared memory.
#include "mien/kernels/cuda/common.cuh"
#include "mien/kernels/pnet_params.h"

namespace mien::cuda {
namespace {

// The maps of all scales one behind the other, pixels of all channels side by side.
struct Scales {
  int count;
  std::int32_t h[max_pnet_scales], w[max_pnet_scales];
  // First pixel of each scale in the four maps, and the totals at the end.
  std::int32_t picture[max_pnet_scales + 1], pooled[max_pnet_scales + 1], second[max_pnet_scales + 1], cells[max_pnet_scales + 1];
};
Scales make_scales(const PnetPyramidParams& p) {
  Scales s{};
  s.count = p.scales;
  for (int i = 0; i < p.scales; ++i) {
    const std::int32_t h = p.size[static_cast<std::size_t>(i)][0], w = p.size[static_cast<std::size_t>(i)][1], ph = (h - 1) / 2, pw = (w - 1) / 2;
    s.h[i] = h, s.w[i] = w;
    s.picture[i + 1] = s.picture[i] + h * w;
    s.pooled[i + 1] = s.pooled[i] + ph * pw;
    s.second[i + 1] = s.second[i] + (ph - 2) * (pw - 2);
    s.cells[i + 1] = s.cells[i] + (ph - 4) * (pw - 4);
  }
  return s;
}
__device__ __forceinline__ int scale_of(const std::int32_t* first, int count, std::int32_t i) {
  int s = 0;
  while (s + 1 < count && i >= first[s + 1]) ++s;
  return s;
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    resize_kernel(const __grid_constant__ Scales s, const std::uint8_t* x, std::int64_t sc, std::int64_t sh, std::int64_t sw, int H, int W, T* picture) {
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * block_threads + threadIdx.x);
  if (i >= s.picture[s.count]) return;
  const int k = scale_of(s.picture, s.count, i), at = i - s.picture[k], oh = at / s.w[k], ow = at % s.w[k];
  const auto begin = [](std::int64_t o, std::int64_t in, std::int64_t out) { return static_cast<int>(o * in / out); };
  const auto end = [](std::int64_t o, std::int64_t in, std::int64_t out) { return static_cast<int>(((o + 1) * in + out - 1) / out); };
  const int top = begin(oh, H, s.h[k]), bottom = end(oh, H, s.h[k]), left = begin(ow, W, s.w[k]), right = end(ow, W, s.w[k]);
  std::int64_t sum[3] = {};
  for (int h = top; h < bottom; ++h)
    for (int w = left; w < right; ++w)
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += x[c * sc + h * sh + w * sw];
  const double area = static_cast<double>(bottom - top) * static_cast<double>(right - left);
#pragma unroll
  for (int c = 0; c < 3; ++c) picture[std::int64_t{3} * i + c] = static_cast<T>((static_cast<double>(sum[c]) / area - 127.5) / 128);
}

// A layer's parameters in shared memory: w[(i, j, c)][o], bias[o], slope[o].
template <class T, int CI, int CO, int K>
struct Layer {
  static constexpr int weights = K * K * CI * CO, values = weights + 2 * CO;
  const T *w, *bias, *slope;
  std::int64_t so, sc, si, sj, sb, ss;
  Layer(const View& weight, const View& b, const View* s)
      : w(weight.ptr<T>()), bias(b.ptr<T>()), slope(s ? s->ptr<T>() : nullptr), so(weight.stride(0)), sc(weight.stride(1)), si(weight.stride(2)),
        sj(weight.stride(3)), sb(b.stride(0)), ss(s ? s->stride(0) : 0) {}
  __device__ void fetch(T* to) const {
    for (int n = static_cast<int>(threadIdx.x); n < values; n += block_threads) {
      if (n < weights) {
        const int o = n % CO, c = n / CO % CI, j = n / CO / CI % K, i = n / CO / CI / K;
        to[n] = w[o * so + c * sc + i * si + j * sj];
      } else if (n < weights + CO) {
        to[n] = bias[(n - weights) * sb];
      } else {
        to[n] = slope ? slope[(n - weights - CO) * ss] : T(1);
      }
    }
  }
  // The outputs of the pixel whose window begins at `x`, rows of the map `pitch` values apart.
  __device__ static void apply(const T* parameters, const T* x, int pitch, bool active, T (&y)[CO]) {
#pragma unroll
    for (int o = 0; o < CO; ++o) y[o] = parameters[weights + o];
    for (int i = 0; i < K; ++i)
      for (int jc = 0; jc < K * CI; ++jc) {
        const T v = x[i * pitch + jc];
        const T* row = parameters + (i * K * CI + jc) * CO;
#pragma unroll
        for (int o = 0; o < CO; ++o) y[o] += row[o] * v;
      }
    if (!active) return;
#pragma unroll
    for (int o = 0; o < CO; ++o) y[o] = y[o] > T(0) ? y[o] : y[o] * parameters[weights + CO + o];
  }
};

template <class T>
__global__ void __launch_bounds__(block_threads) first_kernel(const __grid_constant__ Scales s, Layer<T, 3, 10, 3> layer, const T* picture, T* pooled) {
  __shared__ T parameters[Layer<T, 3, 10, 3>::values];
  layer.fetch(parameters);
  __syncthreads();
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * block_threads + threadIdx.x);
  if (i >= s.pooled[s.count]) return;
  const int k = scale_of(s.pooled, s.count, i), at = i - s.pooled[k], pw = (s.w[k] - 1) / 2, h = at / pw * 2, w = at % pw * 2, pitch = 3 * s.w[k];
  const T* x = picture + std::int64_t{3} * s.picture[k];
  T best[10];
  bool any = false;
  for (int a = 0; a < 2 && h + a < s.h[k] - 2; ++a)
    for (int b = 0; b < 2 && w + b < s.w[k] - 2; ++b) {
      T y[10];
      layer.apply(parameters, x + static_cast<std::int64_t>(h + a) * pitch + 3 * (w + b), pitch, true, y);
#pragma unroll
      for (int o = 0; o < 10; ++o) best[o] = !any || best[o] < y[o] ? y[o] : best[o];
      any = true;
    }
#pragma unroll
  for (int o = 0; o < 10; ++o) pooled[std::int64_t{10} * i + o] = best[o];
}

template <class T>
__global__ void __launch_bounds__(block_threads) second_kernel(const __grid_constant__ Scales s, Layer<T, 10, 16, 3> layer, const T* pooled, T* second) {
  __shared__ T parameters[Layer<T, 10, 16, 3>::values];
  layer.fetch(parameters);
  __syncthreads();
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * block_threads + threadIdx.x);
  if (i >= s.second[s.count]) return;
  const int k = scale_of(s.second, s.count, i), at = i - s.second[k], pw = (s.w[k] - 1) / 2, h = at / (pw - 2), w = at % (pw - 2), pitch = 10 * pw;
  T y[16];
  layer.apply(parameters, pooled + std::int64_t{10} * s.pooled[k] + static_cast<std::int64_t>(h) * pitch + 10 * w, pitch, true, y);
#pragma unroll
  for (int o = 0; o < 16; ++o) second[std::int64_t{16} * i + o] = y[o];
}

// The third convolution and both heads: probability and four offsets of every cell.
template <class T>
__global__ void __launch_bounds__(block_threads)
    third_kernel(const __grid_constant__ Scales s, Layer<T, 16, 32, 3> layer, Layer<T, 32, 2, 1> face, Layer<T, 32, 4, 1> box, const T* second, T* cells) {
  __shared__ T parameters[Layer<T, 16, 32, 3>::values];
  __shared__ T face_parameters[Layer<T, 32, 2, 1>::values];
  __shared__ T box_parameters[Layer<T, 32, 4, 1>::values];
  layer.fetch(parameters);
  face.fetch(face_parameters);
  box.fetch(box_parameters);
  __syncthreads();
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * block_threads + threadIdx.x);
  if (i >= s.cells[s.count]) return;
  const int k = scale_of(s.cells, s.count, i), at = i - s.cells[k], pw = (s.w[k] - 1) / 2, h = at / (pw - 4), w = at % (pw - 4), pitch = 16 * (pw - 2);
  T y[32], f[2], b[4];
  layer.apply(parameters, second + std::int64_t{16} * s.second[k] + static_cast<std::int64_t>(h) * pitch + 16 * w, pitch, true, y);
#pragma unroll
  for (int o = 0; o < 2; ++o) f[o] = face_parameters[Layer<T, 32, 2, 1>::weights + o];
#pragma unroll
  for (int o = 0; o < 4; ++o) b[o] = box_parameters[Layer<T, 32, 4, 1>::weights + o];
#pragma unroll
  for (int c = 0; c < 32; ++c) {
#pragma unroll
    for (int o = 0; o < 2; ++o) f[o] += face_parameters[2 * c + o] * y[c];
#pragma unroll
    for (int o = 0; o < 4; ++o) b[o] += box_parameters[4 * c + o] * y[c];
  }
  const T top = f[0] > f[1] ? f[0] : f[1], e0 = exp(f[0] - top), e1 = exp(f[1] - top);
  T* to = cells + std::int64_t{5} * i;
  to[0] = e1 / (e0 + e1);
#pragma unroll
  for (int o = 0; o < 4; ++o) to[o + 1] = b[o];
}

// --- gathering ---------------------------------------------------------------------------------------------------------------
constexpr int gather_block = 1024;
// Exclusive sums of 0 and 1 over a block of 1024 threads, and the total.
__device__ int block_ranks(bool mine, int& total) {
  __shared__ int warps[32];
  const unsigned votes = __ballot_sync(0xffffffffu, mine), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();
  if (lane == 0) warps[warp] = __popc(votes);
  __syncthreads();
  int before = 0;
  total = 0;
  for (unsigned k = 0; k < 32; ++k) {
    before += k < warp ? warps[k] : 0;
    total += warps[k];
  }
  return before + __popc(votes & ((1u << lane) - 1));
}
template <class T>
__global__ void __launch_bounds__(gather_block) count_kernel(std::int32_t cells, const T* values, T threshold, std::int32_t* counts) {
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * gather_block + threadIdx.x);
  int total;
  block_ranks(i < cells && values[std::int64_t{5} * i] >= threshold, total);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}
// Counts become where each block's cells begin.
__global__ void __launch_bounds__(gather_block) starts_kernel(std::int32_t blocks, std::int32_t* counts) {
  __shared__ std::int32_t sums[gather_block];
  std::int32_t before = 0;
  for (std::int32_t first = 0; first < blocks; first += gather_block) {
    const std::int32_t i = first + static_cast<std::int32_t>(threadIdx.x), own = i < blocks ? counts[i] : 0;
    __syncthreads();
    sums[threadIdx.x] = own;
    for (int step = 1; step < gather_block; step *= 2) {
      __syncthreads();
      const std::int32_t left = static_cast<int>(threadIdx.x) >= step ? sums[threadIdx.x - static_cast<unsigned>(step)] : 0;
      __syncthreads();
      sums[threadIdx.x] += left;
    }
    __syncthreads();
    if (i < blocks) counts[i] = before + sums[threadIdx.x] - own;
    before += sums[gather_block - 1];
  }
}
template <class T>
__global__ void __launch_bounds__(gather_block)
    write_kernel(const __grid_constant__ Scales s, const T* values, T threshold, const std::int32_t* starts, std::int64_t* cells, std::int64_t cell_step,
                 T* out, std::int64_t row_step, std::int64_t column_step) {
  const std::int32_t i = static_cast<std::int32_t>(blockIdx.x * gather_block + threadIdx.x), count = s.cells[s.count];
  const bool mine = i < count && values[std::int64_t{5} * i] >= threshold;
  int total;
  const int rank = block_ranks(mine, total);
  if (!mine) return;
  const std::int64_t row = starts[blockIdx.x] + rank;
  cells[row * cell_step] = i - s.cells[scale_of(s.cells, s.count, i)];
  for (int k = 0; k < 5; ++k) out[row * row_step + k * column_step] = values[std::int64_t{5} * i + k];
}
// A block a scale.
template <class T>
__global__ void __launch_bounds__(256)
    scale_counts_kernel(const __grid_constant__ Scales s, const T* values, T threshold, std::int64_t* counts, std::int64_t step) {
  __shared__ int sums[256];
  int own = 0;
  for (std::int32_t i = s.cells[blockIdx.x] + static_cast<std::int32_t>(threadIdx.x); i < s.cells[blockIdx.x + 1]; i += 256)
    own += values[std::int64_t{5} * i] >= threshold;
  sums[threadIdx.x] = own;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + static_cast<unsigned>(half)];
  }
  if (threadIdx.x == 0) counts[blockIdx.x * step] = sums[0];
}

template <class T>
struct Maps {
  T *picture, *pooled, *second, *cells;
  std::int32_t* starts;
  std::int64_t bytes;
};
template <class T>
Maps<T> maps_of(const Scales& s, void* workspace) {
  Workspace work(workspace);
  Maps<T> m{};
  m.picture = work.take<T>(std::int64_t{3} * s.picture[s.count]);
  m.pooled = work.take<T>(std::int64_t{10} * s.pooled[s.count]);
  m.second = work.take<T>(std::int64_t{16} * s.second[s.count]);
  m.cells = work.take<T>(std::int64_t{5} * s.cells[s.count]);
  m.starts = work.take<std::int32_t>((s.cells[s.count] + gather_block - 1) / gather_block);
  m.bytes = work.bytes();
  return m;
}

template <class T>
void candidates(const KernelArgs& args) {
  const Scales s = make_scales(args.get<PnetPyramidParams>());
  const Maps<T> m = maps_of<T>(s, args.workspace);
  const auto in = args.in.subspan(2);
  const View &image = args.in[0], &cells = args.out[0], &values = args.out[1], &counts = args.out[2];
  const T threshold = static_cast<T>(args.get<PnetPyramidParams>().threshold);
  const auto blocks = [](std::int32_t count, int threads) { return static_cast<unsigned>((count + threads - 1) / threads); };
  const cudaStream_t queue = stream(args);
  resize_kernel<T><<<blocks(s.picture[s.count], block_threads), block_threads, 0, queue>>>(s, image.ptr<std::uint8_t>(), image.stride(0), image.stride(1),
                                                                                           image.stride(2), static_cast<int>(image.size(1)),
                                                                                           static_cast<int>(image.size(2)), m.picture);
  first_kernel<T><<<blocks(s.pooled[s.count], block_threads), block_threads, 0, queue>>>(s, {in[0], in[1], &in[2]}, m.picture, m.pooled);
  second_kernel<T><<<blocks(s.second[s.count], block_threads), block_threads, 0, queue>>>(s, {in[3], in[4], &in[5]}, m.pooled, m.second);
  third_kernel<T><<<blocks(s.cells[s.count], block_threads), block_threads, 0, queue>>>(s, {in[6], in[7], &in[8]}, {in[9], in[10], nullptr},
                                                                                        {in[11], in[12], nullptr}, m.second, m.cells);
  const unsigned gathers = blocks(s.cells[s.count], gather_block);
  count_kernel<T><<<gathers, gather_block, 0, queue>>>(s.cells[s.count], m.cells, threshold, m.starts);
  starts_kernel<<<1, gather_block, 0, queue>>>(static_cast<std::int32_t>(gathers), m.starts);
  write_kernel<T><<<gathers, gather_block, 0, queue>>>(s, m.cells, threshold, m.starts, cells.ptr<std::int64_t>(), cells.stride(0), values.ptr<T>(),
                                                       values.stride(0), values.stride(1));
  scale_counts_kernel<T><<<static_cast<unsigned>(s.count), 256, 0, queue>>>(s, m.cells, threshold, counts.ptr<std::int64_t>(), counts.stride(0));
  check_launch("pnet_candidates");
}
void run(const KernelArgs& args) {
  if (args.get<PnetPyramidParams>().scales == 0) return;
  if (args.out[1].dtype == DType::f64) candidates<double>(args);
  else candidates<float>(args);
}
// The sizes lie on the device as well; the host knows them from the parameters.
const char* decline(const KernelArgs& args) {
  const auto& p = args.get<PnetPyramidParams>();
  if (args.in[1].size(0) != p.scales) return "more scales than the parameters hold";
  if (args.out[1].dtype != DType::f32 && args.out[1].dtype != DType::f64) return "16-bit maps";
  std::int64_t pixels = 0;
  for (int i = 0; i < p.scales; ++i) pixels += std::int64_t{p.size[static_cast<std::size_t>(i)][0]} * p.size[static_cast<std::size_t>(i)][1];
  return pixels > max_pnet_pixels ? "more than 2^30 pixels" : nullptr;
}
std::int64_t workspace(const KernelArgs& args) {
  const Scales s = make_scales(args.get<PnetPyramidParams>());
  return args.out[1].dtype == DType::f64 ? maps_of<double>(s, nullptr).bytes : maps_of<float>(s, nullptr).bytes;
}

}  // namespace

const KernelEntry pnet_candidates_entry = {run, decline, workspace};

}  // namespace mien::cuda
