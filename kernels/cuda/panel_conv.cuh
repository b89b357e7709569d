// Convolution with weights in panels of 16 outputs (kernels/params.h: pack_conv_weights), bias, residual and activation, as a matrix product: a pixel a row, an
// output a column, the sum over (i, j, c). What planned inference and the nets of the detector run on.
#pragma once

#include "mien/kernels/cuda/gemm_tile.cuh"

namespace mien::cuda {

struct PanelSpot {
  std::int64_t offset;
  int h, w;
};
template <class T>
struct PanelRow {
  T* y;
  const T* residual;
};
struct PanelScope {
  std::uint32_t rows, depth;
};

template <class T>
struct PanelConv {
  using C = T;
  const T *x, *weight, *bias, *slope, *residual;
  T* y;
  std::int64_t xn, xc, xh, xw, yn, yc, yh, yw, rn, rc, rh, rw;  // strides
  std::int64_t panel_step, k_step, column_step, bias_step, slope_step;
  int height, width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  Activation activation;
  Divider channels, kernel_w, area, line;
  std::uint32_t rows, columns, depth;

  __device__ PanelScope scope(std::uint32_t) const { return {rows, depth}; }
  __device__ void place(std::uint32_t m, std::uint32_t& n, std::uint32_t& oh, std::uint32_t& ow) const {
    n = area(m);
    const std::uint32_t pixel = m - n * area.divisor;
    oh = line(pixel);
    ow = pixel - oh * line.divisor;
  }
  __device__ PanelSpot row_a(const PanelScope&, std::uint32_t m) const {
    std::uint32_t n, oh, ow;
    place(m, n, oh, ow);
    const int h = static_cast<int>(oh) * stride_h - pad_h, w = static_cast<int>(ow) * stride_w - pad_w;
    return {n * xn + h * xh + w * xw, h, w};
  }
  __device__ PanelSpot k_a(const PanelScope&, std::uint32_t k) const {
    const std::uint32_t tap = channels(k), c = k - tap * channels.divisor, row = kernel_w(tap);
    const int i = static_cast<int>(row) * dilation_h, j = static_cast<int>(tap - row * kernel_w.divisor) * dilation_w;
    return {c * xc + i * xh + j * xw, i, j};
  }
  __device__ T a(const PanelSpot& row, const PanelSpot& k) const {
    const int h = row.h + k.h, w = row.w + k.w;
    return static_cast<unsigned>(h) < static_cast<unsigned>(height) && static_cast<unsigned>(w) < static_cast<unsigned>(width) ? x[row.offset + k.offset]
                                                                                                                               : T(0);
  }
  __device__ std::int64_t column_b(const PanelScope&, std::uint32_t n) const { return n / packed_columns * panel_step + n % packed_columns * column_step; }
  __device__ std::int64_t k_b(const PanelScope&, std::uint32_t k) const { return k * k_step; }
  __device__ T b(std::int64_t column, std::int64_t k) const { return weight[column + k]; }
  __device__ PanelRow<T> out_row(const PanelScope&, std::uint32_t m) const {
    std::uint32_t n, oh, ow;
    place(m, n, oh, ow);
    return {y + (n * yn + oh * yh + ow * yw), residual ? residual + (n * rn + oh * rh + ow * rw) : nullptr};
  }
  __device__ T finished(const PanelRow<T>& row, std::uint32_t n, T v) const {
    v += bias[n * bias_step];
    if (row.residual) v += row.residual[n * rc];
    if (v < T(0) && activation == Activation::relu) v = T(0);
    if (v < T(0) && slope) v *= slope[n * slope_step];
    return v;
  }
  __device__ void put(const PanelScope&, const PanelRow<T>& row, std::uint32_t n, T v) const { row.y[n * yc] = finished(row, n, v); }
  __device__ void put_quad(const PanelScope&, const PanelRow<T>& row, std::uint32_t n, const T (&v)[4]) const {
    const T all[4] = {finished(row, n, v[0]), finished(row, n + 1, v[1]), finished(row, n + 2, v[2]), finished(row, n + 3, v[3])};
    write_quad(row.y + n, all);
  }
};

// The operands of one output. Weight, bias and slope begin at its first channel.
struct PanelOperands {
  View x, weight, bias;
  const View *slope = nullptr, *residual = nullptr;
  View y;
  ConvParams params;
  Pair kernel{1, 1};
  Activation activation = Activation::none;
};
inline GemmPlan panel_plan(const PanelOperands& o) {
  GemmPlan g = gemm_plan(o.y.size(0) * o.y.size(2) * o.y.size(3), o.y.size(1), o.kernel[0] * o.kernel[1] * o.x.size(1), 1);
  const auto size_of = [](std::int64_t s) { return s < 0 ? -s : s; };
  g.a_along_k = size_of(o.x.stride(1)) <= size_of(o.x.stride(3)) || o.y.size(3) == 1;
  g.b_along_k = false;
  return g;
}
inline const char* panel_too_large(const PanelOperands& o) {
  return gemm_too_large(o.y.size(0) * o.y.size(2) * o.y.size(3), o.y.size(1), o.kernel[0] * o.kernel[1] * o.x.size(1), 1);
}
template <class T>
void run_panel_conv(const KernelArgs& args, const char* what, const PanelOperands& o, void* workspace) {
  if (o.y.numel() == 0) return;
  GemmPlan g = panel_plan(o);
  const View &x = o.x, &y = o.y, &w = o.weight;
  const View& r = o.residual ? *o.residual : y;
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  PanelConv<T> c{x.ptr<T>(), w.ptr<T>(), o.bias.ptr<T>(), o.slope ? o.slope->ptr<T>() : nullptr, o.residual ? o.residual->ptr<T>() : nullptr, y.ptr<T>(),
                 x.stride(0), x.stride(1), x.stride(2), x.stride(3), y.stride(0), y.stride(1), y.stride(2), y.stride(3), r.stride(0), r.stride(1), r.stride(2),
                 r.stride(3), w.stride(0), w.stride(1), w.stride(2), o.bias.stride(0), o.slope ? o.slope->stride(0) : 0,
                 i(x.size(2)), i(x.size(3)), i(o.params.stride[0]), i(o.params.stride[1]), i(o.params.padding[0]), i(o.params.padding[2]),
                 i(o.params.dilation[0]), i(o.params.dilation[1]), o.activation,
                 Divider(x.size(1)), Divider(o.kernel[1]), Divider(y.size(2) * y.size(3)), Divider(y.size(3)), g.rows, g.columns,
                 static_cast<std::uint32_t>(o.kernel[0] * o.kernel[1] * x.size(1))};
  g.vector = quads_fit(c.y, c.yc, {c.yn, c.yh, c.yw});
  KernelArgs inner = args;
  inner.workspace = workspace;
  run_gemm(inner, what, c, g);
}
inline std::int64_t panel_workspace(const PanelOperands& o) { return (gemm_workspace<double>(panel_plan(o)) + 255) / 256 * 256; }

}  // namespace mien::cuda
