// P-Net over the scales of a picture, map by map.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
struct Map {
  T* data;
  std::int64_t c, h, w;
  T& operator()(std::int64_t ic, std::int64_t ih, std::int64_t iw) const { return data[(ic * h + ih) * w + iw]; }
  std::int64_t numel() const { return c * h * w; }
};

struct PnetSizes {
  std::int64_t h, w, pooled_h, pooled_w, cells_h, cells_w;
  PnetSizes(const View& sizes, std::int64_t s) {
    h = typed<std::int64_t>(sizes)[s * sizes.stride(0)];
    w = typed<std::int64_t>(sizes)[s * sizes.stride(0) + sizes.stride(1)];
    pooled_h = (h - 1) / 2, pooled_w = (w - 1) / 2;
    cells_h = pooled_h - 4, cells_w = pooled_w - 4;
  }
  std::int64_t values() const { return 3 * h * w + 10 * (h - 2) * (w - 2) + 10 * pooled_h * pooled_w + 16 * (cells_h + 2) * (cells_w + 2) + (32 + 2 + 4) * cells_h * cells_w; }
};

template <class T>
void area_resize(const View& image, const Map<T>& y) {
  const auto* x = typed<std::uint8_t>(image);
  const std::int64_t H = image.size(1), W = image.size(2);
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t oh = 0; oh < y.h; ++oh)
      for (std::int64_t ow = 0; ow < y.w; ++ow) {
        const std::int64_t top = oh * H / y.h, bottom = ((oh + 1) * H + y.h - 1) / y.h, left = ow * W / y.w, right = ((ow + 1) * W + y.w - 1) / y.w;
        double sum = 0;
        for (std::int64_t h = top; h < bottom; ++h)
          for (std::int64_t w = left; w < right; ++w) sum += static_cast<double>(x[c * image.stride(0) + h * image.stride(1) + w * image.stride(2)]);
        y(c, oh, ow) = static_cast<T>((sum / static_cast<double>((bottom - top) * (right - left)) - 127.5) / 128);
      }
}

// Convolution with bias, and PReLU when there is a slope.
template <class T>
void layer(const Map<T>& x, const View& weight, const View& bias, const View* slope, const Map<T>& y) {
  const auto *w = typed<T>(weight), *b = typed<T>(bias);
  for (std::int64_t o = 0; o < y.c; ++o)
    for (std::int64_t oh = 0; oh < y.h; ++oh)
      for (std::int64_t ow = 0; ow < y.w; ++ow) {
        T sum = b[o * bias.stride(0)];
        for (std::int64_t c = 0; c < x.c; ++c)
          for (std::int64_t i = 0; i < weight.size(2); ++i)
            for (std::int64_t j = 0; j < weight.size(3); ++j)
              sum += w[o * weight.stride(0) + c * weight.stride(1) + i * weight.stride(2) + j * weight.stride(3)] * x(c, oh + i, ow + j);
        y(o, oh, ow) = slope && !(sum > 0) ? sum * typed<T>(*slope)[o * slope->stride(0)] : sum;
      }
}

template <class T>
void pool(const Map<T>& x, const Map<T>& y) {
  for (std::int64_t c = 0; c < y.c; ++c)
    for (std::int64_t oh = 0; oh < y.h; ++oh)
      for (std::int64_t ow = 0; ow < y.w; ++ow) {
        T best = x(c, 2 * oh, 2 * ow);
        for (std::int64_t h = 2 * oh; h < std::min(2 * oh + 2, x.h); ++h)
          for (std::int64_t w = 2 * ow; w < std::min(2 * ow + 2, x.w); ++w) best = std::max(best, x(c, h, w));
        y(c, oh, ow) = best;
      }
}

template <class T>
void pnet_candidates(const KernelArgs& args) {
  const T threshold = static_cast<T>(args.get<PnetParams>().threshold);
  const auto in = args.in.subspan(2);
  auto *cells = typed<std::int64_t>(args.out[0]), *counts = typed<std::int64_t>(args.out[2]);
  T* values = typed<T>(args.out[1]);
  const View &vc = args.out[0], &vv = args.out[1];
  std::int64_t total = 0;
  for (std::int64_t s = 0; s < args.in[1].size(0); ++s) {
    const PnetSizes z(args.in[1], s);
    T* at = static_cast<T*>(args.workspace);
    const auto map = [&](std::int64_t c, std::int64_t h, std::int64_t w) {
      const Map<T> m{at, c, h, w};
      at += m.numel();
      return m;
    };
    const Map<T> picture = map(3, z.h, z.w), first = map(10, z.h - 2, z.w - 2), pooled = map(10, z.pooled_h, z.pooled_w);
    const Map<T> second = map(16, z.cells_h + 2, z.cells_w + 2), third = map(32, z.cells_h, z.cells_w), face = map(2, z.cells_h, z.cells_w), box = map(4, z.cells_h, z.cells_w);
    area_resize(args.in[0], picture);
    layer(picture, in[0], in[1], &in[2], first);
    pool(first, pooled);
    layer(pooled, in[3], in[4], &in[5], second);
    layer(second, in[6], in[7], &in[8], third);
    layer(third, in[9], in[10], nullptr, face);
    layer(third, in[11], in[12], nullptr, box);
    const std::int64_t before = total;
    for (std::int64_t i = 0; i < z.cells_h * z.cells_w; ++i) {
      const T no = face(0, 0, i), yes = face(1, 0, i), top = std::max(no, yes), a = std::exp(no - top), b = std::exp(yes - top);
      if (!(b / (a + b) >= threshold)) continue;
      cells[total * vc.stride(0)] = i;
      values[total * vv.stride(0)] = b / (a + b);
      for (std::int64_t k = 0; k < 4; ++k) values[total * vv.stride(0) + (k + 1) * vv.stride(1)] = box(k, 0, i);
      ++total;
    }
    counts[s * args.out[2].stride(0)] = total - before;
  }
}

void run_pnet_candidates(const KernelArgs& args) {
  dispatch_float(args.out[1].dtype, "pnet_candidates", [&](auto t) { pnet_candidates<decltype(t)>(args); });
}
std::int64_t map_bytes(const KernelArgs& args) {
  std::int64_t most = 0;
  for (std::int64_t s = 0; s < args.in[1].size(0); ++s) most = std::max(most, PnetSizes(args.in[1], s).values());
  return most * item_size(args.out[1].dtype);
}

}  // namespace

const KernelEntry pnet_candidates_entry = {run_pnet_candidates, nullptr, map_bytes};

}  // namespace mien::ref
