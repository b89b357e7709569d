// Drawing into a picture; whatever leaves it is cut off.
#pragma once

#include <array>
#include <string>

#include "mien/data/image.h"

namespace mien {

using Color = std::array<std::uint8_t, 3>;

void draw_line(Image& image, double x1, double y1, double x2, double y2, Color color, double thickness = 1);
void draw_rect(Image& image, double x1, double y1, double x2, double y2, Color color, double thickness = 1);
void fill_rect(Image& image, double x1, double y1, double x2, double y2, Color color, double opacity = 1);
void draw_disc(Image& image, double x, double y, double radius, Color color);
// 5x7 letters, `scale` pixels a dot; (x, y) is the top left corner. Printable ASCII; others become '?'.
void draw_text(Image& image, std::int64_t x, std::int64_t y, const std::string& text, Color color, int scale = 1);
std::int64_t text_width(const std::string& text, int scale = 1);
inline std::int64_t text_height(int scale = 1) { return 7 * scale; }

// The same letters with smooth strokes; `height` is that of capitals in pixels (9 and more are readable), others reach 2/7 of it below. (x, y) is the top
// left corner of the text, and where it is `turned` (read from bottom to top) the bottom left one.
void draw_smooth_text(Image& image, double x, double y, const std::string& text, Color color, double height, bool turned = false);
inline double smooth_text_width(const std::string& text, double height) { return static_cast<double>(text_width(text)) * height / 7; }

}  // namespace mien
