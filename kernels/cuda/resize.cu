// Resizing: area (adaptive average pooling, whole pictures or crops), bilinear, and affine maps. A thread an output element, or an input element backwards.
// Sums are f64, as the reference makes them.
#include "mien/kernels/cuda/places.cuh"

namespace mien::cuda {
namespace {

// Cells of an axis that output cell i of `out` averages: floor(i*in/out) .. ceil((i+1)*in/out).
struct Span {
  std::int64_t begin, end;
  __device__ std::int64_t size() const { return end - begin; }
};
__device__ Span area_span(std::int64_t i, std::int64_t in, std::int64_t out) { return {i * in / out, ((i + 1) * in + out - 1) / out}; }

template <class In, class T>
struct Area {
  Image<In> x;
  Image<T> y;
  __device__ void operator()(const Place& p) const {
    const Span rows = area_span(p.h, x.h, y.h), cols = area_span(p.w, x.w, y.w);
    double sum = 0;
    for (std::int64_t h = rows.begin; h < rows.end; ++h)
      for (std::int64_t w = cols.begin; w < cols.end; ++w) sum += static_cast<double>(load(x(p.n, p.c, h, w)));
    y(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sum / static_cast<double>(rows.size() * cols.size())));
  }
};
template <class T>
struct AreaBackward {
  Image<T> gy, gx;
  __device__ void operator()(const Place& p) const {
    // The outputs whose spans hold this cell are neighbours; the first one can't lie before floor(i * out / in) - 1.
    double sum = 0;
    for (std::int64_t oh = max(std::int64_t{0}, p.h * gy.h / gx.h - 1); oh < gy.h; ++oh) {
      const Span rows = area_span(oh, gx.h, gy.h);
      if (rows.begin > p.h) break;
      if (rows.end <= p.h) continue;
      for (std::int64_t ow = max(std::int64_t{0}, p.w * gy.w / gx.w - 1); ow < gy.w; ++ow) {
        const Span cols = area_span(ow, gx.w, gy.w);
        if (cols.begin > p.w) break;
        if (cols.end <= p.w) continue;
        sum += static_cast<double>(load(gy(p.n, p.c, oh, ow))) / static_cast<double>(rows.size() * cols.size());
      }
    }
    gx(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sum));
  }
};

// One crop's corners, cut to the picture: a kernel can't throw.
struct Boxes {
  const std::int64_t* data;
  std::int64_t step_k, step_i, height, width;
  __device__ void corners(std::int64_t k, std::int64_t& x1, std::int64_t& y1, std::int64_t& x2, std::int64_t& y2) const {
    const auto at = [&](std::int64_t i) { return data[k * step_k + i * step_i]; };
    x1 = max(at(0), std::int64_t{0}), y1 = max(at(1), std::int64_t{0}), x2 = min(at(2), width), y2 = min(at(3), height);
  }
};
template <class In, class T>
struct Crop {
  const In* x;
  std::int64_t sc, sh, sw;
  Boxes boxes;
  Image<T> y;
  double mean, scale;
  __device__ void operator()(const Place& p) const {
    std::int64_t x1, y1, x2, y2;
    boxes.corners(p.n, x1, y1, x2, y2);
    double average = 0;
    if (x1 < x2 && y1 < y2) {
      const Span rows = area_span(p.h, y2 - y1, y.h), cols = area_span(p.w, x2 - x1, y.w);
      const In* plane = x + p.c * sc;
      if constexpr (std::is_same_v<In, std::uint8_t>) {
        std::int64_t sum = 0;
        for (std::int64_t h = y1 + rows.begin; h < y1 + rows.end; ++h)
          for (std::int64_t w = x1 + cols.begin; w < x1 + cols.end; ++w) sum += plane[h * sh + w * sw];
        average = static_cast<double>(sum) / static_cast<double>(rows.size() * cols.size());
      } else {
        double sum = 0;
        for (std::int64_t h = y1 + rows.begin; h < y1 + rows.end; ++h)
          for (std::int64_t w = x1 + cols.begin; w < x1 + cols.end; ++w) sum += static_cast<double>(load(plane[h * sh + w * sw]));
        average = sum / static_cast<double>(rows.size() * cols.size());
      }
    }
    y(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>((average - mean) * scale));
  }
};

// Position i of an output axis lies between input cells `low` and `high`, at `weight` of the way.
struct Tap {
  std::int64_t low, high;
  double weight;
};
__device__ Tap bilinear_tap(std::int64_t i, std::int64_t in, std::int64_t out, bool align_corners) {
  double position;
  if (align_corners) position = out > 1 ? static_cast<double>(i) * static_cast<double>(in - 1) / static_cast<double>(out - 1) : 0.0;
  else position = fmax(0.0, (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5);
  const std::int64_t low = min(static_cast<std::int64_t>(position), in - 1), high = min(low + 1, in - 1);
  return {low, high, position - static_cast<double>(low)};
}
template <class In, class T>
struct Bilinear {
  Image<In> x;
  Image<T> y;
  bool align;
  __device__ void operator()(const Place& p) const {
    const Tap r = bilinear_tap(p.h, x.h, y.h, align), c = bilinear_tap(p.w, x.w, y.w, align);
    const auto at = [&](std::int64_t h, std::int64_t w) { return static_cast<double>(load(x(p.n, p.c, h, w))); };
    const double sum = (1 - r.weight) * ((1 - c.weight) * at(r.low, c.low) + c.weight * at(r.low, c.high)) +
                       r.weight * ((1 - c.weight) * at(r.high, c.low) + c.weight * at(r.high, c.high));
    y(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sum));
  }
};
template <class T>
struct BilinearBackward {
  Image<T> gy, gx;
  bool align;
  // Outputs that can read cell i, a little generous.
  __device__ Span readers(std::int64_t i, std::int64_t in, std::int64_t out) const {
    const double scale = align ? (in > 1 ? static_cast<double>(out - 1) / static_cast<double>(in - 1) : static_cast<double>(out))
                               : static_cast<double>(out) / static_cast<double>(in);
    const double low = align ? static_cast<double>(i - 1) * scale : (static_cast<double>(i) - .5) * scale - .5,
                 high = align ? static_cast<double>(i + 1) * scale : (static_cast<double>(i) + 1.5) * scale - .5;
    // The edges also stand for all positions beyond them.
    return {i == 0 ? 0 : max(std::int64_t{0}, static_cast<std::int64_t>(floor(low)) - 1),
            i == in - 1 ? out : min(out, static_cast<std::int64_t>(ceil(high)) + 2)};
  }
  __device__ void operator()(const Place& p) const {
    const Span rows = readers(p.h, gx.h, gy.h), cols = readers(p.w, gx.w, gy.w);
    double sum = 0;
    for (std::int64_t oh = rows.begin; oh < rows.end; ++oh) {
      const Tap r = bilinear_tap(oh, gx.h, gy.h, align);
      if (r.low != p.h && r.high != p.h) continue;
      for (std::int64_t ow = cols.begin; ow < cols.end; ++ow) {
        const Tap c = bilinear_tap(ow, gx.w, gy.w, align);
        if (c.low != p.w && c.high != p.w) continue;
        // A corner of weight 0 counts, too: there an infinite gradient gives NaN.
        const double g = static_cast<double>(load(gy(p.n, p.c, oh, ow)));
        if (r.low == p.h && c.low == p.w) sum += (1 - r.weight) * (1 - c.weight) * g;
        if (r.low == p.h && c.high == p.w) sum += (1 - r.weight) * c.weight * g;
        if (r.high == p.h && c.low == p.w) sum += r.weight * (1 - c.weight) * g;
        if (r.high == p.h && c.high == p.w) sum += r.weight * c.weight * g;
      }
    }
    gx(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sum));
  }
};

template <class In, class T>
struct Warp {
  const In* x;
  std::int64_t sc, sh, sw, height, width;
  const double* matrices;
  std::int64_t step_k, step_i, step_j;
  Image<T> y;
  double mean, scale;
  __device__ void operator()(const Place& p) const {
    const auto m = [&](int i, int j) { return matrices[p.n * step_k + i * step_i + j * step_j]; };
    const double a = m(0, 0), b = m(0, 1), c = m(1, 0), d = m(1, 1), tx = m(0, 2), ty = m(1, 2);
    // Not contracted: a rounding less could be another grid. What is not finite (llround gives the largest integer for it) has a grid of 1.
    const double side = sqrt(fabs(__dsub_rn(__dmul_rn(a, d), __dmul_rn(b, c))));
    const std::int64_t grid = isfinite(side) ? max(std::int64_t{1}, static_cast<std::int64_t>(llround(fmin(side, largest_warp_grid)))) : 1;
    const auto inside = [&](std::int64_t i) { return (static_cast<double>(i) + .5) / static_cast<double>(grid) - .5; };
    const auto at = [&](std::int64_t h, std::int64_t w) {
      return h >= 0 && h < height && w >= 0 && w < width ? static_cast<double>(load(x[p.c * sc + h * sh + w * sw])) : 0.0;
    };
    double sum = 0;
    for (std::int64_t i = 0; i < grid; ++i)
      for (std::int64_t j = 0; j < grid; ++j) {
        const double u = static_cast<double>(p.w) + inside(j), v = static_cast<double>(p.h) + inside(i);
        const double px = a * u + b * v + tx, py = c * u + d * v + ty;
        if (!(px > -1 && py > -1 && px < static_cast<double>(width) && py < static_cast<double>(height))) continue;
        const auto left = static_cast<std::int64_t>(floor(px)), top = static_cast<std::int64_t>(floor(py));
        const double wx = px - static_cast<double>(left), wy = py - static_cast<double>(top);
        sum += (1 - wy) * ((1 - wx) * at(top, left) + wx * at(top, left + 1)) + wy * ((1 - wx) * at(top + 1, left) + wx * at(top + 1, left + 1));
      }
    y(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>((sum / static_cast<double>(grid * grid) - mean) * scale));
  }
};

// f(Type<In>, Type<T>): pictures may be u8, or have another floating type than the result.
template <class F>
void dispatch_picture(const KernelArgs& args, const char* op, const F& f) {
  dispatch_floats(args.out[0].dtype, op, [&](auto t) {
    using T = typename decltype(t)::type;
    if (args.in[0].dtype == DType::u8) return f(Type<std::uint8_t>{}, t);
    if (args.in[0].dtype == args.out[0].dtype) return f(t, t);
    if constexpr (is_half<T>) {
      if (args.in[0].dtype == DType::f32) return f(Type<float>{}, t);
    } else {
      dispatch_floats(args.in[0].dtype, op, [&](auto s) { f(s, t); });
      return;
    }
    throw DTypeError(op, std::string("does not take a picture in ") + name(args.in[0].dtype) + " for a result in " + name(args.out[0].dtype));
  });
}

void run_area(const KernelArgs& args) {
  dispatch_picture(args, "adaptive_avg_pool2d", [&](auto s, auto t) {
    using In = typename decltype(s)::type;
    using T = typename decltype(t)::type;
    each_place(args, "adaptive_avg_pool2d", args.out[0], Area<In, T>{Image<In>(args.in[0]), Image<T>(args.out[0])});
  });
}
void run_area_backward(const KernelArgs& args) {
  dispatch_floats(args.out[0].dtype, "adaptive_avg_pool2d_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "adaptive_avg_pool2d_backward", args.out[0], AreaBackward<T>{Image<T>(args.in[0]), Image<T>(args.out[0])});
  });
}
void run_crop(const KernelArgs& args) {
  const auto& p = args.get<CropResizeParams>();
  const View &x = args.in[0], &b = args.in[1], &y = args.out[0];
  dispatch_picture(args, "crop_resize_area", [&](auto s, auto t) {
    using In = typename decltype(s)::type;
    using T = typename decltype(t)::type;
    each_place(args, "crop_resize_area", y,
               Crop<In, T>{x.ptr<In>(),
                           x.stride(0),
                           x.stride(1),
                           x.stride(2),
                           {b.ptr<std::int64_t>(), b.stride(0), b.stride(1), x.size(1), x.size(2)},
                           Image<T>(y),
                           static_cast<double>(p.mean),
                           static_cast<double>(p.scale)});
  });
}
void run_bilinear(const KernelArgs& args) {
  dispatch_picture(args, "resize_bilinear", [&](auto s, auto t) {
    using In = typename decltype(s)::type;
    using T = typename decltype(t)::type;
    each_place(args, "resize_bilinear", args.out[0], Bilinear<In, T>{Image<In>(args.in[0]), Image<T>(args.out[0]), args.get<ResizeParams>().align_corners});
  });
}
void run_bilinear_backward(const KernelArgs& args) {
  dispatch_floats(args.out[0].dtype, "resize_bilinear_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "resize_bilinear_backward", args.out[0],
               BilinearBackward<T>{Image<T>(args.in[0]), Image<T>(args.out[0]), args.get<ResizeParams>().align_corners});
  });
}
void run_warp(const KernelArgs& args) {
  const auto& p = args.get<CropResizeParams>();
  const View &x = args.in[0], &m = args.in[1], &y = args.out[0];
  dispatch_picture(args, "warp_affine", [&](auto s, auto t) {
    using In = typename decltype(s)::type;
    using T = typename decltype(t)::type;
    each_place(args, "warp_affine", y,
               Warp<In, T>{x.ptr<In>(), x.stride(0), x.stride(1), x.stride(2), x.size(1), x.size(2), m.ptr<double>(), m.stride(0), m.stride(1), m.stride(2),
                           Image<T>(y), static_cast<double>(p.mean), static_cast<double>(p.scale)});
  });
}

}  // namespace

const KernelEntry adaptive_avg_pool2d_entry = {run_area};
const KernelEntry adaptive_avg_pool2d_backward_entry = {run_area_backward};
const KernelEntry crop_resize_area_entry = {run_crop};
const KernelEntry warp_affine_entry = {run_warp};
const KernelEntry resize_bilinear_entry = {run_bilinear};
const KernelEntry resize_bilinear_backward_entry = {run_bilinear_backward};

}  // namespace mien::cuda
