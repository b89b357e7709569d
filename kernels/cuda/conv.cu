// Convolution and its two gradients as matrix products whose operands are gathered from the maps while they are multiplied (no im2col in memory).
// Groups are products of a batch. Depthwise convolutions are in conv_depthwise.cu.
//
//   forward      rows: pixels of y            columns: output channels   sum over taps and input channels
//   grad_input   rows: pixels of gx, one product for every class of pixels that meets the same taps (stride^2 of them)
//                                             columns: input channels    sum over the class's taps and output channels
//   grad_weight  rows: output channels        columns: taps and input channels   sum over all pixels of gy
#include <utility>

#include "mien/kernels/cuda/conv_depthwise.h"
#include "mien/kernels/cuda/gemm_tile.cuh"

namespace mien::cuda {
namespace {

struct Plain {  // element strides and sizes of a map or a weight
  std::int64_t sn = 0, sc = 0, sh = 0, sw = 0;
  Plain() = default;
  explicit Plain(const View& v) : sn(v.stride(0)), sc(v.stride(1)), sh(v.stride(2)), sw(v.stride(3)) {}
};

struct Sizes {  // what the three share
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int height, width;          // of x or gx
  int out_height, out_width;  // of y or gy
  explicit Sizes(const ConvParams& p, const View& x, const View& y)
      : stride_h(static_cast<int>(p.stride[0])),
        stride_w(static_cast<int>(p.stride[1])),
        pad_h(static_cast<int>(p.padding[0])),
        pad_w(static_cast<int>(p.padding[2])),
        dilation_h(static_cast<int>(p.dilation[0])),
        dilation_w(static_cast<int>(p.dilation[1])),
        height(static_cast<int>(x.size(2))),
        width(static_cast<int>(x.size(3))),
        out_height(static_cast<int>(y.size(2))),
        out_width(static_cast<int>(y.size(3))) {}
};

// An offset and a position: of a pixel with its first tap, or of a tap.
struct Spot {
  std::int64_t offset;
  int h, w;
};
__device__ __forceinline__ bool within(int h, int w, int height, int width) {
  return static_cast<unsigned>(h) < static_cast<unsigned>(height) && static_cast<unsigned>(w) < static_cast<unsigned>(width);
}

// Index over channels and taps: (i, j, c) with c fastest, or (c, i, j).
struct TapIndex {
  bool channels_fastest;
  Divider first, second;  // (c, kw) or (kh*kw, kw)
  TapIndex(bool fastest, std::int64_t channels, std::int64_t kh, std::int64_t kw)
      : channels_fastest(fastest), first(fastest ? channels : kh * kw), second(kw) {}
  __device__ __forceinline__ void split(std::uint32_t k, int& c, int& i, int& j) const {
    const std::uint32_t q = first(k), r = k - q * first.divisor;
    const std::uint32_t tap = channels_fastest ? q : r, row = second(tap);
    c = static_cast<int>(channels_fastest ? r : q);
    i = static_cast<int>(row);
    j = static_cast<int>(tap - row * second.divisor);
  }
};

struct Group {
  std::uint32_t rows, depth;
  std::int64_t group;
};

template <class T>
struct Forward {
  using C = Compute<T>;
  const T *x, *w, *bias;
  T* y;
  Plain xs, ws, ys;
  std::int64_t bias_step, inputs, outputs;  // channels of a group
  Sizes size;
  TapIndex taps;
  Divider area, line;  // OH*OW, OW
  std::uint32_t rows, columns, depth;

  __device__ Group scope(std::uint32_t z) const { return {rows, depth, static_cast<std::int64_t>(z)}; }
  __device__ Spot row_a(const Group& s, std::uint32_t m) const {
    const std::uint32_t n = area(m), pixel = m - n * area.divisor, oh = line(pixel), ow = pixel - oh * line.divisor;
    const int h = static_cast<int>(oh) * size.stride_h - size.pad_h, v = static_cast<int>(ow) * size.stride_w - size.pad_w;
    return {n * xs.sn + s.group * inputs * xs.sc + h * xs.sh + v * xs.sw, h, v};
  }
  __device__ Spot k_a(const Group&, std::uint32_t k) const {
    int c, i, j;
    taps.split(k, c, i, j);
    i *= size.dilation_h;
    j *= size.dilation_w;
    return {c * xs.sc + i * xs.sh + j * xs.sw, i, j};
  }
  __device__ C a(const Spot& row, const Spot& k) const {
    return within(row.h + k.h, row.w + k.w, size.height, size.width) ? load(x[row.offset + k.offset]) : C(0);
  }
  __device__ std::int64_t column_b(const Group& s, std::uint32_t n) const { return (s.group * outputs + n) * ws.sn; }
  __device__ std::int64_t k_b(const Group&, std::uint32_t k) const {
    int c, i, j;
    taps.split(k, c, i, j);
    return c * ws.sc + i * ws.sh + j * ws.sw;
  }
  __device__ C b(std::int64_t column, std::int64_t k) const { return load(w[column + k]); }
  __device__ T* out_row(const Group& s, std::uint32_t m) const {
    const std::uint32_t n = area(m), pixel = m - n * area.divisor, oh = line(pixel), ow = pixel - oh * line.divisor;
    return y + (n * ys.sn + s.group * outputs * ys.sc + oh * ys.sh + ow * ys.sw);
  }
  __device__ C with_bias(const Group& s, std::uint32_t n, C v) const { return bias ? v + load(bias[(s.group * outputs + n) * bias_step]) : v; }
  __device__ void put(const Group& s, T* row, std::uint32_t n, C v) const { row[n * ys.sc] = store<T>(with_bias(s, n, v)); }
  __device__ void put_quad(const Group& s, T* row, std::uint32_t n, const C (&v)[4]) const {
    const C all[4] = {with_bias(s, n, v[0]), with_bias(s, n + 1, v[1]), with_bias(s, n + 2, v[2]), with_bias(s, n + 3, v[3])};
    write_quad(row + n, all);
  }
};

// One side of a class of pixels: those at `phase`, `phase` + stride, ... They meet the taps first, first + step, ...; pixel number a and tap number t meet
// at output a + base - t * hop.
struct Side {
  int count;  // pixels
  int taps, first, base;
};
__device__ __forceinline__ Side make_side(int phase, int size, int stride, int pad, int dilation, int kernel, int step) {
  Side s;
  s.count = phase < size ? (size - phase + stride - 1) / stride : 0;
  s.first = 0;
  while (s.first < step && s.first < kernel && (phase + pad - s.first * dilation) % stride != 0) ++s.first;
  const bool none = s.first >= step || s.first >= kernel;
  s.taps = none ? 0 : (kernel - s.first + step - 1) / step;
  s.base = none ? 0 : (phase + pad - s.first * dilation) / stride;
  return s;
}

struct PixelClass {
  std::uint32_t rows, depth;
  std::int64_t group;
  int phase_h, phase_w;
  Side h, w;
};

template <class T>
struct GradInput {
  using C = Compute<T>;
  const T *gy, *w;
  T* gx;
  Plain gys, ws, gxs;
  std::int64_t inputs, outputs;
  Sizes size;
  Divider channels;  // output channels of a group
  int kernel_h, kernel_w, step_h, step_w, hop_h, hop_w;
  std::uint32_t batch, phases_h, phases_w;
  std::uint32_t columns;

  __device__ PixelClass scope(std::uint32_t z) const {
    PixelClass s;
    s.phase_w = static_cast<int>(z % phases_w);
    z /= phases_w;
    s.phase_h = static_cast<int>(z % phases_h);
    s.group = z / phases_h;
    s.h = make_side(s.phase_h, size.height, size.stride_h, size.pad_h, size.dilation_h, kernel_h, step_h);
    s.w = make_side(s.phase_w, size.width, size.stride_w, size.pad_w, size.dilation_w, kernel_w, step_w);
    s.rows = batch * static_cast<std::uint32_t>(s.h.count) * static_cast<std::uint32_t>(s.w.count);
    s.depth = static_cast<std::uint32_t>(outputs) * static_cast<std::uint32_t>(s.h.taps) * static_cast<std::uint32_t>(s.w.taps);
    return s;
  }
  // Picture and place in the class of row m.
  __device__ void place(const PixelClass& s, std::uint32_t m, std::uint32_t& n, int& a, int& b) const {
    const std::uint32_t width = static_cast<std::uint32_t>(s.w.count), height = static_cast<std::uint32_t>(s.h.count), line = m / width;
    n = line / height;
    a = static_cast<int>(line - n * height);
    b = static_cast<int>(m - line * width);
  }
  __device__ Spot row_a(const PixelClass& s, std::uint32_t m) const {
    std::uint32_t n;
    int a, b;
    place(s, m, n, a, b);
    a += s.h.base;
    b += s.w.base;
    return {n * gys.sn + s.group * outputs * gys.sc + a * gys.sh + b * gys.sw, a, b};
  }
  __device__ void split(const PixelClass& s, std::uint32_t k, int& o, int& i, int& j) const {
    const std::uint32_t tap = channels(k), across = static_cast<std::uint32_t>(s.w.taps), row = tap / across;
    o = static_cast<int>(k - tap * channels.divisor);
    i = static_cast<int>(row);
    j = static_cast<int>(tap - row * across);
  }
  __device__ Spot k_a(const PixelClass& s, std::uint32_t k) const {
    int o, i, j;
    split(s, k, o, i, j);
    i *= -hop_h;
    j *= -hop_w;
    return {o * gys.sc + i * gys.sh + j * gys.sw, i, j};
  }
  __device__ C a(const Spot& row, const Spot& k) const {
    return within(row.h + k.h, row.w + k.w, size.out_height, size.out_width) ? load(gy[row.offset + k.offset]) : C(0);
  }
  __device__ std::int64_t column_b(const PixelClass& s, std::uint32_t n) const { return s.group * outputs * ws.sn + n * ws.sc; }
  __device__ std::int64_t k_b(const PixelClass& s, std::uint32_t k) const {
    int o, i, j;
    split(s, k, o, i, j);
    return o * ws.sn + (s.h.first + i * step_h) * ws.sh + (s.w.first + j * step_w) * ws.sw;
  }
  __device__ C b(std::int64_t column, std::int64_t k) const { return load(w[column + k]); }
  __device__ T* out_row(const PixelClass& s, std::uint32_t m) const {
    std::uint32_t n;
    int a, b;
    place(s, m, n, a, b);
    return gx + (n * gxs.sn + s.group * inputs * gxs.sc + (s.phase_h + std::int64_t{a} * size.stride_h) * gxs.sh +
                 (s.phase_w + std::int64_t{b} * size.stride_w) * gxs.sw);
  }
  __device__ void put(const PixelClass&, T* row, std::uint32_t n, C v) const { row[n * gxs.sc] = store<T>(v); }
  __device__ void put_quad(const PixelClass&, T* row, std::uint32_t n, const C (&v)[4]) const { write_quad(row + n, v); }
};

template <class T>
struct GradWeight {
  using C = Compute<T>;
  const T *gy, *x;
  T* gw;
  Plain gys, xs, gws;
  std::int64_t inputs, outputs;
  Sizes size;
  TapIndex taps;
  Divider area, line;  // OH*OW, OW
  std::uint32_t rows, columns, depth;

  __device__ Group scope(std::uint32_t z) const { return {rows, depth, static_cast<std::int64_t>(z)}; }
  __device__ std::int64_t row_a(const Group& s, std::uint32_t m) const { return (s.group * outputs + m) * gys.sc; }
  __device__ std::int64_t k_a(const Group&, std::uint32_t k) const {
    const std::uint32_t n = area(k), pixel = k - n * area.divisor, oh = line(pixel), ow = pixel - oh * line.divisor;
    return n * gys.sn + oh * gys.sh + ow * gys.sw;
  }
  __device__ C a(std::int64_t row, std::int64_t k) const { return load(gy[row + k]); }
  __device__ Spot column_b(const Group& s, std::uint32_t n) const {
    int c, i, j;
    taps.split(n, c, i, j);
    i = i * size.dilation_h - size.pad_h;
    j = j * size.dilation_w - size.pad_w;
    return {(s.group * inputs + c) * xs.sc + i * xs.sh + j * xs.sw, i, j};
  }
  __device__ Spot k_b(const Group&, std::uint32_t k) const {
    const std::uint32_t n = area(k), pixel = k - n * area.divisor, oh = line(pixel), ow = pixel - oh * line.divisor;
    const int h = static_cast<int>(oh) * size.stride_h, v = static_cast<int>(ow) * size.stride_w;
    return {n * xs.sn + h * xs.sh + v * xs.sw, h, v};
  }
  __device__ C b(const Spot& column, const Spot& k) const {
    return within(column.h + k.h, column.w + k.w, size.height, size.width) ? load(x[column.offset + k.offset]) : C(0);
  }
  __device__ T* out_row(const Group& s, std::uint32_t m) const { return gw + (s.group * outputs + m) * gws.sn; }
  __device__ void put(const Group&, T* row, std::uint32_t n, C v) const {
    int c, i, j;
    taps.split(n, c, i, j);
    row[c * gws.sc + i * gws.sh + j * gws.sw] = store<T>(v);
  }
  __device__ void put_quad(const Group& s, T* row, std::uint32_t n, const C (&v)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) put(s, row, n + static_cast<std::uint32_t>(j), v[j]);
  }
};

// --- plans: from the same arguments the same plan, whether memory is booked or work is done ---------------------------------------

std::int64_t pixels(const View& v) { return v.size(0) * v.size(2) * v.size(3); }

GemmPlan plan_forward(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &x = args.in[0], &w = args.in[1], &y = args.out[0];
  GemmPlan g = gemm_plan(pixels(y), w.size(0) / p.groups, w.size(1) * w.size(2) * w.size(3), p.groups);
  g.a_along_k = channels_inner(x) || y.size(3) == 1;
  g.b_along_k = true;
  return g;
}

int greatest_divisor(int a, int b) {
  while (b) a = std::exchange(b, a % b);
  return a;
}

GemmPlan plan_grad_input(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &w = args.in[1], &gx = args.out[0];
  const auto up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  const auto step = [&](std::size_t d) { return p.stride[d] / greatest_divisor(static_cast<int>(p.stride[d]), static_cast<int>(p.dilation[d])); };
  const std::int64_t classes = std::min(p.stride[0], std::max<std::int64_t>(gx.size(2), 1)) * std::min(p.stride[1], std::max<std::int64_t>(gx.size(3), 1));
  GemmPlan g = gemm_plan(gx.size(0) * up(gx.size(2), p.stride[0]) * up(gx.size(3), p.stride[1]), w.size(1),
                         w.size(0) / p.groups * up(w.size(2), step(0)) * up(w.size(3), step(1)), classes * p.groups);
  g.a_along_k = channels_inner(gy) || gx.size(3) == 1;
  const auto size_of = [](std::int64_t s) { return s < 0 ? -s : s; };
  g.b_along_k = size_of(w.stride(0)) < size_of(w.stride(1));
  return g;
}

GemmPlan plan_grad_weight(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &x = args.in[1], &gw = args.out[0];
  GemmPlan g = gemm_plan(gw.size(0) / p.groups, gw.size(1) * gw.size(2) * gw.size(3), pixels(gy), p.groups);
  g.a_along_k = !channels_inner(gy);
  g.b_along_k = !channels_inner(x);
  return g;
}

const char* decline_forward(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &x = args.in[0], &w = args.in[1], &y = args.out[0];
  return gemm_too_large(std::max(pixels(x), pixels(y)), w.size(0), w.size(1) * w.size(2) * w.size(3), p.groups);
}
const char* decline_grad_input(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &w = args.in[1], &gx = args.out[0];
  return gemm_too_large(std::max(pixels(gx), pixels(gy)), w.size(1), w.size(0) * w.size(2) * w.size(3), p.stride[0] * p.stride[1] * p.groups);
}
const char* decline_grad_weight(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &x = args.in[1], &gw = args.out[0];
  return gemm_too_large(gw.size(0), gw.size(1) * gw.size(2) * gw.size(3), std::max(pixels(x), pixels(gy)), p.groups);
}

// --- entries -----------------------------------------------------------------------------------------------------------------

void run_forward(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &x = args.in[0], &w = args.in[1], &y = args.out[0];
  if (y.numel() == 0) return;
  if (is_depthwise(w, p)) return depthwise_forward(args);
  dispatch_floats(y.dtype, "conv2d", [&](auto type) {
    using T = typename decltype(type)::type;
    const bool bias = args.in.size() > 2;
    GemmPlan g = plan_forward(args);
    // The order of the sum: the one that steps through x evenly, or through the weight where x does not mind.
    const bool fastest = channels_inner(x) || channels_inner(w);
    const Forward<T> f{x.ptr<T>(),
                       w.ptr<T>(),
                       bias ? args.in[2].ptr<T>() : nullptr,
                       y.ptr<T>(),
                       Plain(x),
                       Plain(w),
                       Plain(y),
                       bias ? args.in[2].stride(0) : 0,
                       w.size(1),
                       w.size(0) / p.groups,
                       Sizes(p, x, y),
                       TapIndex(fastest, w.size(1), w.size(2), w.size(3)),
                       Divider(y.size(2) * y.size(3)),
                       Divider(y.size(3)),
                       g.rows,
                       g.columns,
                       static_cast<std::uint32_t>(w.size(1) * w.size(2) * w.size(3))};
    g.vector = f.outputs % 4 == 0 && quads_fit(f.y, f.ys.sc, {f.ys.sn, f.ys.sh, f.ys.sw});
    run_gemm(args, "conv2d", f, g);
  });
}

void run_grad_input(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &w = args.in[1], &gx = args.out[0];
  if (gx.numel() == 0) return;
  if (is_depthwise(w, p)) return depthwise_grad_input(args);
  dispatch_floats(gx.dtype, "conv2d_grad_input", [&](auto type) {
    using T = typename decltype(type)::type;
    GemmPlan g = plan_grad_input(args);
    const Sizes size(p, gx, gy);
    const int common_h = greatest_divisor(size.stride_h, size.dilation_h), common_w = greatest_divisor(size.stride_w, size.dilation_w);
    const GradInput<T> f{gy.ptr<T>(),
                         w.ptr<T>(),
                         gx.ptr<T>(),
                         Plain(gy),
                         Plain(w),
                         Plain(gx),
                         w.size(1),
                         w.size(0) / p.groups,
                         size,
                         Divider(w.size(0) / p.groups),
                         static_cast<int>(w.size(2)),
                         static_cast<int>(w.size(3)),
                         size.stride_h / common_h,
                         size.stride_w / common_w,
                         size.dilation_h / common_h,
                         size.dilation_w / common_w,
                         static_cast<std::uint32_t>(gx.size(0)),
                         static_cast<std::uint32_t>(std::min(size.stride_h, size.height)),
                         static_cast<std::uint32_t>(std::min(size.stride_w, size.width)),
                         g.columns};
    g.vector = f.inputs % 4 == 0 && quads_fit(f.gx, f.gxs.sc, {f.gxs.sn, f.gxs.sh, f.gxs.sw});
    run_gemm(args, "conv2d_grad_input", f, g);
  });
}

void run_grad_weight(const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const View &gy = args.in[0], &x = args.in[1], &gw = args.out[0];
  if (gw.numel() == 0) return;
  if (is_depthwise(gw, p)) return depthwise_grad_weight(args);
  dispatch_floats(gw.dtype, "conv2d_grad_weight", [&](auto type) {
    using T = typename decltype(type)::type;
    const GemmPlan g = plan_grad_weight(args);
    const GradWeight<T> f{gy.ptr<T>(),
                          x.ptr<T>(),
                          gw.ptr<T>(),
                          Plain(gy),
                          Plain(x),
                          Plain(gw),
                          gw.size(1),
                          gw.size(0) / p.groups,
                          Sizes(p, x, gy),
                          TapIndex(channels_inner(x), gw.size(1), gw.size(2), gw.size(3)),
                          Divider(gy.size(2) * gy.size(3)),
                          Divider(gy.size(3)),
                          g.rows,
                          g.columns,
                          static_cast<std::uint32_t>(pixels(gy))};
    run_gemm(args, "conv2d_grad_weight", f, g);
  });
}

std::int64_t pieces_bytes(const KernelArgs& args, const GemmPlan& g) {
  return args.out[0].dtype == DType::f64 ? gemm_workspace<double>(g) : gemm_workspace<float>(g);
}

std::int64_t workspace_forward(const KernelArgs& args) { return is_depthwise(args.in[1], args.get<ConvParams>()) ? 0 : pieces_bytes(args, plan_forward(args)); }
std::int64_t workspace_grad_input(const KernelArgs& args) {
  return is_depthwise(args.in[1], args.get<ConvParams>()) ? 0 : pieces_bytes(args, plan_grad_input(args));
}
std::int64_t workspace_grad_weight(const KernelArgs& args) {
  return is_depthwise(args.out[0], args.get<ConvParams>()) ? depthwise_grad_weight_workspace(args) : pieces_bytes(args, plan_grad_weight(args));
}

}  // namespace

const KernelEntry conv2d_entry = {run_forward, decline_forward, workspace_forward};
const KernelEntry conv2d_grad_input_entry = {run_grad_input, decline_grad_input, workspace_grad_input};
const KernelEntry conv2d_grad_weight_entry = {run_grad_weight, decline_grad_weight, workspace_grad_weight};

}  // namespace mien::cuda
