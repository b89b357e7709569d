// Convolution, bias, PReLU and max pooling, layer after layer, one picture at a time.
#include <utility>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

struct ChainSizes {
  std::int64_t c, h, w;
  std::int64_t numel() const { return c * h * w; }
};
ChainSizes convolved(const ChainSizes& x, const ChainLayer& l) { return {l.channels, x.h - l.kernel + 1, x.w - l.kernel + 1}; }
ChainSizes pooled(const ChainSizes& y, const ChainLayer& l) { return l.pool ? ChainSizes{y.c, pooled_side(y.h, l.pool), pooled_side(y.w, l.pool)} : y; }

template <class T>
T packed_weight(const View& packed, std::int64_t o, std::int64_t k) {
  return typed<T>(packed)[o / packed_columns * packed.stride(0) + k * packed.stride(1) + o % packed_columns * packed.stride(2)];
}

template <class T>
void convolve(const ChainLayer& l, const ChainSizes& xs, const T* x, const View& weight, const View& bias, const View* slope, const ChainSizes& ys, T* y) {
  for (std::int64_t o = 0; o < ys.c; ++o)
    for (std::int64_t oh = 0; oh < ys.h; ++oh)
      for (std::int64_t ow = 0; ow < ys.w; ++ow) {
        T sum = typed<T>(bias)[o * bias.stride(0)];
        for (std::int64_t i = 0; i < l.kernel; ++i)
          for (std::int64_t j = 0; j < l.kernel; ++j)
            for (std::int64_t c = 0; c < xs.c; ++c)
              sum += packed_weight<T>(weight, o, (i * l.kernel + j) * xs.c + c) * x[(c * xs.h + oh + i) * xs.w + ow + j];
        y[(o * ys.h + oh) * ys.w + ow] = slope && !(sum > 0) ? sum * typed<T>(*slope)[o * slope->stride(0)] : sum;
      }
}

template <class T>
void max_pool(std::int64_t pool, const ChainSizes& ys, const T* y, const ChainSizes& zs, T* z) {
  for (std::int64_t c = 0; c < zs.c; ++c)
    for (std::int64_t oh = 0; oh < zs.h; ++oh)
      for (std::int64_t ow = 0; ow < zs.w; ++ow) {
        T best = y[(c * ys.h + 2 * oh) * ys.w + 2 * ow];
        for (std::int64_t h = 2 * oh; h < std::min(2 * oh + pool, ys.h); ++h)
          for (std::int64_t w = 2 * ow; w < std::min(2 * ow + pool, ys.w); ++w) best = std::max(best, y[(c * ys.h + h) * ys.w + w]);
        z[(c * zs.h + oh) * zs.w + ow] = best;
      }
}

// The largest map of the chain.
std::int64_t largest(const KernelArgs& args) {
  const auto& p = args.get<ConvChainParams>();
  ChainSizes now{args.in[0].size(1), args.in[0].size(2), args.in[0].size(3)};
  std::int64_t most = now.numel();
  for (int i = 0; i < p.layers; ++i) {
    const ChainLayer& l = p.layer[static_cast<std::size_t>(i)];
    most = std::max(most, convolved(now, l).numel());
    now = pooled(convolved(now, l), l);
  }
  return most;
}

template <class T>
void conv_chain(const KernelArgs& args) {
  const auto& p = args.get<ConvChainParams>();
  const Image<T> x(args.in[0]), out(args.out[0]);
  T *a = static_cast<T*>(args.workspace), *b = a + largest(args);
  for (std::int64_t n = 0; n < x.n; ++n) {
    ChainSizes now{x.c, x.h, x.w};
    for (std::int64_t c = 0; c < x.c; ++c)
      for (std::int64_t h = 0; h < x.h; ++h)
        for (std::int64_t w = 0; w < x.w; ++w) a[(c * x.h + h) * x.w + w] = x(n, c, h, w);
    for (std::size_t i = 0, operand = 1; i < static_cast<std::size_t>(p.layers); ++i) {
      const ChainLayer& l = p.layer[i];
      const ChainSizes ys = convolved(now, l), zs = pooled(ys, l);
      convolve<T>(l, now, a, args.in[operand], args.in[operand + 1], l.prelu ? &args.in[operand + 2] : nullptr, ys, b);
      if (l.pool) max_pool<T>(l.pool, ys, b, zs, a);
      else std::swap(a, b);
      operand += l.prelu ? 3 : 2;
      now = zs;
    }
    for (std::int64_t c = 0; c < out.c; ++c)
      for (std::int64_t h = 0; h < out.h; ++h)
        for (std::int64_t w = 0; w < out.w; ++w) out(n, c, h, w) = a[(c * out.h + h) * out.w + w];
  }
}

void run_conv_chain(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "conv_chain", [&](auto t) { conv_chain<decltype(t)>(args); });
}
std::int64_t map_bytes(const KernelArgs& args) { return 2 * largest(args) * item_size(args.out[0].dtype); }

}  // namespace

const KernelEntry conv_chain_entry = {run_conv_chain, nullptr, map_bytes};

}  // namespace mien::ref
