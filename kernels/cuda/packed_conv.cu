// Packed weights in all their forms, and the convolution of planned inference. Panels go through tiles (panel_conv.cuh); depthwise and Winograd's form are a
// thread an output. 16-bit maps are for the CPU's tile units: declined.
#include "mien/kernels/cuda/convert.cuh"
#include "mien/kernels/cuda/panel_conv.cuh"
#include "mien/kernels/cuda/places.cuh"
#include "mien/kernels/winograd.h"

namespace mien::cuda {
namespace {

std::int64_t panels_of(std::int64_t outputs) { return (outputs + packed_columns - 1) / packed_columns; }

// --- packing -----------------------------------------------------------------------------------------------------------------
// A thread an element of the packed weights, whose place says which weight it is.
template <class From, class To>
struct Pack {
  Image<From> w;
  To* out;
  int rank;
  std::int64_t middle, pairs;  // packed sizes: rows of a panel; groups of 32 channels
  template <class I>
  __device__ void operator()(const I (&at)[1]) const {
    const std::int64_t i = at[0];
    if (rank == 2) {  // [kh*kw, C], one weight a channel
      const std::int64_t o = i % w.n, tap = i / w.n;
      out[i] = convert<To>(load(w(o, 0, tap / w.w, tap % w.w)));
      return;
    }
    std::int64_t o, tap, c;
    if (rank == 3) {  // [panels, kh*kw*C, 16]
      const std::int64_t k = i / packed_columns % middle;
      o = i / packed_columns / middle * packed_columns + i % packed_columns;
      tap = k / w.c, c = k % w.c;
    } else {  // [panels, kh*kw, C/32, 16, 16, 2]
      const std::int64_t half = i % 2, column = i / 2 % packed_columns, pair = i / 2 / packed_columns % (packed_pairs / 2),
                         rest = i / packed_columns / packed_pairs;
      c = rest % pairs * packed_pairs + 2 * pair + half;
      tap = rest / pairs % middle;
      o = rest / pairs / middle * packed_columns + column;
    }
    out[i] = convert<To>(o < w.n && c < w.c ? load(w(o, c, tap / w.w, tap % w.w)) : Compute<From>(0));
  }
};
template <class T>
struct PackWinograd {
  Image<T> w;
  T* out;  // [panels, 36, C, 16]
  double g[6][3];
  template <class I>
  __device__ void operator()(const I (&at)[1]) const {
    const std::int64_t n = at[0], c = n / packed_columns % w.c, product = n / packed_columns / w.c % winograd::products;
    const std::int64_t o = n / packed_columns / w.c / winograd::products * packed_columns + n % packed_columns;
    double sum = 0;
    if (o < w.n)
      for (int b = 0; b < 3; ++b) {
        double row = 0;
        for (int a = 0; a < 3; ++a) row += g[product / 6][a] * static_cast<double>(w(o, c, a, b));
        sum += row * g[product % 6][b];
      }
    out[n] = static_cast<T>(sum);
  }
};

void run_pack(const KernelArgs& args) {
  const View &w = args.in[0], &out = args.out[0];
  const Shape flat{out.numel()};
  const std::array<Strides, 1> dense{Strides{1}};
  dispatch_floats(w.dtype, "pack_conv_weights", [&](auto from) {
    using From = typename decltype(from)::type;
    if constexpr (std::is_floating_point_v<From>) {
      if (out.rank() == 4) {
        PackWinograd<From> p{Image<From>(w), out.ptr<From>(), {}};
        for (int i = 0; i < 6; ++i)
          for (int j = 0; j < 3; ++j) p.g[i][j] = winograd::weight[i][j];
        return for_each<1>(args, "pack_conv_weights", flat, dense, p);
      }
    }
    const int rank = out.rank();
    const std::int64_t middle = rank > 2 ? out.size(1) : 1, pairs = rank > 3 ? out.size(2) : 1;
    if (out.dtype == DType::bf16) for_each<1>(args, "pack_conv_weights", flat, dense, Pack<From, bf16>{Image<From>(w), out.ptr<bf16>(), rank, middle, pairs});
    else for_each<1>(args, "pack_conv_weights", flat, dense, Pack<From, From>{Image<From>(w), out.ptr<From>(), rank, middle, pairs});
  });
}

const char* decline_pack(const KernelArgs& args) {
  return args.out[0].rank() == 4 && args.in[0].dtype != DType::f32 && args.in[0].dtype != DType::f64 ? "Winograd's form in 16 bits" : nullptr;
}

// --- the convolution -----------------------------------------------------------------------------------------------------------
// The operands of output i.
PanelOperands operands_of(const KernelArgs& args, std::size_t i, View& slope, View& residual) {
  const auto& p = args.get<PackedConvParams>();
  PanelOperands o;
  o.x = args.in[0];
  o.weight = args.in[1];
  o.bias = args.in[2];
  o.y = args.out[i];
  o.params = p;
  o.kernel = p.kernel;
  o.activation = p.activation;
  std::int64_t first = 0, panels = 0;
  for (std::size_t k = 0; k < i; ++k) {
    first += args.out[k].size(1);
    panels += panels_of(args.out[k].size(1));
  }
  const auto from = [&](View v, std::int64_t elements) {
    if (v.data) v.data = static_cast<std::byte*>(v.data) + elements * item_size(v.dtype);
    return v;
  };
  if (o.weight.rank() > 2) o.weight = from(o.weight, panels * o.weight.stride(0));
  o.bias = from(o.bias, first * o.bias.stride(0));
  const bool sloped = p.activation == Activation::prelu;
  if (sloped) {
    slope = from(args.in[3], first * args.in[3].stride(0));
    o.slope = &slope;
  }
  if (p.residual) {
    residual = args.in[sloped ? 4 : 3];
    o.residual = &residual;
  }
  return o;
}

template <class T>
struct Epilogue {
  const T *bias, *slope;
  std::int64_t bias_step, slope_step;
  Image<T> residual;
  Activation activation;
  explicit Epilogue(const PanelOperands& o)
      : bias(o.bias.ptr<T>()), slope(o.slope ? o.slope->ptr<T>() : nullptr), bias_step(o.bias.stride(0)), slope_step(o.slope ? o.slope->stride(0) : 0),
        residual(o.residual ? Image<T>(*o.residual) : Image<T>{}), activation(o.activation) {}
  __device__ T operator()(const Place& p, double sum) const {
    T v = static_cast<T>(sum) + bias[p.c * bias_step];
    if (residual.data) v += residual(p.n, p.c, p.h, p.w);
    if (v < T(0) && activation == Activation::relu) v = T(0);
    if (v < T(0) && slope) v *= slope[p.c * slope_step];
    return v;
  }
};

template <class T>
struct Depthwise {
  Image<T> x, y;
  const T* w;
  std::int64_t tap_step, channel_step;
  int kh, kw, sh, sw, ph, pw, dh, dw;
  Epilogue<T> epilogue;
  __device__ void operator()(const Place& p) const {
    T sum = 0;
    for (int i = 0; i < kh; ++i) {
      const std::int64_t h = p.h * sh - ph + i * dh;
      if (h < 0 || h >= x.h) continue;
      for (int j = 0; j < kw; ++j) {
        const std::int64_t v = p.w * sw - pw + j * dw;
        if (v >= 0 && v < x.w) sum += x(p.n, p.c, h, v) * w[(i * kw + j) * tap_step + p.c * channel_step];
      }
    }
    y(p.n, p.c, p.h, p.w) = epilogue(p, static_cast<double>(sum));
  }
};

// A thread a patch of 4x4 outputs.
template <class T>
struct Winograd {
  Image<T> x, y;
  const T* w;  // [panels, 36, C, 16], dense
  std::int64_t patches_h, patches_w, ph, pw;
  double in[6][6], out[4][6];
  Epilogue<T> epilogue;
  template <class I>
  __device__ void operator()(const I (&at)[1]) const {
    std::int64_t i = at[0];
    const std::int64_t o = i % y.c;
    i /= y.c;
    const std::int64_t ow = i % patches_w * 4;
    i /= patches_w;
    const std::int64_t oh = i % patches_h * 4, n = i / patches_h;
    double sum[6][6] = {};
    for (std::int64_t c = 0; c < x.c; ++c) {
      double half[6][6] = {};
      for (int k = 0; k < 6; ++k)
        for (int j = 0; j < 6; ++j) {
          const std::int64_t h = oh - ph + k, v = ow - pw + j;
          if (h < 0 || h >= x.h || v < 0 || v >= x.w) continue;
          const auto value = static_cast<double>(x(n, c, h, v));
          for (int a = 0; a < 6; ++a) half[a][j] += in[a][k] * value;
        }
      for (int a = 0; a < 6; ++a)
        for (int b = 0; b < 6; ++b) {
          double v = 0;
          for (int k = 0; k < 6; ++k) v += half[a][k] * in[b][k];
          sum[a][b] += v * static_cast<double>(w[((o / packed_columns * 36 + a * 6 + b) * x.c + c) * packed_columns + o % packed_columns]);
        }
    }
    for (int a = 0; a < 4 && oh + a < y.h; ++a)
      for (int b = 0; b < 4 && ow + b < y.w; ++b) {
        double v = 0;
        for (int k = 0; k < 36; ++k) v += out[a][k / 6] * out[b][k % 6] * sum[k / 6][k % 6];
        y(n, o, oh + a, ow + b) = epilogue(Place{n, o, oh + a, ow + b}, v);
      }
  }
};

template <class T>
void convolve(const KernelArgs& args, const PanelOperands& o) {
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  const ConvParams& p = o.params;
  if (o.y.numel() == 0) return;
  if (o.weight.rank() == 3) return run_panel_conv<T>(args, "packed_conv2d", o, args.workspace);
  if (o.weight.rank() == 2)
    return each_place(args, "packed_conv2d", o.y,
                      Depthwise<T>{Image<T>(o.x), Image<T>(o.y), o.weight.ptr<T>(), o.weight.stride(0), o.weight.stride(1), i(o.kernel[0]), i(o.kernel[1]),
                                   i(p.stride[0]), i(p.stride[1]), i(p.padding[0]), i(p.padding[2]), i(p.dilation[0]), i(p.dilation[1]), Epilogue<T>(o)});
  const std::int64_t patches_h = (o.y.size(2) + 3) / 4, patches_w = (o.y.size(3) + 3) / 4;
  Winograd<T> w{Image<T>(o.x), Image<T>(o.y), o.weight.ptr<T>(), patches_h, patches_w, p.padding[0], p.padding[2], {}, {}, Epilogue<T>(o)};
  for (int a = 0; a < 6; ++a)
    for (int b = 0; b < 6; ++b) w.in[a][b] = winograd::input[a][b];
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 6; ++b) w.out[a][b] = winograd::output[a][b];
  for_each<1>(args, "packed_conv2d", Shape{o.y.size(0) * o.y.size(1) * patches_h * patches_w}, {Strides{1}}, w);
}

void run_packed_conv2d(const KernelArgs& args) {
  for (std::size_t k = 0; k < args.out.size(); ++k) {
    View slope, residual;
    const PanelOperands o = operands_of(args, k, slope, residual);
    if (args.in[0].dtype == DType::f64) convolve<double>(args, o);
    else convolve<float>(args, o);
  }
}
const char* decline(const KernelArgs& args) {
  for (const auto views : {args.in, args.out})
    for (const View& v : views)
      if (v.dtype != args.in[0].dtype || (v.dtype != DType::f32 && v.dtype != DType::f64)) return "16-bit maps";
  for (std::size_t k = 0; k < args.out.size(); ++k) {
    View slope, residual;
    const PanelOperands o = operands_of(args, k, slope, residual);
    if (const char* reason = o.weight.rank() == 3 && o.y.numel() > 0 ? panel_too_large(o) : nullptr) return reason;
  }
  return nullptr;
}
std::int64_t workspace(const KernelArgs& args) {
  std::int64_t most = 0;
  for (std::size_t k = 0; k < args.out.size(); ++k) {
    View slope, residual;
    const PanelOperands o = operands_of(args, k, slope, residual);
    if (o.weight.rank() == 3 && o.y.numel() > 0) most = std::max(most, panel_workspace(o));
  }
  return most;
}

}  // namespace

const KernelEntry pack_conv_weights_entry = {run_pack, decline_pack};
const KernelEntry packed_conv2d_entry = {run_packed_conv2d, decline, workspace};

}  // namespace mien::cuda
