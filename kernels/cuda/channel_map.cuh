// Maps [N, C, ...] with numbers of their own for each channel: elementwise kernels, and sums over a channel.
//
// Two layouts have fast paths: rows, where channels are neighbours (channels_last, its channel slices, rank 2), and planes, where the rest of a channel is
// (contiguous). Everything else goes through for_each and reduce_lines. How a sum is cut depends on shapes and strides alone.
#pragma once

#include "mien/kernels/cuda/elementwise.cuh"
#include "mien/kernels/cuda/lines.cuh"

namespace mien::cuda {

enum class ChannelOrder : std::uint8_t { rows, planes, any };
template <int N>
struct ChannelMap {
  ChannelOrder order = ChannelOrder::any;
  std::int64_t channels = 0, count = 1;  // count: elements of a channel
  std::int64_t plane = 1;                // planes: neighbours of one channel
  std::array<std::int64_t, N> step{};    // of a row, or of an image
  std::array<std::int64_t, N> channel_step{};
  bool vector = false;  // whether sizes and steps are whole packs
};
template <class T>
inline constexpr int channel_pack = sizeof(T) == 8 ? 2 : 4;

// Dimensions of `shape` for which `wanted(d)` says true as one dimension that every operand steps through evenly: false when there is no such.
template <int N, class W>
bool join(const Shape& shape, const std::array<Strides, N>& strides, const W& wanted, std::int64_t& size, std::array<std::int64_t, N>& step) {
  bool first = true;
  size = 1;
  step = {};
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1 || !wanted(d)) continue;
    for (std::size_t k = 0; k < N; ++k) {
      if (!first && step[k] != strides[k][d] * shape[d]) return false;
      step[k] = strides[k][d];
    }
    size *= shape[d];
    first = false;
  }
  return true;
}

template <int N>
ChannelMap<N> channel_map(const Shape& shape, const std::array<Strides, N>& strides, std::int64_t pack) {
  ChannelMap<N> m;
  m.channels = shape[1];
  for (int d = 0; d < shape.rank(); ++d)
    if (d != 1) m.count *= shape[d];
  if (m.channels == 0 || m.count == 0) return m;
  const auto all = [](const auto& values, auto&& test) { return std::all_of(values.begin(), values.end(), test); };
  const auto packs = [&](std::int64_t s) { return s % pack == 0; };
  for (std::size_t k = 0; k < N; ++k) m.channel_step[k] = m.channels > 1 ? strides[k][1] : 0;
  std::int64_t size = 1;
  if (m.channels > 1 && all(m.channel_step, [](std::int64_t s) { return s == 1; }) && join<N>(shape, strides, [](int d) { return d != 1; }, size, m.step)) {
    m.order = ChannelOrder::rows;
    m.vector = packs(m.channels) && all(m.step, packs);
    return m;
  }
  std::array<std::int64_t, N> inner;
  if (m.channels * m.count > index_limit || !join<N>(shape, strides, [](int d) { return d > 1; }, m.plane, inner)) return m;
  if (m.plane > 1 && !all(inner, [](std::int64_t s) { return s == 1; })) return m;
  for (std::size_t k = 0; k < N; ++k) m.step[k] = shape[0] > 1 ? strides[k][0] : 0;
  m.order = ChannelOrder::planes;
  m.vector = packs(m.plane) && all(m.step, packs) && all(m.channel_step, packs);
  return m;
}

// --- packs -------------------------------------------------------------------------------------------------------------------
template <class T, int N>
struct ChannelInputs {
  const T* data[N];
  std::int64_t step[N], channel_step[N];
};
template <int V, class T>
__device__ __forceinline__ void load_pack(const T* p, bool aligned, Compute<T> (&v)[V]) {
  if (aligned) {
    const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(p);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = load(pack.v[j]);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = load(p[j]);
  }
}
template <int V, class T>
__device__ __forceinline__ void store_pack(T* p, bool aligned, const Compute<T> (&v)[V]) {
  if (aligned) {
    Pack<T, V> pack;
#pragma unroll
    for (int j = 0; j < V; ++j) pack.v[j] = store<T>(v[j]);
    *reinterpret_cast<Pack<T, V>*>(p) = pack;
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) p[j] = store<T>(v[j]);
  }
}
// Element j of every operand's pack.
template <int V, int N, class C>
__device__ __forceinline__ void pick(const C (&v)[N][V], int j, C (&one)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) one[k] = v[k][j];
}

// Blocks over rows: blockDim.x packs of columns (a power of two up to 32) times blockDim.y rows, 256 threads in all.
struct RowBlocks {
  RowBlocks(std::int64_t channels, std::int64_t pack) {
    while (width < 32 && width * pack < channels) width *= 2;
    tiles = (channels + width * pack - 1) / (width * pack);
    height = block_threads / width;
  }
  std::int64_t width = 1, tiles = 1, height = 1;
  dim3 block() const { return {static_cast<unsigned>(width), static_cast<unsigned>(height)}; }
};
// Rows or packs that a thread has in flight.
inline constexpr int in_flight = 4;

// --- elementwise: y = f(f.prepare(c), {x0, x1, ...}) ---------------------------------------------------------------------------
// F: `Numbers prepare(c)`, what a channel needs, and `Compute<T> operator()(const Numbers&, const Compute<T> (&x)[N])`.
template <class T, int V, int N, class F>
__global__ void __launch_bounds__(block_threads)
    apply_rows(ChannelInputs<T, N> in, T* y, std::int64_t y_step, std::int64_t rows, std::int64_t channels, bool aligned, F f) {
  using C = Compute<T>;
  constexpr int flight = in_flight / N;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (column >= channels) return;
  typename F::Numbers numbers[V];
#pragma unroll
  for (int j = 0; j < V; ++j) numbers[j] = f.prepare(column + j);
  const std::int64_t next = static_cast<std::int64_t>(gridDim.y) * blockDim.y;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; r < rows; r += flight * next) {
    C v[flight][N][V];
#pragma unroll
    for (int u = 0; u < flight; ++u)
      if (r + u * next < rows)
#pragma unroll
        for (int k = 0; k < N; ++k) load_pack<V>(in.data[k] + (r + u * next) * in.step[k] + column, aligned, v[u][k]);
#pragma unroll
    for (int u = 0; u < flight; ++u)
      if (r + u * next < rows) {
        C out[V];
#pragma unroll
        for (int j = 0; j < V; ++j) {
          C one[N];
          pick<V, N>(v[u], j, one);
          out[j] = f(numbers[j], one);
        }
        store_pack<V>(y + (r + u * next) * y_step + column, aligned, out);
      }
  }
}
template <class T, int V, int N, class F>
__global__ void __launch_bounds__(block_threads) apply_planes(ChannelInputs<T, N> in, T* y, std::int64_t y_step, std::int64_t y_channel_step, unsigned packs,
                                                              unsigned plane_packs, unsigned channels, bool aligned, F f) {
  using C = Compute<T>;
  for (unsigned i = blockIdx.x * block_threads + threadIdx.x; i < packs; i += gridDim.x * block_threads) {
    const unsigned p = i / plane_packs, n = p / channels, c = p - n * channels;
    const std::int64_t at = static_cast<std::int64_t>(i - p * plane_packs) * V;
    C v[N][V], out[V];
#pragma unroll
    for (int k = 0; k < N; ++k) load_pack<V>(in.data[k] + n * in.step[k] + c * in.channel_step[k] + at, aligned, v[k]);
    const typename F::Numbers numbers = f.prepare(c);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      C one[N];
      pick<V, N>(v, j, one);
      out[j] = f(numbers, one);
    }
    store_pack<V>(y + n * y_step + c * y_channel_step + at, aligned, out);
  }
}
template <class T, int N, class F>
struct ApplyAny {
  const T* in[N];
  T* y;
  F f;
  template <class I>
  __device__ void operator()(const I (&o)[N + 2]) const {
    Compute<T> one[N];
#pragma unroll
    for (int k = 0; k < N; ++k) one[k] = load(in[k][o[k]]);
    y[o[N + 1]] = store<T>(f(f.prepare(o[N]), one));
  }
};

template <class T, int N, class F>
void apply_channels(const KernelArgs& args, const char* what, const std::array<View, N>& in, const View& y, const F& f) {
  if (y.numel() == 0) return;
  constexpr int pack = channel_pack<T>;
  std::array<Strides, N + 1> strides;
  ChannelInputs<T, N> inputs{};
  bool aligned = reinterpret_cast<std::uintptr_t>(y.data) % alignof(Pack<T, pack>) == 0;
  for (std::size_t k = 0; k < N; ++k) {
    strides[k] = in[k].strides;
    inputs.data[k] = in[k].template ptr<T>();
    aligned = aligned && reinterpret_cast<std::uintptr_t>(in[k].data) % alignof(Pack<T, pack>) == 0;
  }
  strides[N] = y.strides;
  const ChannelMap<N + 1> m = channel_map<N + 1>(y.shape, strides, pack);
  for (std::size_t k = 0; k < N; ++k) inputs.step[k] = m.step[k], inputs.channel_step[k] = m.channel_step[k];
  const auto with_pack = [&](auto width) {
    constexpr int V = decltype(width)::value;
    if (m.order == ChannelOrder::rows) {
      const RowBlocks b(m.channels, V);
      const std::int64_t needed = (m.count + b.height * in_flight - 1) / (b.height * in_flight);
      const dim3 grid(static_cast<unsigned>(b.tiles),
                      static_cast<unsigned>(std::clamp<std::int64_t>(needed, 1, std::max<std::int64_t>(1, 132 * 16 / b.tiles))));
      apply_rows<T, V, N><<<grid, b.block(), 0, stream(args)>>>(inputs, y.ptr<T>(), m.step[N], m.count, m.channels, aligned, f);
    } else {
      const std::int64_t packs = m.count * m.channels / V;
      apply_planes<T, V, N><<<blocks_for(packs), block_threads, 0, stream(args)>>>(inputs, y.ptr<T>(), m.step[N], m.channel_step[N],
                                                                                   static_cast<unsigned>(packs), static_cast<unsigned>(m.plane / V),
                                                                                   static_cast<unsigned>(m.channels), aligned, f);
    }
    check_launch(what);
  };
  if (m.order == ChannelOrder::any) {
    std::array<Strides, N + 2> all;
    ApplyAny<T, N, F> g{{}, y.ptr<T>(), f};
    for (std::size_t k = 0; k < N; ++k) all[k] = strides[k], g.in[k] = inputs.data[k];
    all[N] = Shape::filled(y.rank(), 0);
    all[N][1] = 1;
    all[N + 1] = y.strides;
    for_each<N + 2>(args, what, y.shape, all, g);
  } else if (m.vector) {
    with_pack(std::integral_constant<int, pack>{});
  } else {
    with_pack(std::integral_constant<int, 1>{});
  }
}

// --- sums over a channel -----------------------------------------------------------------------------------------------------
// F: `sums`, how many; `Part`, the type that a few terms are added in before they reach the f64 sums; `Numbers prepare(c)`; and
// `void operator()(const Numbers&, const Compute<T> (&x)[N], Part (&sum)[sums])`, which adds an element's terms.
template <class T, int V, int N, class F>
__global__ void __launch_bounds__(block_threads)
    sum_rows(ChannelInputs<T, N> in, std::int64_t rows, std::int64_t piece, std::int64_t channels, bool aligned, F f, double* partial) {
  using C = Compute<T>;
  constexpr int S = F::sums, flight = in_flight / N;
  __shared__ double parts[V * S][block_threads];
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  double sums[V][S] = {};
  if (column < channels) {
    typename F::Numbers numbers[V];
#pragma unroll
    for (int j = 0; j < V; ++j) numbers[j] = f.prepare(column + j);
    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * piece, end = begin + piece < rows ? begin + piece : rows;
    for (std::int64_t r = begin + threadIdx.y; r < end; r += flight * blockDim.y) {
      C v[flight][N][V];
#pragma unroll
      for (int u = 0; u < flight; ++u)
        if (r + u * blockDim.y < end)
#pragma unroll
          for (int k = 0; k < N; ++k) load_pack<V>(in.data[k] + (r + u * blockDim.y) * in.step[k] + column, aligned, v[u][k]);
      typename F::Part few[V][S] = {};
#pragma unroll
      for (int u = 0; u < flight; ++u)
        if (r + u * blockDim.y < end)
#pragma unroll
          for (int j = 0; j < V; ++j) {
            C one[N];
            pick<V, N>(v[u], j, one);
            f(numbers[j], one, few[j]);
          }
#pragma unroll
      for (int j = 0; j < V; ++j)
#pragma unroll
        for (int s = 0; s < S; ++s) sums[j][s] += static_cast<double>(few[j][s]);
    }
  }
#pragma unroll
  for (int q = 0; q < V * S; ++q) parts[q][thread] = sums[q / S][q % S];
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half)
#pragma unroll
      for (int q = 0; q < V * S; ++q) parts[q][thread] += parts[q][thread + half * blockDim.x];
    __syncthreads();
  }
  if (threadIdx.y == 0 && column < channels)
#pragma unroll
    for (int q = 0; q < V * S; ++q) partial[(static_cast<std::int64_t>(blockIdx.y) * S + q % S) * channels + column + q / S] = parts[q][thread];
}
// A block is a piece of one channel.
template <class T, int V, int N, class F>
__global__ void __launch_bounds__(block_threads) sum_planes(ChannelInputs<T, N> in, unsigned packs, unsigned plane_packs, unsigned piece, unsigned pieces,
                                                            std::int64_t channels, bool aligned, F f, double* partial) {
  using C = Compute<T>;
  constexpr int S = F::sums, flight = in_flight / N;
  const unsigned c = blockIdx.x / pieces, part = blockIdx.x - c * pieces, begin = part * piece, end = packs - begin < piece ? packs : begin + piece;
  const typename F::Numbers numbers = f.prepare(c);
  double sums[S] = {};
  for (unsigned i = begin + threadIdx.x; i < end; i += flight * block_threads) {
    C v[flight][N][V];
#pragma unroll
    for (int u = 0; u < flight; ++u)
      if (i + u * block_threads < end) {
        const unsigned n = (i + u * block_threads) / plane_packs;
        const std::int64_t at = static_cast<std::int64_t>(i + u * block_threads - n * plane_packs) * V;
#pragma unroll
        for (int k = 0; k < N; ++k) load_pack<V>(in.data[k] + n * in.step[k] + c * in.channel_step[k] + at, aligned, v[u][k]);
      }
    typename F::Part few[S] = {};
#pragma unroll
    for (int u = 0; u < flight; ++u)
      if (i + u * block_threads < end)
#pragma unroll
        for (int j = 0; j < V; ++j) {
          C one[N];
          pick<V, N>(v[u], j, one);
          f(numbers, one, few);
        }
#pragma unroll
    for (int s = 0; s < S; ++s) sums[s] += static_cast<double>(few[s]);
  }
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const double sum = block_sum<block_threads>(sums[s]);
    if (threadIdx.x == 0) partial[(static_cast<std::int64_t>(part) * S + s) * channels + c] = sum;
  }
}
// finish(c, sums) for every channel, from the pieces.
constexpr int finish_side = 32;
template <int S, class A, class G>
__global__ void __launch_bounds__(finish_side* finish_side) finish_sums(const A* partial, std::int64_t pieces, std::int64_t channels, G finish) {
  __shared__ double parts[S][finish_side][finish_side];
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * finish_side + threadIdx.x;
#pragma unroll
  for (int s = 0; s < S; ++s) {
    double sum = 0;
    if (c < channels)
      for (std::int64_t k = threadIdx.y; k < pieces; k += finish_side) sum += static_cast<double>(partial[(k * S + s) * channels + c]);
    parts[s][threadIdx.y][threadIdx.x] = sum;
  }
  __syncthreads();
  for (unsigned half = finish_side / 2; half > 0; half /= 2) {
    if (threadIdx.y < half)
#pragma unroll
      for (int s = 0; s < S; ++s) parts[s][threadIdx.y][threadIdx.x] += parts[s][threadIdx.y + half][threadIdx.x];
    __syncthreads();
  }
  if (threadIdx.y > 0 || c >= channels) return;
  double sums[S];
#pragma unroll
  for (int s = 0; s < S; ++s) sums[s] = parts[s][0][threadIdx.x];
  finish(c, sums);
}

template <class T, int N, class F>
struct LoadAny {
  const T* in[N];
  F f;
  __device__ Sums<F::sums> operator()(std::int64_t c, std::int64_t, const std::int64_t (&at)[N]) const {
    Compute<T> one[N];
#pragma unroll
    for (int k = 0; k < N; ++k) one[k] = load(in[k][at[k]]);
    typename F::Part terms[F::sums] = {};
    f(f.prepare(c), one, terms);
    Sums<F::sums> s;
#pragma unroll
    for (int i = 0; i < F::sums; ++i) s.v[i] = static_cast<double>(terms[i]);
    return s;
  }
};
template <int S, class G>
struct FinishAny {
  G finish;
  __device__ void operator()(std::int64_t c, const Sums<S>& s) const { finish(c, s.v); }
};

// How a sum over a channel is cut: `piece` rows (of packs, for planes) to each of `pieces` blocks.
struct ChannelCut {
  std::int64_t pieces = 1, piece = 1;
};
template <int N>
ChannelCut channel_cut(const ChannelMap<N>& m, std::int64_t pack) {
  const std::int64_t v = m.vector ? pack : 1;
  const bool rows = m.order == ChannelOrder::rows;
  const RowBlocks b(m.channels, v);
  const std::int64_t length = rows ? m.count : m.count / v, least = (rows ? b.height : block_threads) * in_flight * 2, lines = rows ? b.tiles : m.channels;
  ChannelCut cut;
  cut.pieces = std::clamp<std::int64_t>((length + least - 1) / least, 1, std::max<std::int64_t>(1, 1024 / lines));
  cut.piece = (length + cut.pieces - 1) / cut.pieces;
  cut.pieces = (length + cut.piece - 1) / cut.piece;
  return cut;
}
template <class T, int N>
ChannelMap<N> channel_map(const std::array<View, N>& in) {
  std::array<Strides, N> strides;
  for (std::size_t k = 0; k < N; ++k) strides[k] = in[k].strides;
  return channel_map<N>(in[0].shape, strides, channel_pack<T>);
}
template <int N>
Lines<N> channel_lines(const std::array<View, N>& in) {
  std::array<Strides, N> strides;
  for (std::size_t k = 0; k < N; ++k) strides[k] = in[k].strides;
  return channel_lines<N>(in[0].shape, strides);
}
template <class T, int S, int N>
std::int64_t sum_channels_workspace(const std::array<View, N>& in) {
  const ChannelMap<N> m = channel_map<T, N>(in);
  if (m.order == ChannelOrder::any) return lines_workspace<Sums<S>>(channel_lines<N>(in));
  return channel_cut(m, channel_pack<T>).pieces * S * m.channels * static_cast<std::int64_t>(sizeof(double));
}
// finish(c, const double (&sums)[S]) runs on the device for every channel. All operands have one shape.
template <class T, int N, class F, class G>
void sum_channels(const KernelArgs& args, const char* what, const std::array<View, N>& in, void* workspace, const F& f, const G& finish) {
  constexpr int pack = channel_pack<T>, S = F::sums;
  const ChannelMap<N> m = channel_map<T, N>(in);
  if (m.channels == 0) return;
  if (m.order == ChannelOrder::any) {
    LoadAny<T, N, F> load_any{{}, f};
    for (std::size_t k = 0; k < N; ++k) load_any.in[k] = in[k].template ptr<T>();
    reduce_lines<Sums<S>, N>(args, what, channel_lines<N>(in), workspace, load_any, AddSums<S>{}, FinishAny<S, G>{finish});
    return;
  }
  ChannelInputs<T, N> inputs{};
  bool aligned = true;
  for (std::size_t k = 0; k < N; ++k) {
    inputs.data[k] = in[k].template ptr<T>();
    inputs.step[k] = m.step[k];
    inputs.channel_step[k] = m.channel_step[k];
    aligned = aligned && reinterpret_cast<std::uintptr_t>(in[k].data) % alignof(Pack<T, pack>) == 0;
  }
  auto* partial = static_cast<double*>(workspace);
  const ChannelCut cut = channel_cut(m, pack);
  const auto with_pack = [&](auto width) {
    constexpr int V = decltype(width)::value;
    if (m.order == ChannelOrder::rows) {
      const RowBlocks b(m.channels, V);
      sum_rows<T, V, N><<<dim3(static_cast<unsigned>(b.tiles), static_cast<unsigned>(cut.pieces)), b.block(), 0, stream(args)>>>(
          inputs, m.count, cut.piece, m.channels, aligned, f, partial);
    } else {
      sum_planes<T, V, N><<<static_cast<unsigned>(m.channels * cut.pieces), block_threads, 0, stream(args)>>>(
          inputs, static_cast<unsigned>(m.count / V), static_cast<unsigned>(m.plane / V), static_cast<unsigned>(cut.piece), static_cast<unsigned>(cut.pieces),
          m.channels, aligned, f, partial);
    }
    check_launch(what);
  };
  if (m.vector) with_pack(std::integral_constant<int, pack>{});
  else with_pack(std::integral_constant<int, 1>{});
  finish_sums<S><<<static_cast<unsigned>((m.channels + finish_side - 1) / finish_side), dim3(finish_side, finish_side), 0, stream(args)>>>(partial, cut.pieces,
                                                                                                                                           m.channels, finish);
  check_launch(what);
}

}  // namespace mien::cuda
