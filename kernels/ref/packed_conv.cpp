// Convolution with packed weights and everything that follows it in one op: see kernels/params.h.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/winograd.h"

namespace mien::ref {
namespace {

std::int64_t panels_of(std::int64_t outputs) { return (outputs + packed_columns - 1) / packed_columns; }

// Where w(o, tap, c) lies in the packed weights of one output; `panels` come before it.
std::int64_t packed_offset(const Shape& packed, std::int64_t channels, std::int64_t panels, std::int64_t o, std::int64_t tap, std::int64_t c) {
  const std::int64_t panel = panels + o / packed_columns, column = o % packed_columns;
  if (packed.rank() == 2) return tap * channels + o;
  if (packed.rank() == 3) return (panel * packed[1] + tap * channels + c) * packed_columns + column;
  return (((panel * packed[1] + tap) * packed[2] + c / packed_pairs) * packed_pairs / 2 + c % packed_pairs / 2) * packed_columns * 2 + column * 2 + c % 2;
}

std::int64_t winograd_offset(std::int64_t channels, std::int64_t panels, std::int64_t o, std::int64_t i, std::int64_t j, std::int64_t c) {
  return (((panels + o / packed_columns) * winograd::products + i * winograd::side + j) * channels + c) * packed_columns + o % packed_columns;
}
// G w G^T of every pair of channels.
template <class T>
void pack_winograd(const Image<T>& w, const View& out) {
  constexpr auto& g = winograd::weight;
  std::fill_n(typed<T>(out), out.numel(), T{});
  for (std::int64_t o = 0; o < w.n; ++o)
    for (std::int64_t c = 0; c < w.c; ++c)
      for (std::int64_t i = 0; i < winograd::side; ++i) {
        double row[3] = {};  // row i of G w
        for (std::int64_t b = 0; b < 3; ++b)
          for (std::int64_t a = 0; a < 3; ++a) row[b] += g[i][a] * static_cast<double>(w(o, c, a, b));
        for (std::int64_t j = 0; j < winograd::side; ++j)
          typed<T>(out)[winograd_offset(w.c, 0, o, i, j, c)] = static_cast<T>(row[0] * g[j][0] + row[1] * g[j][1] + row[2] * g[j][2]);
      }
}

template <class From, class To>
void pack(const KernelArgs& args) {
  const Image<From> w(args.in[0]);
  const View& out = args.out[0];
  if constexpr (!std::is_same_v<To, bfloat16>)
    if (out.rank() == 4) return pack_winograd(w, out);
  const std::int64_t channels = out.rank() == 2 ? w.n : w.c;
  std::fill_n(typed<To>(out), out.numel(), To{});
  for (std::int64_t o = 0; o < w.n; ++o)
    for (std::int64_t tap = 0; tap < w.h * w.w; ++tap)
      for (std::int64_t c = 0; c < w.c; ++c) typed<To>(out)[packed_offset(out.shape, channels, 0, o, tap, c)] = convert<To>(w(o, c, tap / w.w, tap % w.w));
}

template <class T>
double value(T v) {
  if constexpr (std::is_same_v<T, bfloat16>) return static_cast<double>(to_float(v));
  else return static_cast<double>(v);
}

// The products of one patch of output channel o, its first output pixel (oh, ow): the sum over channels of U * (B^T d B).
template <class T>
void winograd_products(const Image<T>& x, const T* packed, std::int64_t panels, const ConvParams& p, std::int64_t n, std::int64_t o, std::int64_t oh, std::int64_t ow,
                       double (&sum)[6][6]) {
  constexpr auto& b = winograd::input;
  for (auto& row : sum) std::fill_n(row, 6, 0.);
  for (std::int64_t c = 0; c < x.c; ++c) {
    double half[6][6] = {};  // B^T d
    for (std::int64_t k = 0; k < 6; ++k)
      for (std::int64_t j = 0; j < 6; ++j) {
        const std::int64_t ih = oh - p.padding[0] + k, iw = ow - p.padding[2] + j;
        if (ih < 0 || ih >= x.h || iw < 0 || iw >= x.w) continue;
        for (std::int64_t i = 0; i < 6; ++i) half[i][j] += b[i][k] * static_cast<double>(x(n, c, ih, iw));
      }
    for (std::int64_t i = 0; i < 6; ++i)
      for (std::int64_t j = 0; j < 6; ++j) {
        double v = 0;
        for (std::int64_t k = 0; k < 6; ++k) v += half[i][k] * b[j][k];
        sum[i][j] += v * static_cast<double>(packed[winograd_offset(x.c, panels, o, i, j, c)]);
      }
  }
}

// T: x, weights, residual. B: bias and slope. Y: the outputs.
template <class T, class B, class Y>
void packed_conv2d(const KernelArgs& args) {
  const auto& p = args.get<PackedConvParams>();
  const Image<T> x(args.in[0]);
  const T* packed = typed<T>(args.in[1]);
  const View &weights = args.in[1], &bias = args.in[2];
  const View* slope = p.activation == Activation::prelu ? &args.in[3] : nullptr;
  const View* residual = p.residual ? &args.in[slope ? 4 : 3] : nullptr;
  const bool depthwise = weights.rank() == 2;
  std::int64_t first = 0, panels = 0;
  for (const View& out : args.out) {
    const Image<Y> y(out);
    const auto finish = [&](std::int64_t n, std::int64_t o, std::int64_t oh, std::int64_t ow, double sum) {
      sum += value(typed<B>(bias)[(first + o) * bias.stride(0)]);
      if (residual) sum += value(Image<T>(*residual)(n, o, oh, ow));
      if (sum < 0 && p.activation == Activation::relu) sum = 0;
      if (sum < 0 && slope) sum *= value(typed<B>(*slope)[(first + o) * slope->stride(0)]);
      y(n, o, oh, ow) = convert<Y>(sum);
    };
    for (std::int64_t n = 0; n < y.n; ++n)
      for (std::int64_t o = 0; o < y.c; ++o) {
        if constexpr (!std::is_same_v<T, bfloat16>)
          if (weights.rank() == 4) {
            for (std::int64_t oh = 0; oh < y.h; oh += winograd::outputs)
              for (std::int64_t ow = 0; ow < y.w; ow += winograd::outputs) {
                double products[6][6];
                winograd_products(x, packed, panels, p, n, o, oh, ow, products);
                for (std::int64_t i = 0; i < std::min(winograd::outputs, y.h - oh); ++i)
                  for (std::int64_t j = 0; j < std::min(winograd::outputs, y.w - ow); ++j) {
                    double sum = 0;  // of A^T products A
                    for (std::int64_t k = 0; k < winograd::products; ++k) sum += winograd::output[i][k / 6] * winograd::output[j][k % 6] * products[k / 6][k % 6];
                    finish(n, o, oh + i, ow + j, sum);
                  }
              }
            continue;
          }
        for (std::int64_t oh = 0; oh < y.h; ++oh)
          for (std::int64_t ow = 0; ow < y.w; ++ow) {
            double sum = 0;
            for (std::int64_t tap = 0; tap < p.kernel[0] * p.kernel[1]; ++tap) {
              const std::int64_t ih = oh * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
              const std::int64_t iw = ow * p.stride[1] - p.padding[2] + tap % p.kernel[1] * p.dilation[1];
              if (ih < 0 || ih >= x.h || iw < 0 || iw >= x.w) continue;
              for (std::int64_t c = depthwise ? o : 0; c < (depthwise ? o + 1 : x.c); ++c)
                sum += value(x(n, c, ih, iw)) * value(packed[packed_offset(weights.shape, x.c, panels, o, tap, c)]);
            }
            finish(n, o, oh, ow, sum);
          }
      }
    first += y.c;
    panels += panels_of(y.c);
  }
}

void run_pack(const KernelArgs& args) {
  dispatch_float(args.in[0].dtype, "pack_conv_weights", [&](auto from) {
    using From = decltype(from);
    if (args.out[0].dtype == DType::bf16) pack<From, bfloat16>(args);
    else pack<From, From>(args);
  });
}
void run_packed_conv2d(const KernelArgs& args) {
  const DType x = args.in[0].dtype, y = args.out[0].dtype;
  if (x == DType::f64) packed_conv2d<double, double, double>(args);
  else if (x == DType::f32) packed_conv2d<float, float, float>(args);
  else if (y == DType::f32) packed_conv2d<bfloat16, float, float>(args);
  else packed_conv2d<bfloat16, float, bfloat16>(args);
}

}  // namespace

const KernelEntry pack_conv_weights_entry = {run_pack, nullptr, nullptr, true};
const KernelEntry packed_conv2d_entry = {run_packed_conv2d, nullptr, nullptr, true};

}  // namespace mien::ref
