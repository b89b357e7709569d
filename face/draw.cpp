#include "mien/face/draw.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "mien/data/draw.h"

namespace mien {

void draw_faces(Image& image, const std::vector<Face>& faces) {
  const double unit = std::max(1.0, static_cast<double>(std::min(image.width, image.height)) / 300);
  const int letters = std::max(1, static_cast<int>(unit + .3));
  constexpr Color box{0, 200, 60}, point{255, 60, 60}, text{255, 255, 255};
  for (const auto& f : faces) {
    const auto [x1, y1, x2, y2] = f.box;
    draw_rect(image, static_cast<double>(x1), static_cast<double>(y1), static_cast<double>(x2), static_cast<double>(y2), box, 1.5 * unit);
    for (const auto& p : f.points) draw_disc(image, static_cast<double>(p[0]), static_cast<double>(p[1]), 1.3 * unit, point);
    char score[16];
    std::snprintf(score, sizeof score, "%.3f", static_cast<double>(f.score));
    const double w = static_cast<double>(text_width(score, letters)) + 4, h = static_cast<double>(text_height(letters)) + 4;
    const double left = std::max(0.0, static_cast<double>(x1)), above = static_cast<double>(y1) - h, top = above < 0 ? static_cast<double>(y1) : above;
    fill_rect(image, left, top, left + w, top + h, box);
    draw_text(image, std::llround(left) + 2, std::llround(top) + 2, score, text, letters);
  }
}

Image crop_face(const Image& image, const Face& face) {
  const auto x1 = std::max<std::int64_t>(0, std::llround(face.box[0])), y1 = std::max<std::int64_t>(0, std::llround(face.box[1]));
  const auto x2 = std::min<std::int64_t>(image.width, std::llround(face.box[2])), y2 = std::min<std::int64_t>(image.height, std::llround(face.box[3]));
  if (x1 >= x2 || y1 >= y2) return {};
  Image out{x2 - x1, y2 - y1, std::vector<std::uint8_t>(static_cast<std::size_t>((x2 - x1) * (y2 - y1) * 3))};
  for (std::int64_t y = 0; y < out.height; ++y)
    std::memcpy(&out.pixels[static_cast<std::size_t>(y * out.width * 3)], &image.pixels[static_cast<std::size_t>(((y + y1) * image.width + x1) * 3)], static_cast<std::size_t>(out.width * 3));
  return out;
}

}  // namespace mien
