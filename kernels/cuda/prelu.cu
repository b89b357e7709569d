// PReLU with one slope, or one per channel (dimension 1; dimension 0 of a rank-1 tensor).
//
// The slope's gradient is a sum over everything but the channel: blocks sum fixed pieces into the workspace [pieces, C] while they write gx, and a second
// kernel adds the pieces. How many there are depends on shapes alone.
#include "mien/kernels/cuda/channel_map.cuh"

namespace mien::cuda {
namespace {

int channel_dim(const View& x) { return x.rank() > 1 ? 1 : 0; }

// Strides of the slope as if it had x's shape: 0 everywhere but along the channels.
Strides slope_strides(const View& slope, const View& x) {
  Strides s = Shape::filled(x.rank(), 0);
  if (x.rank() > 0 && slope.numel() > 1) s[channel_dim(x)] = slope.stride(0);
  return s;
}

template <class A>
struct Prelu {
  __device__ __forceinline__ A operator()(A x, A slope) const { return x > A(0) ? x : slope * x; }
};

// V slopes of the channels from `channel` on.
template <class T, int V>
__device__ __forceinline__ void load_slopes(const T* a, std::int64_t step, std::int64_t channel, Compute<T> (&slopes)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) slopes[j] = load(a[(channel + j) * step]);
}

// x and y are dense and lie alike; `inner` neighbours share a channel. Either inner is 1 and V divides the channels, or V divides inner.
template <class T, int V>
__global__ void __launch_bounds__(block_threads)
    dense_prelu(const T* x, const T* a, T* y, unsigned packs, unsigned inner, unsigned channels, std::int64_t slope_step) {
  for (unsigned i = blockIdx.x * block_threads + threadIdx.x; i < packs; i += gridDim.x * block_threads) {
    const Pack<T, V> in = reinterpret_cast<const Pack<T, V>*>(x)[i];
    Compute<T> slopes[V];
    if (inner == 1) {
      load_slopes<T, V>(a, slope_step, i * V % channels, slopes);
    } else {
      const Compute<T> slope = load(a[static_cast<std::int64_t>(i * V / inner % channels) * slope_step]);
#pragma unroll
      for (int j = 0; j < V; ++j) slopes[j] = slope;
    }
    Pack<T, V> out;
#pragma unroll
    for (int j = 0; j < V; ++j) out.v[j] = store<T>(Prelu<Compute<T>>{}(load(in.v[j]), slopes[j]));
    reinterpret_cast<Pack<T, V>*>(y)[i] = out;
  }
}

template <class T>
bool prelu_dense(const KernelArgs& args) {
  const View &x = args.in[0], &a = args.in[1], &y = args.out[0];
  if (a.numel() == 1) return false;
  constexpr int vector = 16 / static_cast<int>(sizeof(T));
  Shape shape = y.shape;
  std::array<Strides, 2> strides{x.strides, y.strides};
  simplify<2>(shape, strides);
  if (shape.rank() != 1 || strides[0][0] != 1 || strides[1][0] != 1 || shape[0] > index_limit) return false;
  const std::int64_t channels = x.size(channel_dim(x)), inner = y.stride(channel_dim(x));
  if (inner == 1 ? channels % vector != 0 : inner % vector != 0) return false;
  if (!aligned<T, vector>(x.ptr<T>()) || !aligned<T, vector>(y.ptr<T>())) return false;
  const auto packs = static_cast<unsigned>(shape[0] / vector);
  dense_prelu<T, vector><<<blocks_for(packs), block_threads, 0, stream(args)>>>(x.ptr<T>(), a.ptr<T>(), y.ptr<T>(), packs, static_cast<unsigned>(inner),
                                                                               static_cast<unsigned>(channels), a.stride(0));
  check_launch("prelu");
  return true;
}

void run_prelu(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (y.numel() == 0) return;
  View slope = args.in[1];
  slope.strides = slope_strides(slope, x);
  slope.shape = x.shape;
  dispatch_floats(y.dtype, "prelu", [&](auto t) {
    using T = typename decltype(t)::type;
    if (!prelu_dense<T>(args)) map<T, T, T>(args, "prelu", Prelu<Compute<T>>{}, y, {x, slope});
  });
}

// --- backward --------------------------------------------------------------------------------------------------------------
template <class T>
struct Backward {
  const T *g, *x, *a;
  T* gx;
  std::int64_t slope_step;
};

// gx of one element, and what it adds to the slope's gradient.
template <class A>
__device__ __forceinline__ A one_back(A g, A x, A slope, A& sum) {
  if (x > A(0)) return g;
  sum += g * x;  // NaN too
  return slope * g;
}

// Rows of channels that lie side by side (channels_last, or rank 2). A block is blockDim.x packs of V channels wide (a power of two, 256 threads in all);
// blockIdx.y is the piece of `piece` rows.
template <class T, int V>
__global__ void __launch_bounds__(block_threads) backward_rows(Backward<T> p, std::int64_t g_step, std::int64_t x_step, std::int64_t gx_step, std::int64_t rows,
                                                               std::int64_t piece, std::int64_t channels, Compute<T>* partial) {
  using A = Compute<T>;
  __shared__ A parts[V * block_threads];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  A sums[V] = {};
  if (column < channels) {
    A slopes[V];
    load_slopes<T, V>(p.a, p.slope_step, column, slopes);
    const std::int64_t begin = blockIdx.y * piece, end = begin + piece < rows ? begin + piece : rows;
    for (std::int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
      const Pack<T, V> g = *reinterpret_cast<const Pack<T, V>*>(p.g + r * g_step + column), x = *reinterpret_cast<const Pack<T, V>*>(p.x + r * x_step + column);
      Pack<T, V> gx;
#pragma unroll
      for (int j = 0; j < V; ++j) gx.v[j] = store<T>(one_back(load(g.v[j]), load(x.v[j]), slopes[j], sums[j]));
      *reinterpret_cast<Pack<T, V>*>(p.gx + r * gx_step + column) = gx;
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) parts[j * block_threads + thread] = sums[j];
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half)
#pragma unroll
      for (int j = 0; j < V; ++j) parts[j * block_threads + thread] += parts[j * block_threads + thread + half * blockDim.x];
    __syncthreads();
  }
  if (threadIdx.y == 0 && column < channels)
#pragma unroll
    for (int j = 0; j < V; ++j) partial[blockIdx.y * channels + column + j] = parts[j * block_threads + thread];
}

// Any strides: a block is a piece of one channel, whose other dimensions `walk` goes through. Steps of a channel: of g, x and gx.
template <class T, class I>
__global__ void __launch_bounds__(block_threads) backward_walk(Backward<T> p, const __grid_constant__ Walk<3, I> walk, I count, I piece, unsigned pieces,
                                                               std::int64_t channels, std::int64_t g_step, std::int64_t x_step, std::int64_t gx_step, Compute<T>* partial) {
  using A = Compute<T>;
  const std::int64_t channel = blockIdx.x / pieces;
  const I at = static_cast<I>(blockIdx.x % pieces), begin = at * piece, end = count - begin < piece ? count : begin + piece;
  const A slope = load(p.a[channel * p.slope_step]);
  A sum = 0;
  for (I i = begin + static_cast<I>(threadIdx.x); i < end; i += block_threads) {
    I o[3];
    walk.offsets(i, o);
    p.gx[channel * gx_step + o[2]] = store<T>(one_back(load(p.g[channel * g_step + o[0]]), load(p.x[channel * x_step + o[1]]), slope, sum));
  }
  sum = block_sum<block_threads>(sum);
  if (threadIdx.x == 0) partial[at * channels + channel] = sum;
}

template <class T>
struct StoreSlope {
  T* ga;
  std::int64_t step;
  __device__ void operator()(std::int64_t c, const double (&sum)[1]) const { ga[c * step] = store<T>(static_cast<Compute<T>>(sum[0])); }
};

// How the sum is cut.
struct Plan {
  explicit Plan(const KernelArgs& args) {
    const View &g = args.in[0], &x = args.in[1], &a = args.in[2], &gx = args.out[0];
    const bool one = a.numel() == 1 || x.rank() == 0;
    channels = a.numel();
    shape = x.shape;
    strides = {g.strides, x.strides, gx.strides};
    if (!one) {
      const int dim = channel_dim(x);
      for (std::size_t k = 0; k < 3; ++k) step[k] = strides[k][dim];
      shape[dim] = 1;
    }
    for (const auto s : shape) count *= s;
    if (count == 0) shape = {};  // nothing to walk through; sums of nothing remain
    else simplify<3>(shape, strides);
    const std::int64_t bytes = item_size(x.dtype);
    rows = !one && channels > 1 && shape.rank() <= 1 && step[0] == 1 && step[1] == 1 && step[2] == 1 && count > 0;
    if (rows) {
      for (std::size_t k = 0; k < 3; ++k) row_step[k] = shape.rank() == 0 ? 0 : strides[k][0];
      vector = 16 / bytes;
      for (const auto s : row_step)
        if (s % vector != 0) vector = 1;
      for (const void* p : {g.data, x.data, gx.data})
        if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) vector = 1;
      if (channels % vector != 0) vector = 1;
      while (width < 32 && width * vector < channels) width *= 2;
      tiles = (channels + width * vector - 1) / (width * vector);
    }
    const std::int64_t least = rows ? block_threads / width * 8 : block_threads * 8;  // elements of a channel that are worth a block
    pieces = std::clamp<std::int64_t>((count + least - 1) / least, 1, std::max<std::int64_t>(1, 2048 / (rows ? tiles : std::max<std::int64_t>(channels, 1))));
    piece = (count + pieces - 1) / pieces;
    pieces = count == 0 ? 1 : (count + piece - 1) / piece;
  }
  Shape shape;  // without the channels
  std::array<Strides, 3> strides;
  std::array<std::int64_t, 3> step{}, row_step{};
  std::int64_t channels = 0, count = 1, vector = 1, width = 1, tiles = 1, pieces = 1, piece = 0;
  bool rows = false;
};

template <class T>
void prelu_backward(const KernelArgs& args, const Plan& plan) {
  const View &g = args.in[0], &x = args.in[1], &a = args.in[2], &gx = args.out[0], &ga = args.out[1];
  auto* partial = static_cast<Compute<T>*>(args.workspace);
  const Backward<T> p{g.ptr<T>(), x.ptr<T>(), a.ptr<T>(), gx.ptr<T>(), a.rank() > 0 ? a.stride(0) : 0};
  const auto pieces = static_cast<unsigned>(plan.pieces);
  if (plan.rows) {
    const dim3 grid(static_cast<unsigned>(plan.tiles), pieces), block(static_cast<unsigned>(plan.width), static_cast<unsigned>(block_threads / plan.width));
    const auto launch = [&](auto kernel) {
      kernel<<<grid, block, 0, stream(args)>>>(p, plan.row_step[0], plan.row_step[1], plan.row_step[2], plan.count, plan.piece, plan.channels, partial);
    };
    if (plan.vector > 1) launch(backward_rows<T, 16 / static_cast<int>(sizeof(T))>);
    else launch(backward_rows<T, 1>);
  } else {
    const auto blocks = static_cast<unsigned>(plan.channels * plan.pieces);
    const auto launch = [&](auto index) {
      using I = decltype(index);
      Walk<3, I> walk{};
      if (plan.count > 0) walk = make_walk<3, I>(plan.shape, plan.strides);
      backward_walk<T, I><<<blocks, block_threads, 0, stream(args)>>>(p, walk, static_cast<I>(plan.count), static_cast<I>(plan.piece), pieces, plan.channels,
                                                                      plan.step[0], plan.step[1], plan.step[2], partial);
    };
    if (plan.count == 0 || fits_int32<3>(plan.shape, plan.strides)) launch(std::int32_t{});
    else launch(std::int64_t{});
  }
  check_launch("prelu_backward");
  finish_sums<1><<<static_cast<unsigned>((plan.channels + finish_side - 1) / finish_side), dim3(finish_side, finish_side), 0, stream(args)>>>(
      partial, plan.pieces, plan.channels, StoreSlope<T>{ga.ptr<T>(), ga.rank() > 0 ? ga.stride(0) : 0});
  check_launch("prelu_backward");
}

void run_prelu_backward(const KernelArgs& args) {
  const Plan plan(args);
  if (plan.channels == 0) return;
  dispatch_floats(args.out[0].dtype, "prelu_backward", [&](auto t) { prelu_backward<typename decltype(t)::type>(args, plan); });
}
std::int64_t backward_bytes(const KernelArgs& args) {
  const Plan plan(args);
  return plan.channels * plan.pieces * static_cast<std::int64_t>(args.out[0].dtype == DType::f64 ? sizeof(double) : sizeof(float));
}

}  // namespace

const KernelEntry prelu_entry = {run_prelu};
const KernelEntry prelu_backward_entry = {run_prelu_backward, nullptr, backward_bytes};

}  // namespace mien::cuda
