#include "mien/face/sheet.h"

#include <algorithm>
#include <cmath>

#include "mien/data/draw.h"
#include "mien/ops/resize.h"
#include "mien/tensor/error.h"
#include "mien/tensor/tensor.h"

namespace mien {
namespace {

constexpr Color ink{40, 40, 40}, soft{110, 110, 110}, empty{235, 235, 235};
constexpr double name_size = 9;
constexpr std::int64_t margin = 16, between = 6, text_room = 44;  // text_room: two lines below a pair

// The whole picture, as large as fits, in the middle of a square at (x, y).
void place(Image& sheet, const Image& picture, std::int64_t x, std::int64_t y, std::int64_t side) {
  fill_rect(sheet, static_cast<double>(x), static_cast<double>(y), static_cast<double>(x + side), static_cast<double>(y + side), empty);
  if (picture.width < 1 || picture.height < 1) return;
  const std::int64_t longer = std::max(picture.width, picture.height);
  const std::int64_t w = std::max<std::int64_t>(1, picture.width * side / longer), h = std::max<std::int64_t>(1, picture.height * side / longer);
  const Tensor small = crop_resize_area(planes_of(picture), Tensor::from({std::int64_t{0}, std::int64_t{0}, picture.width, picture.height}, {1, 4}), {h, w});
  const float* values = small.data<float>();
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t i = 0; i < h; ++i)
      for (std::int64_t j = 0; j < w; ++j)
        sheet.pixels[static_cast<std::size_t>(((y + (side - h) / 2 + i) * sheet.width + x + (side - w) / 2 + j) * 3 + c)] =
            static_cast<std::uint8_t>(std::lround(std::clamp(values[(c * h + i) * w + j], 0.f, 255.f)));
}

// What is too long loses its middle: the end of a file's name often tells more than that.
std::string cut(const std::string& text, double size, std::int64_t room) {
  if (smooth_text_width(text, size) <= static_cast<double>(room)) return text;
  constexpr std::size_t end = 5;
  const auto letters = static_cast<std::size_t>((static_cast<double>(room) * 7 / size + 1) / 6);
  return letters < end + 3 ? text.substr(0, letters) : text.substr(0, letters - end - 2) + ".." + text.substr(text.size() - end);
}

}  // namespace

Image contact_sheet(const std::string& title, const std::vector<SheetColumn>& columns, std::int64_t side) {
  if (side < 32) throw ValueError("contact_sheet", "expects squares of at least 32 pixels, got " + std::to_string(side));
  std::size_t rows = 1;
  for (const auto& c : columns) rows = std::max(rows, c.pairs.size());
  const std::int64_t column = 2 * side + between, top = 64, row = side + text_room;
  const std::int64_t width = 2 * margin + std::max<std::int64_t>(1, static_cast<std::int64_t>(columns.size())) * (column + 2 * margin) - 2 * margin;
  Image sheet{width, top + static_cast<std::int64_t>(rows) * row + margin / 2, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width * sheet.height * 3), 255);
  draw_smooth_text(sheet, margin, 14, cut(title, 12, width - 2 * margin), ink, 12);
  std::int64_t x = margin;
  for (const auto& c : columns) {
    draw_smooth_text(sheet, static_cast<double>(x), 42, cut(c.title, 10, column), ink, 10);
    if (c.pairs.empty()) draw_smooth_text(sheet, static_cast<double>(x), static_cast<double>(top) + 8, "none", soft, name_size);
    std::int64_t y = top;
    for (const auto& p : c.pairs) {
      place(sheet, p.left, x, y, side);
      place(sheet, p.right, x + side + between, y, side);
      const auto below = static_cast<double>(y + side);
      draw_smooth_text(sheet, static_cast<double>(x), below + 6, cut(p.left_name, name_size, side), soft, name_size);
      draw_smooth_text(sheet, static_cast<double>(x + side + between), below + 6, cut(p.right_name, name_size, side), soft, name_size);
      draw_smooth_text(sheet, static_cast<double>(x), below + 21, cut(p.text, name_size, column), ink, name_size);
      y += row;
    }
    x += column + 2 * margin;
  }
  return sheet;
}

}  // namespace mien
