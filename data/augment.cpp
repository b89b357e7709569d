#include "mien/data/augment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/kernels/ref/ref.h"
#include "mien/tensor/generator.h"

namespace mien {
namespace {

constinit const KernelList warp_kernels{&ref::warp_affine_entry, &KernelTable::warp_affine};

// Numbered draws, so that switching one change off leaves the others as they were.
enum Draw : std::uint64_t { flip, angle, zoom, shift_x, shift_y, brightness, contrast, saturation, gray, blur, blur_size, erase, erase_area, erase_ratio, erase_x, erase_y, erase_color };

class Dice {
 public:
  Dice(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  float share(std::uint64_t draw) const { return philox_uniform(seed_, stream_, draw); }                                             // 0..1
  double around(Draw draw, double range) const { return range * (2 * static_cast<double>(share(draw)) - 1); }                        // -range..range
  bool happens(Draw draw, double probability) const { return static_cast<double>(share(draw)) < probability; }

 private:
  std::uint64_t seed_, stream_;
};

// From the output's pixels to the crop's: mirrored, turned, zoomed and shifted around the middle.
std::array<double, 6> place(const View& crop, const View& out, const Augmentation& a, const Dice& dice) {
  const auto h = static_cast<double>(out.size(1)), w = static_cast<double>(out.size(2));
  const double turn = dice.around(Draw::angle, a.rotate) * 3.14159265358979323846 / 180, step = 1 + dice.around(Draw::zoom, a.zoom);
  const double c = std::cos(turn) * step, s = std::sin(turn) * step, mirror = dice.happens(Draw::flip, a.flip) ? -1 : 1;
  const double x0 = (w - 1) / 2, y0 = (h - 1) / 2;
  const double x1 = (static_cast<double>(crop.size(2)) - 1) / 2 + dice.around(Draw::shift_x, a.shift) * w, y1 = (static_cast<double>(crop.size(1)) - 1) / 2 + dice.around(Draw::shift_y, a.shift) * h;
  return {c * mirror, -s, x1 - c * mirror * x0 + s * y0, s * mirror, c, y1 - s * mirror * x0 - c * y0};
}

// Three planes of h x w floats in 0..255.
struct Planes {
  float* data;
  std::int64_t h, w;
  std::int64_t size() const { return h * w; }
};

void recolor(const Planes& p, const Augmentation& a, const Dice& dice) {
  const auto light = static_cast<float>(255 * dice.around(Draw::brightness, a.brightness)), contrast = static_cast<float>(1 + dice.around(Draw::contrast, a.contrast));
  float color = static_cast<float>(1 + dice.around(Draw::saturation, a.saturation));
  if (dice.happens(Draw::gray, a.gray)) color = 0;
  double sum = 0;
  for (std::int64_t i = 0; i < 3 * p.size(); ++i) sum += static_cast<double>(p.data[i]);
  const auto mean = static_cast<float>(sum / static_cast<double>(3 * p.size()));
  float *r = p.data, *g = r + p.size(), *b = g + p.size();
  for (std::int64_t i = 0; i < p.size(); ++i) {
    const float luma = .299f * r[i] + .587f * g[i] + .114f * b[i];
    for (float* v : {r + i, g + i, b + i}) *v = std::clamp(((luma + (*v - luma) * color) - mean) * contrast + mean + light, 0.f, 255.f);
  }
}

// [1 2 1] / 4 along both axes, once or twice; edges repeat.
void soften(const Planes& p, const Dice& dice) {
  std::vector<float> line(static_cast<std::size_t>(std::max(p.h, p.w)));
  const auto along = [&](float* first, std::int64_t n, std::int64_t step) {
    for (std::int64_t i = 0; i < n; ++i) line[static_cast<std::size_t>(i)] = first[i * step];
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = [&](std::int64_t k) { return line[static_cast<std::size_t>(std::clamp<std::int64_t>(k, 0, n - 1))]; };
      first[i * step] = .25f * at(i - 1) + .5f * at(i) + .25f * at(i + 1);
    }
  };
  const int times = dice.share(Draw::blur_size) < .5f ? 1 : 2;
  for (int k = 0; k < times; ++k)
    for (std::int64_t c = 0; c < 3; ++c) {
      float* plane = p.data + c * p.size();
      for (std::int64_t y = 0; y < p.h; ++y) along(plane + y * p.w, p.w, 1);
      for (std::int64_t x = 0; x < p.w; ++x) along(plane + x, p.h, p.w);
    }
}

void cover(const Planes& p, const Dice& dice) {
  const double area = (.02 + .18 * static_cast<double>(dice.share(Draw::erase_area))) * static_cast<double>(p.size());
  const double ratio = std::exp(dice.around(Draw::erase_ratio, std::log(2.5)));
  const auto h = std::clamp<std::int64_t>(std::llround(std::sqrt(area * ratio)), 1, p.h), w = std::clamp<std::int64_t>(std::llround(std::sqrt(area / ratio)), 1, p.w);
  const auto y = static_cast<std::int64_t>(dice.share(Draw::erase_y) * static_cast<float>(p.h - h + 1)), x = static_cast<std::int64_t>(dice.share(Draw::erase_x) * static_cast<float>(p.w - w + 1));
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t i = y; i < y + h; ++i) std::fill_n(p.data + c * p.size() + i * p.w + x, w, 255 * dice.share(Draw::erase_color + static_cast<std::uint64_t>(c)));
}

}  // namespace

Augmentation Augmentation::scaled(double s) const {
  const auto p = [&](double v) { return std::min(v * s, 1.0); };
  return {flip, rotate * s, zoom * s, shift * s, brightness * s, contrast * s, saturation * s, p(gray), p(blur), p(erase)};
}

void augment_crop(const View& crop, const View& out, const Augmentation& a, std::uint64_t seed, std::uint64_t stream, float mean, float scale) {
  if (crop.rank() != 3 || out.rank() != 3 || crop.size(0) != 3 || out.size(0) != 3 || crop.dtype != DType::u8 || out.dtype != DType::f32 || !out.is_contiguous() || out.size(1) > crop.size(1) ||
      out.size(2) > crop.size(2))
    throw ShapeError("augment_crop", "expects u8[3, H, W] and contiguous f32[3, h <= H, w <= W], got " + std::string(name(crop.dtype)) + to_string(crop.shape) + " and " + name(out.dtype) +
                                         to_string(out.shape));
  const Dice dice(seed, stream);
  auto map = place(crop, out, a, dice);
  const Shape batched{1, 3, out.size(1), out.size(2)};
  const View in[] = {crop, {map.data(), DType::f64, {1, 2, 3}, {6, 3, 1}}}, to{out.data, DType::f32, batched, contiguous_strides(batched)};
  const CropResizeParams plain;
  run_kernel("augment_crop", warp_kernels, in, {&to, 1}, &plain);
  const Planes planes{out.ptr<float>(), out.size(1), out.size(2)};
  recolor(planes, a, dice);
  if (dice.happens(Draw::blur, a.blur)) soften(planes, dice);
  if (dice.happens(Draw::erase, a.erase)) cover(planes, dice);
  for (std::int64_t i = 0; i < 3 * planes.size(); ++i) planes.data[i] = (planes.data[i] - mean) * scale;
}

}  // namespace mien
