#include "mien/data/draw.h"

#include <algorithm>
#include <cmath>

namespace mien {
namespace {

// 5 columns a letter, lowest bit on top, from ' ' to '~'.
constexpr std::uint8_t letters[95][5] = {
    {0, 0, 0, 0, 0}, {0, 0, 0x5f, 0, 0}, {0, 7, 0, 7, 0}, {0x14, 0x7f, 0x14, 0x7f, 0x14}, {0x24, 0x2a, 0x7f, 0x2a, 0x12}, {0x23, 0x13, 8, 0x64, 0x62},
    {0x36, 0x49, 0x55, 0x22, 0x50}, {0, 5, 3, 0, 0}, {0, 0x1c, 0x22, 0x41, 0}, {0, 0x41, 0x22, 0x1c, 0}, {8, 0x2a, 0x1c, 0x2a, 8}, {8, 8, 0x3e, 8, 8},
    {0, 0x50, 0x30, 0, 0}, {8, 8, 8, 8, 8}, {0, 0x60, 0x60, 0, 0}, {0x20, 0x10, 8, 4, 2}, {0x3e, 0x51, 0x49, 0x45, 0x3e}, {0, 0x42, 0x7f, 0x40, 0},
    {0x42, 0x61, 0x51, 0x49, 0x46}, {0x21, 0x41, 0x45, 0x4b, 0x31}, {0x18, 0x14, 0x12, 0x7f, 0x10}, {0x27, 0x45, 0x45, 0x45, 0x39}, {0x3c, 0x4a, 0x49, 0x49, 0x30},
    {1, 0x71, 9, 5, 3}, {0x36, 0x49, 0x49, 0x49, 0x36}, {6, 0x49, 0x49, 0x29, 0x1e}, {0, 0x36, 0x36, 0, 0}, {0, 0x56, 0x36, 0, 0}, {8, 0x14, 0x22, 0x41, 0},
    {0x14, 0x14, 0x14, 0x14, 0x14}, {0, 0x41, 0x22, 0x14, 8}, {2, 1, 0x51, 9, 6}, {0x32, 0x49, 0x79, 0x41, 0x3e}, {0x7e, 0x11, 0x11, 0x11, 0x7e},
    {0x7f, 0x49, 0x49, 0x49, 0x36}, {0x3e, 0x41, 0x41, 0x41, 0x22}, {0x7f, 0x41, 0x41, 0x22, 0x1c}, {0x7f, 0x49, 0x49, 0x49, 0x41}, {0x7f, 9, 9, 9, 1},
    {0x3e, 0x41, 0x49, 0x49, 0x7a}, {0x7f, 8, 8, 8, 0x7f}, {0, 0x41, 0x7f, 0x41, 0}, {0x20, 0x40, 0x41, 0x3f, 1}, {0x7f, 8, 0x14, 0x22, 0x41}, {0x7f, 0x40, 0x40, 0x40, 0x40},
    {0x7f, 2, 0xc, 2, 0x7f}, {0x7f, 4, 8, 0x10, 0x7f}, {0x3e, 0x41, 0x41, 0x41, 0x3e}, {0x7f, 9, 9, 9, 6}, {0x3e, 0x41, 0x51, 0x21, 0x5e}, {0x7f, 9, 0x19, 0x29, 0x46},
    {0x46, 0x49, 0x49, 0x49, 0x31}, {1, 1, 0x7f, 1, 1}, {0x3f, 0x40, 0x40, 0x40, 0x3f}, {0x1f, 0x20, 0x40, 0x20, 0x1f}, {0x3f, 0x40, 0x38, 0x40, 0x3f},
    {0x63, 0x14, 8, 0x14, 0x63}, {7, 8, 0x70, 8, 7}, {0x61, 0x51, 0x49, 0x45, 0x43}, {0, 0x7f, 0x41, 0x41, 0}, {2, 4, 8, 0x10, 0x20}, {0, 0x41, 0x41, 0x7f, 0},
    {4, 2, 1, 2, 4}, {0x40, 0x40, 0x40, 0x40, 0x40}, {0, 1, 2, 4, 0}, {0x20, 0x54, 0x54, 0x54, 0x78}, {0x7f, 0x48, 0x44, 0x44, 0x38}, {0x38, 0x44, 0x44, 0x44, 0x20},
    {0x38, 0x44, 0x44, 0x48, 0x7f}, {0x38, 0x54, 0x54, 0x54, 0x18}, {8, 0x7e, 9, 1, 2}, {0xc, 0x52, 0x52, 0x52, 0x3e}, {0x7f, 8, 4, 4, 0x78}, {0, 0x44, 0x7d, 0x40, 0},
    {0x20, 0x40, 0x44, 0x3d, 0}, {0x7f, 0x10, 0x28, 0x44, 0}, {0, 0x41, 0x7f, 0x40, 0}, {0x7c, 4, 0x18, 4, 0x78}, {0x7c, 8, 4, 4, 0x78}, {0x38, 0x44, 0x44, 0x44, 0x38},
    {0x7c, 0x14, 0x14, 0x14, 8}, {8, 0x14, 0x14, 0x18, 0x7c}, {0x7c, 8, 4, 4, 8}, {0x48, 0x54, 0x54, 0x54, 0x20}, {4, 0x3f, 0x44, 0x40, 0x20}, {0x3c, 0x40, 0x40, 0x20, 0x7c},
    {0x1c, 0x20, 0x40, 0x20, 0x1c}, {0x3c, 0x40, 0x30, 0x40, 0x3c}, {0x44, 0x28, 0x10, 0x28, 0x44}, {0xc, 0x50, 0x50, 0x50, 0x3c}, {0x44, 0x64, 0x54, 0x4c, 0x44},
    {0, 8, 0x36, 0x41, 0}, {0, 0, 0x7f, 0, 0}, {0, 0x41, 0x36, 8, 0}, {8, 4, 8, 0x10, 8}};

bool has_dot(char letter, int column, int row) { return letters[letter >= ' ' && letter <= '~' ? letter - ' ' : '?' - ' '][column] >> row & 1; }

// What goes below the line in smooth text: two more rows.
constexpr struct {
  char letter;
  std::uint16_t columns[5];
} descending[] = {{'g', {0x38, 0x144, 0x144, 0x144, 0xfc}}, {'j', {0x80, 0x100, 0x104, 0xfd, 0}}, {'p', {0x1fc, 0x44, 0x44, 0x44, 0x38}}, {'q', {0x38, 0x44, 0x44, 0x44, 0x1fc}},
                  {'y', {0x3c, 0x140, 0x140, 0x140, 0xfc}}, {',', {0, 0x80, 0x60, 0, 0}}, {';', {0, 0x80, 0x64, 0, 0}}};

bool has_smooth_dot(char letter, int column, int row) {
  if (column < 0 || column > 4 || row < 0 || row > 8) return false;
  for (const auto& d : descending)
    if (d.letter == letter) return d.columns[column] >> row & 1;
  return has_dot(letter, column, row);
}

void put(Image& image, std::int64_t x, std::int64_t y, Color color, double share = 1) {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  for (std::size_t c = 0; c < 3; ++c) {
    auto& p = image.pixels[static_cast<std::size_t>((y * image.width + x) * 3) + c];
    p = static_cast<std::uint8_t>(std::lround(static_cast<double>(p) * (1 - share) + static_cast<double>(color[c]) * share));
  }
}

}  // namespace

void fill_rect(Image& image, double x1, double y1, double x2, double y2, Color color, double opacity) {
  const auto left = std::max<std::int64_t>(0, std::llround(x1)), top = std::max<std::int64_t>(0, std::llround(y1));
  const auto right = std::min(image.width, static_cast<std::int64_t>(std::llround(x2))), bottom = std::min(image.height, static_cast<std::int64_t>(std::llround(y2)));
  for (std::int64_t y = top; y < bottom; ++y)
    for (std::int64_t x = left; x < right; ++x) put(image, x, y, color, opacity);
}

// Every pixel near the line is covered by its distance: smooth edges at any angle.
void draw_line(Image& image, double x1, double y1, double x2, double y2, Color color, double thickness) {
  const double r = thickness / 2, dx = x2 - x1, dy = y2 - y1, length2 = dx * dx + dy * dy;
  if (!std::isfinite(x1 + y1 + x2 + y2)) return;
  const auto clip = [](double v, std::int64_t n) { return static_cast<std::int64_t>(std::clamp(v, -1.0, static_cast<double>(n))); };
  for (std::int64_t y = clip(std::min(y1, y2) - r - 1, image.height); y <= clip(std::max(y1, y2) + r + 1, image.height); ++y)
    for (std::int64_t x = clip(std::min(x1, x2) - r - 1, image.width); x <= clip(std::max(x1, x2) + r + 1, image.width); ++x) {
      const double px = static_cast<double>(x) - x1, py = static_cast<double>(y) - y1;
      const double t = length2 > 0 ? std::clamp((px * dx + py * dy) / length2, 0.0, 1.0) : 0;
      const double distance = std::hypot(px - t * dx, py - t * dy), share = std::clamp(r + .5 - distance, 0.0, 1.0);
      if (share > 0) put(image, x, y, color, share);
    }
}

void draw_rect(Image& image, double x1, double y1, double x2, double y2, Color color, double thickness) {
  draw_line(image, x1, y1, x2, y1, color, thickness);
  draw_line(image, x2, y1, x2, y2, color, thickness);
  draw_line(image, x2, y2, x1, y2, color, thickness);
  draw_line(image, x1, y2, x1, y1, color, thickness);
}

void draw_disc(Image& image, double x, double y, double radius, Color color) { draw_line(image, x, y, x, y, color, 2 * radius); }

void draw_text(Image& image, std::int64_t x, std::int64_t y, const std::string& text, Color color, int scale) {
  for (const char ch : text) {
    for (int col = 0; col < 5; ++col)
      for (int row = 0; row < 7; ++row)
        if (has_dot(ch, col, row))
          for (int i = 0; i < scale; ++i)
            for (int j = 0; j < scale; ++j) put(image, x + col * scale + i, y + row * scale + j, color);
    x += 6 * scale;
  }
}

// Neighbouring dots are joined by strokes: straight ones first, slanting ones where no corner joins them already.
void draw_smooth_text(Image& image, double x, double y, const std::string& text, Color color, double height, bool turned) {
  const double dot = height / 7, thickness = std::max(1.1, dot * .75);
  const auto stroke = [&](double from, int col, int row, int to_col, int to_row) {
    const double x1 = from + (col + .5) * dot, y1 = (row + .5) * dot, x2 = from + (to_col + .5) * dot, y2 = (to_row + .5) * dot;
    if (turned) draw_line(image, x + y1, y - x1, x + y2, y - x2, color, thickness);
    else draw_line(image, x + x1, y + y1, x + x2, y + y2, color, thickness);
  };
  double from = 0;
  for (const char ch : text) {
    for (int col = 0; col < 5; ++col)
      for (int row = 0; row < 9; ++row) {
        if (!has_smooth_dot(ch, col, row)) continue;
        bool joined = has_smooth_dot(ch, col - 1, row) || has_smooth_dot(ch, col, row - 1);
        for (const auto& [dc, dr] : {std::pair{1, 0}, {0, 1}, {1, 1}, {1, -1}}) {
          if (!has_smooth_dot(ch, col + dc, row + dr) || (dc && dr && (has_smooth_dot(ch, col + dc, row) || has_smooth_dot(ch, col, row + dr)))) continue;
          stroke(from, col, row, col + dc, row + dr);
          joined = true;
        }
        if (!joined) stroke(from, col, row, col, row);
      }
    from += 6 * dot;
  }
}

std::int64_t text_width(const std::string& text, int scale) { return text.empty() ? 0 : static_cast<std::int64_t>(text.size()) * 6 * scale - scale; }

}  // namespace mien
