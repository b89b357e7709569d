// Depthwise convolution: forward, gradient of the input, gradient of the weight. Neighbouring threads have neighbouring channels in channels_last maps and
// neighbouring columns in others, so that a warp reads whole lines. All three are bound by memory: every thread works straight from the maps.
#include "mien/kernels/cuda/conv_depthwise.h"
#include "mien/kernels/cuda/gemm_tile.cuh"

namespace mien::cuda {
namespace {

struct Window {
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  Window(const ConvParams& p, const View& w)
      : kernel_h(static_cast<int>(w.size(2))),
        kernel_w(static_cast<int>(w.size(3))),
        stride_h(static_cast<int>(p.stride[0])),
        stride_w(static_cast<int>(p.stride[1])),
        pad_h(static_cast<int>(p.padding[0])),
        pad_w(static_cast<int>(p.padding[2])),
        dilation_h(static_cast<int>(p.dilation[0])),
        dilation_w(static_cast<int>(p.dilation[1])) {}
};

// A flat index over (n, h, strip, c) or (n, c, h, strip).
struct Order {
  bool channels_last, small;
  std::int64_t channels, height, strips, batch;
  Divider by_channels, by_height, by_strips;
  Order(const View& v, int strip)
      : channels_last(channels_inner(v)),
        channels(v.size(1)),
        height(v.size(2)),
        strips((v.size(3) + strip - 1) / strip),
        batch(v.size(0)),
        by_channels(channels),
        by_height(height),
        by_strips(strips) {
    small = count() <= index_limit;
  }
  std::int64_t count() const { return batch * channels * height * strips; }
  __device__ __forceinline__ void split(std::int64_t index, std::int64_t& n, std::int64_t& c, int& h, int& strip) const {
    const auto take = [&](std::int64_t size, const Divider& divide) {
      const std::int64_t next = small ? static_cast<std::int64_t>(divide(static_cast<std::uint32_t>(index))) : index / size;
      const std::int64_t at = index - next * size;
      index = next;
      return at;
    };
    if (channels_last) {
      c = take(channels, by_channels);
      strip = static_cast<int>(take(strips, by_strips));
      h = static_cast<int>(take(height, by_height));
    } else {
      strip = static_cast<int>(take(strips, by_strips));
      h = static_cast<int>(take(height, by_height));
      c = take(channels, by_channels);
    }
    n = index;
  }
};

inline constexpr int forward_strip = 4;  // outputs of a thread, side by side in a row: they share the weights and most inputs, which stay in registers

// K = 3, S = 1 or 2: 3x3 at a stride of S along the row, not dilated. K = S = 0: any.
template <class T, int K, int S>
__global__ void __launch_bounds__(block_threads) forward_kernel(const Image<const T> x, const Image<const T> w, const T* bias, std::int64_t bias_step,
                                                                const Image<T> y, const Window q, const Order order, std::int64_t count) {
  using C = Compute<T>;
  const int height = static_cast<int>(x.h), width = static_cast<int>(x.w);
  for (std::int64_t index = std::int64_t{blockIdx.x} * block_threads + threadIdx.x; index < count; index += std::int64_t{gridDim.x} * block_threads) {
    std::int64_t n, c;
    int oh, strip;
    order.split(index, n, c, oh, strip);
    const C start = bias ? load(bias[c * bias_step]) : C(0);
    const T* plane = x.data + n * x.sn + c * x.sc;
    const T* weight = w.data + c * w.sn;
    const int h0 = oh * q.stride_h - q.pad_h, ow0 = strip * forward_strip, w0 = ow0 * q.stride_w - q.pad_w;
    C sums[forward_strip] = {};
    if constexpr (K != 0) {
      constexpr int columns = (forward_strip - 1) * S + K;
      bool inside[columns];
#pragma unroll
      for (int j = 0; j < columns; ++j) inside[j] = static_cast<unsigned>(w0 + j) < static_cast<unsigned>(width);
#pragma unroll
      for (int i = 0; i < K; ++i) {
        if (static_cast<unsigned>(h0 + i) >= static_cast<unsigned>(height)) continue;
        const T* at = plane + (h0 + i) * x.sh + w0 * x.sw;
        C in[columns], taps[K];
#pragma unroll
        for (int j = 0; j < columns; ++j, at += x.sw) in[j] = inside[j] ? load(*at) : C(0);
#pragma unroll
        for (int j = 0; j < K; ++j) taps[j] = load(weight[i * w.sh + j * w.sw]);
#pragma unroll
        for (int s = 0; s < forward_strip; ++s)
#pragma unroll
          for (int j = 0; j < K; ++j)
            if (inside[s * S + j]) sums[s] += in[s * S + j] * taps[j];  // a weight that is not finite meets no zero of the edge
      }
    } else {
      for (int s = 0; s < forward_strip; ++s)
        for (int i = 0; i < q.kernel_h; ++i) {
          const int h = h0 + i * q.dilation_h;
          if (h < 0 || h >= height) continue;
          for (int j = 0; j < q.kernel_w; ++j) {
            const int v = w0 + s * q.stride_w + j * q.dilation_w;
            if (v >= 0 && v < width) sums[s] += load(plane[h * x.sh + v * x.sw]) * load(weight[i * w.sh + j * w.sw]);
          }
        }
    }
    T* to = y.data + n * y.sn + c * y.sc + oh * y.sh + ow0 * y.sw;
#pragma unroll
    for (int s = 0; s < forward_strip; ++s, to += y.sw)
      if (ow0 + s < static_cast<int>(y.w)) *to = store<T>(sums[s] + start);
  }
}

bool is_plain(const Window& q) { return q.kernel_h == 3 && q.kernel_w == 3 && q.dilation_h == 1 && q.dilation_w == 1; }

template <class T>
void launch_forward(const KernelArgs& args, const char* what, const View& x, const Image<const T>& w, const T* bias, std::int64_t bias_step, const View& y,
                    const Window& q) {
  const Order order(y, forward_strip);
  const auto kernel = !is_plain(q) || q.stride_w > 2 ? forward_kernel<T, 0, 0> : q.stride_w == 2 ? forward_kernel<T, 3, 2> : forward_kernel<T, 3, 1>;
  kernel<<<blocks_for(order.count()), block_threads, 0, stream(args)>>>(Image<const T>(x), w, bias, bias_step, Image<T>(y), q, order, order.count());
  check_launch(what);
}

__device__ __forceinline__ int up_to_zero(int a, int b) { return a <= 0 ? 0 : (a + b - 1) / b; }  // ceil(a / b), at least 0

// gx(h, w) meets the outputs oh with h + pad = oh * stride + i * dilation for a tap i. Each thread walks the few outputs in reach.
template <class T>
__global__ void __launch_bounds__(block_threads)
    grad_input_kernel(const Image<const T> gy, const Image<const T> w, const Image<T> gx, const Window q, const Order order, std::int64_t count) {
  using C = Compute<T>;
  for (std::int64_t index = std::int64_t{blockIdx.x} * block_threads + threadIdx.x; index < count; index += std::int64_t{gridDim.x} * block_threads) {
    std::int64_t n, c;
    int h, v;
    order.split(index, n, c, h, v);
    const T* plane = gy.data + n * gy.sn + c * gy.sc;
    const T* weight = w.data + c * w.sn;
    const int above = h + q.pad_h, left = v + q.pad_w;
    const int oh0 = up_to_zero(above - (q.kernel_h - 1) * q.dilation_h, q.stride_h), oh1 = min(static_cast<int>(gy.h) - 1, above / q.stride_h);
    const int ow0 = up_to_zero(left - (q.kernel_w - 1) * q.dilation_w, q.stride_w), ow1 = min(static_cast<int>(gy.w) - 1, left / q.stride_w);
    C sum = 0;
    for (int oh = oh0; oh <= oh1; ++oh) {
      int i = above - oh * q.stride_h;
      if (q.dilation_h != 1) {
        if (i % q.dilation_h) continue;
        i /= q.dilation_h;
      }
      for (int ow = ow0; ow <= ow1; ++ow) {
        int j = left - ow * q.stride_w;
        if (q.dilation_w != 1) {
          if (j % q.dilation_w) continue;
          j /= q.dilation_w;
        }
        sum += load(plane[oh * gy.sh + ow * gy.sw]) * load(weight[i * w.sh + j * w.sw]);
      }
    }
    gx(n, c, h, v) = store<T>(sum);
  }
}

// --- gradient of the weight: pieces of the long sum over all pixels of gy, then their sum ------------------------------------------------

struct WeightPlan {
  bool channels_last;
  int taps_each;  // taps of a thread: 9, or 1
  std::int64_t taps, pixels, groups_of_taps, channel_blocks, pieces, chunk, channels;
  std::int64_t blocks() const { return pieces * channel_blocks * groups_of_taps; }
};
inline constexpr int lanes_c = 32, lanes_p = 8;

WeightPlan weight_plan(const KernelArgs& args) {
  const View &gy = args.in[0], &x = args.in[1], &gw = args.out[0];
  WeightPlan g;
  g.channels_last = channels_inner(x);
  g.taps = gw.size(2) * gw.size(3);
  g.taps_each = gw.size(2) == 3 && gw.size(3) == 3 ? 9 : 1;
  g.groups_of_taps = g.taps / g.taps_each;
  g.channels = gw.size(0);
  g.channel_blocks = g.channels_last ? (g.channels + lanes_c - 1) / lanes_c : g.channels;
  g.pixels = gy.size(0) * gy.size(2) * gy.size(3);
  const std::int64_t others = std::max<std::int64_t>(g.channel_blocks * g.groups_of_taps, 1);
  const std::int64_t pieces = std::max<std::int64_t>(1, std::min<std::int64_t>(2112 / others, g.pixels / 256));
  g.chunk = std::max<std::int64_t>((g.pixels + pieces - 1) / pieces, 1);
  g.pieces = std::max<std::int64_t>((g.pixels + g.chunk - 1) / g.chunk, 1);
  return g;
}

struct PixelIndex {
  Divider area, line;
  PixelIndex(const View& gy) : area(gy.size(2) * gy.size(3)), line(gy.size(3)) {}
  __device__ __forceinline__ void split(std::uint32_t k, std::uint32_t& n, int& oh, int& ow) const {
    n = area(k);
    const std::uint32_t pixel = k - n * area.divisor, row = line(pixel);
    oh = static_cast<int>(row);
    ow = static_cast<int>(pixel - row * line.divisor);
  }
};

// Adds one pixel of gy to the sums of the taps from `first` on.
template <class T, int Taps>
__device__ __forceinline__ void add_pixel(Compute<T> (&sums)[Taps], const Image<const T>& gy, const Image<const T>& x, const Window& q, const PixelIndex& index,
                                          std::uint32_t k, std::int64_t c, int first) {
  std::uint32_t n;
  int oh, ow;
  index.split(k, n, oh, ow);
  const Compute<T> g = load(gy(n, c, oh, ow));
  const T* plane = x.data + n * x.sn + c * x.sc;
  const int h0 = oh * q.stride_h - q.pad_h, w0 = ow * q.stride_w - q.pad_w;
#pragma unroll
  for (int t = 0; t < Taps; ++t) {
    const int i = Taps == 9 ? t / 3 : first / q.kernel_w, j = Taps == 9 ? t % 3 : first - first / q.kernel_w * q.kernel_w;
    const int h = h0 + i * q.dilation_h, v = w0 + j * q.dilation_w;
    if (h >= 0 && h < static_cast<int>(x.h) && v >= 0 && v < static_cast<int>(x.w)) sums[t] += g * load(plane[h * x.sh + v * x.sw]);
  }
}

// partial[piece][tap][channel]. A block has 32 channels and 8 pixels at a time.
template <class T, int Taps>
__global__ void __launch_bounds__(lanes_c* lanes_p)
    weight_channels_kernel(const Image<const T> gy, const Image<const T> x, const Window q, const PixelIndex index, const WeightPlan g, Compute<T>* partial) {
  using C = Compute<T>;
  __shared__ C parts[lanes_p][lanes_c];
  std::int64_t block = blockIdx.x;
  const std::int64_t channel_block = block % g.channel_blocks;
  block /= g.channel_blocks;
  const int group = static_cast<int>(block % g.groups_of_taps);
  const std::int64_t piece = block / g.groups_of_taps;
  const int lane = static_cast<int>(threadIdx.x) % lanes_c, row = static_cast<int>(threadIdx.x) / lanes_c;
  const std::int64_t c = channel_block * lanes_c + lane, end = min(g.pixels, (piece + 1) * g.chunk);
  C sums[Taps] = {};
  if (c < g.channels)
    for (std::int64_t k = piece * g.chunk + row; k < end; k += lanes_p)
      add_pixel<T, Taps>(sums, gy, x, q, index, static_cast<std::uint32_t>(k), c, group * Taps);
#pragma unroll
  for (int t = 0; t < Taps; ++t) {
    __syncthreads();  // the sums of the tap before have been read
    parts[row][lane] = sums[t];
    __syncthreads();
    if (row == 0 && c < g.channels) {
      C sum = parts[0][lane];
#pragma unroll
      for (int r = 1; r < lanes_p; ++r) sum += parts[r][lane];
      partial[(piece * g.taps + group * Taps + t) * g.channels + c] = sum;
    }
  }
}

// The same with a block for one channel: its threads have neighbouring pixels.
template <class T, int Taps>
__global__ void __launch_bounds__(block_threads)
    weight_pixels_kernel(const Image<const T> gy, const Image<const T> x, const Window q, const PixelIndex index, const WeightPlan g, Compute<T>* partial) {
  using C = Compute<T>;
  std::int64_t block = blockIdx.x;
  const int group = static_cast<int>(block % g.groups_of_taps);
  block /= g.groups_of_taps;
  const std::int64_t c = block % g.channels, piece = block / g.channels, end = min(g.pixels, (piece + 1) * g.chunk);
  C sums[Taps] = {};
  for (std::int64_t k = piece * g.chunk + threadIdx.x; k < end; k += block_threads)
    add_pixel<T, Taps>(sums, gy, x, q, index, static_cast<std::uint32_t>(k), c, group * Taps);
#pragma unroll
  for (int t = 0; t < Taps; ++t) {
    const C sum = block_sum<block_threads>(sums[t]);
    if (threadIdx.x == 0) partial[(piece * g.taps + group * Taps + t) * g.channels + c] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(256) weight_pieces_kernel(const Compute<T>* partial, const Image<T> gw, const WeightPlan g) {
  const std::int64_t count = g.taps * g.channels, index = std::int64_t{blockIdx.x} * 32 + threadIdx.x % 32;
  const double sum = add_pieces(partial, g.pieces, count, index, index < count);
  if (threadIdx.x >= 32 || index >= count) return;
  const std::int64_t tap = index / g.channels, c = index - tap * g.channels;
  gw(c, 0, tap / gw.w, tap % gw.w) = store<T>(static_cast<Compute<T>>(sum));
}

template <class T, int Taps>
void launch_weight(const KernelArgs& args, const WeightPlan& g, Compute<T>* partial) {
  const Image<const T> gy(args.in[0]), x(args.in[1]);
  const Window q(args.get<ConvParams>(), args.out[0]);
  const PixelIndex index(args.in[0]);
  const auto blocks = static_cast<unsigned>(g.blocks());
  if (g.channels_last) weight_channels_kernel<T, Taps><<<blocks, lanes_c * lanes_p, 0, stream(args)>>>(gy, x, q, index, g, partial);
  else weight_pixels_kernel<T, Taps><<<blocks, block_threads, 0, stream(args)>>>(gy, x, q, index, g, partial);
  check_launch("conv2d_grad_weight");
}

}  // namespace

void depthwise_forward(const KernelArgs& args) {
  const View &x = args.in[0], &w = args.in[1], &y = args.out[0];
  if (y.numel() == 0) return;
  dispatch_floats(y.dtype, "conv2d", [&](auto type) {
    using T = typename decltype(type)::type;
    const bool has_bias = args.in.size() > 2;
    launch_forward<T>(args, "conv2d", x, Image<const T>(w), has_bias ? args.in[2].ptr<T>() : nullptr, has_bias ? args.in[2].stride(0) : 0, y,
                      Window(args.get<ConvParams>(), w));
  });
}

void depthwise_grad_input(const KernelArgs& args) {
  const View &gy = args.in[0], &w = args.in[1], &gx = args.out[0];
  if (gx.numel() == 0) return;
  dispatch_floats(gx.dtype, "conv2d_grad_input", [&](auto type) {
    using T = typename decltype(type)::type;
    Window q(args.get<ConvParams>(), w);
    if (is_plain(q) && q.stride_h == 1 && q.stride_w == 1) {  // the convolution of gy with the kernel turned round
      Image<const T> turned(w);
      turned.data += 2 * (turned.sh + turned.sw);
      turned.sh = -turned.sh;
      turned.sw = -turned.sw;
      q.pad_h = 2 - q.pad_h;
      q.pad_w = 2 - q.pad_w;
      return launch_forward<T>(args, "conv2d_grad_input", gy, turned, nullptr, 0, gx, q);
    }
    const Order order(gx, 1);
    grad_input_kernel<T><<<blocks_for(order.count()), block_threads, 0, stream(args)>>>(Image<const T>(gy), Image<const T>(w), Image<T>(gx), q, order,
                                                                                        order.count());
    check_launch("conv2d_grad_input");
  });
}

void depthwise_grad_weight(const KernelArgs& args) {
  const View& gw = args.out[0];
  if (gw.numel() == 0) return;
  dispatch_floats(gw.dtype, "conv2d_grad_weight", [&](auto type) {
    using T = typename decltype(type)::type;
    const WeightPlan g = weight_plan(args);
    auto* partial = static_cast<Compute<T>*>(args.workspace);
    if (g.taps_each == 9) launch_weight<T, 9>(args, g, partial);
    else launch_weight<T, 1>(args, g, partial);
    weight_pieces_kernel<T><<<static_cast<unsigned>((g.taps * g.channels + 31) / 32), 256, 0, stream(args)>>>(partial, Image<T>(gw), g);
    check_launch("conv2d_grad_weight");
  });
}

std::int64_t depthwise_grad_weight_workspace(const KernelArgs& args) {
  const WeightPlan g = weight_plan(args);
  return g.pieces * g.taps * g.channels * (args.out[0].dtype == DType::f64 ? 8 : 4);
}

}  // namespace mien::cuda
