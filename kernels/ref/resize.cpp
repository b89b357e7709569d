// Resizing: area (adaptive average pooling, whole pictures or crops), bilinear, and affine maps.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/warp.h"

namespace mien::ref {
namespace {

// Cells of an axis that output cell i of `out` averages: floor(i*in/out) .. ceil((i+1)*in/out).
struct Span {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};
Span area_span(std::int64_t i, std::int64_t in, std::int64_t out) { return {i * in / out, ((i + 1) * in + out - 1) / out}; }

template <class In, class T>
void adaptive_avg_pool2d(const KernelArgs& args) {
  const Image<In> x(args.in[0]);
  const Image<T> y(args.out[0]);
  for (std::int64_t n = 0; n < y.n; ++n)
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          const Span rows = area_span(oh, x.h, y.h), cols = area_span(ow, x.w, y.w);
          double sum = 0;
          for (std::int64_t h = rows.begin; h < rows.end; ++h)
            for (std::int64_t w = cols.begin; w < cols.end; ++w) sum += static_cast<double>(x(n, c, h, w));
          y(n, c, oh, ow) = static_cast<T>(sum / static_cast<double>(rows.size() * cols.size()));
        }
}

template <class T>
void adaptive_avg_pool2d_backward(const KernelArgs& args) {
  const Image<T> gy(args.in[0]), gx(args.out[0]);
  double* sums = scatter_sums(args);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t c = 0; c < gy.c; ++c)
      for (std::int64_t oh = 0; oh < gy.h; ++oh)
        for (std::int64_t ow = 0; ow < gy.w; ++ow) {
          const Span rows = area_span(oh, gx.h, gy.h), cols = area_span(ow, gx.w, gy.w);
          const double share = static_cast<double>(gy(n, c, oh, ow)) / static_cast<double>(rows.size() * cols.size());
          for (std::int64_t h = rows.begin; h < rows.end; ++h)
            for (std::int64_t w = cols.begin; w < cols.end; ++w) sums[((n * gx.c + c) * gx.h + h) * gx.w + w] += share;
        }
  store_sums<T>(args.out[0], sums);
}

template <class In, class T>
void crop_resize_area(const KernelArgs& args) {
  const auto& p = args.get<CropResizeParams>();
  const View &image = args.in[0], &boxes = args.in[1];
  const In* x = typed<In>(image);
  const std::int64_t* box = typed<std::int64_t>(boxes);
  const Image<T> y(args.out[0]);
  for (std::int64_t k = 0; k < y.n; ++k) {
    const auto side = [&](std::int64_t i) { return box[k * boxes.stride(0) + i * boxes.stride(1)]; };
    const std::int64_t x1 = side(0), y1 = side(1), x2 = side(2), y2 = side(3);
    if (x1 < 0 || y1 < 0 || x2 > image.size(2) || y2 > image.size(1) || x1 >= x2 || y1 >= y2)
      throw ValueError("crop_resize_area", "box " + std::to_string(k) + " = " + to_string(Shape{x1, y1, x2, y2}) +
                                               " must be x1 < x2, y1 < y2 inside a picture of shape " + to_string(image.shape));
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          const Span rows = area_span(oh, y2 - y1, y.h), cols = area_span(ow, x2 - x1, y.w);
          double sum = 0;
          for (std::int64_t h = y1 + rows.begin; h < y1 + rows.end; ++h)
            for (std::int64_t w = x1 + cols.begin; w < x1 + cols.end; ++w)
              sum += static_cast<double>(x[c * image.stride(0) + h * image.stride(1) + w * image.stride(2)]);
          const double average = sum / static_cast<double>(rows.size() * cols.size());
          y(k, c, oh, ow) = static_cast<T>((average - static_cast<double>(p.mean)) * static_cast<double>(p.scale));
        }
  }
}

// Position i of an output axis lies between input cells `low` and `high`, at `weight` of the way.
struct Tap {
  std::int64_t low, high;
  double weight;
};
Tap bilinear_tap(std::int64_t i, std::int64_t in, std::int64_t out, bool align_corners) {
  double position;
  if (align_corners)
    position = out > 1 ? static_cast<double>(i) * static_cast<double>(in - 1) / static_cast<double>(out - 1) : 0.0;
  else
    position = std::max(0.0, (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5);
  const std::int64_t low = std::min(static_cast<std::int64_t>(position), in - 1);
  const std::int64_t high = std::min(low + 1, in - 1);
  return {low, high, position - static_cast<double>(low)};
}

// f(row, column, weight) for the four cells of an output position.
template <class F>
void for_corners(const Tap& r, const Tap& c, const F& f) {
  f(r.low, c.low, (1 - r.weight) * (1 - c.weight));
  f(r.low, c.high, (1 - r.weight) * c.weight);
  f(r.high, c.low, r.weight * (1 - c.weight));
  f(r.high, c.high, r.weight * c.weight);
}

template <class In, class T>
void resize_bilinear(const KernelArgs& args) {
  const bool align = args.get<ResizeParams>().align_corners;
  const Image<In> x(args.in[0]);
  const Image<T> y(args.out[0]);
  for (std::int64_t n = 0; n < y.n; ++n)
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          double sum = 0;
          for_corners(bilinear_tap(oh, x.h, y.h, align), bilinear_tap(ow, x.w, y.w, align),
                      [&](auto h, auto w, double weight) { sum += weight * static_cast<double>(x(n, c, h, w)); });
          y(n, c, oh, ow) = static_cast<T>(sum);
        }
}

template <class T>
void resize_bilinear_backward(const KernelArgs& args) {
  const bool align = args.get<ResizeParams>().align_corners;
  const Image<T> gy(args.in[0]), gx(args.out[0]);
  double* sums = scatter_sums(args);
  for (std::int64_t n = 0; n < gy.n; ++n)
    for (std::int64_t c = 0; c < gy.c; ++c)
      for (std::int64_t oh = 0; oh < gy.h; ++oh)
        for (std::int64_t ow = 0; ow < gy.w; ++ow)
          for_corners(bilinear_tap(oh, gx.h, gy.h, align), bilinear_tap(ow, gx.w, gy.w, align), [&](auto h, auto w, double weight) {
            sums[((n * gx.c + c) * gx.h + h) * gx.w + w] += weight * static_cast<double>(gy(n, c, oh, ow));
          });
  store_sums<T>(args.out[0], sums);
}

template <class In, class T>
void warp_affine(const KernelArgs& args) {
  const auto& p = args.get<CropResizeParams>();
  const View &image = args.in[0], &matrices = args.in[1];
  const In* x = typed<In>(image);
  const Image<T> y(args.out[0]);
  const std::int64_t H = image.size(1), W = image.size(2);
  for (std::int64_t k = 0; k < y.n; ++k) {
    const auto m = [&](std::int64_t i, std::int64_t j) {
      return dispatch_float(matrices.dtype, "warp_affine", [&](auto t) { return static_cast<double>(typed<decltype(t)>(matrices)[k * matrices.stride(0) + i * matrices.stride(1) + j * matrices.stride(2)]); });
    };
    const std::int64_t grid = warp_grid(std::sqrt(std::abs(m(0, 0) * m(1, 1) - m(0, 1) * m(1, 0))));
    const auto inside = [&](std::int64_t i) { return (static_cast<double>(i) + .5) / static_cast<double>(grid) - .5; };
    for (std::int64_t c = 0; c < y.c; ++c)
      for (std::int64_t oh = 0; oh < y.h; ++oh)
        for (std::int64_t ow = 0; ow < y.w; ++ow) {
          double sum = 0;
          for (std::int64_t i = 0; i < grid; ++i)
            for (std::int64_t j = 0; j < grid; ++j) {
              const double u = static_cast<double>(ow) + inside(j), v = static_cast<double>(oh) + inside(i);
              const double sx = m(0, 0) * u + m(0, 1) * v + m(0, 2), sy = m(1, 0) * u + m(1, 1) * v + m(1, 2);
              if (!(sx > -1 && sy > -1 && sx < static_cast<double>(W) && sy < static_cast<double>(H))) continue;
              const auto left = static_cast<std::int64_t>(std::floor(sx)), top = static_cast<std::int64_t>(std::floor(sy));
              const Tap rows{top, top + 1, sy - static_cast<double>(top)}, cols{left, left + 1, sx - static_cast<double>(left)};
              for_corners(rows, cols, [&](std::int64_t h, std::int64_t w, double weight) {
                if (h >= 0 && h < H && w >= 0 && w < W) sum += weight * static_cast<double>(x[c * image.stride(0) + h * image.stride(1) + w * image.stride(2)]);
              });
            }
          y(k, c, oh, ow) = static_cast<T>((sum / static_cast<double>(grid * grid) - static_cast<double>(p.mean)) * static_cast<double>(p.scale));
        }
  }
}

// f(In{}, T{}): pictures may be u8, results are floating.
template <class F>
void dispatch_picture(const KernelArgs& args, const char* op, const F& f) {
  dispatch_float(args.out[0].dtype, op, [&](auto t) {
    if (args.in[0].dtype == DType::u8) return f(std::uint8_t{}, t);
    dispatch_float(args.in[0].dtype, op, [&](auto s) { f(s, t); });
  });
}

void run_adaptive_avg_pool2d(const KernelArgs& args) {
  dispatch_picture(args, "adaptive_avg_pool2d", [&](auto s, auto t) { adaptive_avg_pool2d<decltype(s), decltype(t)>(args); });
}
void run_adaptive_avg_pool2d_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "adaptive_avg_pool2d_backward", [&](auto t) { adaptive_avg_pool2d_backward<decltype(t)>(args); });
}
void run_crop_resize_area(const KernelArgs& args) {
  dispatch_picture(args, "crop_resize_area", [&](auto s, auto t) { crop_resize_area<decltype(s), decltype(t)>(args); });
}
void run_warp_affine(const KernelArgs& args) {
  dispatch_picture(args, "warp_affine", [&](auto s, auto t) { warp_affine<decltype(s), decltype(t)>(args); });
}
void run_resize_bilinear(const KernelArgs& args) {
  dispatch_picture(args, "resize_bilinear", [&](auto s, auto t) { resize_bilinear<decltype(s), decltype(t)>(args); });
}
void run_resize_bilinear_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "resize_bilinear_backward", [&](auto t) { resize_bilinear_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry adaptive_avg_pool2d_entry = {run_adaptive_avg_pool2d};
const KernelEntry adaptive_avg_pool2d_backward_entry = {run_adaptive_avg_pool2d_backward, nullptr, scatter_bytes};
const KernelEntry crop_resize_area_entry = {run_crop_resize_area};
const KernelEntry warp_affine_entry = {run_warp_affine};
const KernelEntry resize_bilinear_entry = {run_resize_bilinear};
const KernelEntry resize_bilinear_backward_entry = {run_resize_bilinear_backward, nullptr, scatter_bytes};

}  // namespace mien::ref
