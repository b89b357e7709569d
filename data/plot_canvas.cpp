#include <cmath>
#include <cstdio>

#include "mien/data/plot_canvas_impl.h"

namespace mien {
namespace {

constexpr double dash = 7, gap = 5;  // pixels

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", v);
  return text;
}
std::string hex(Color c) {
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", c[0], c[1], c[2]);
  return text;
}
std::string escaped(const std::string& s) {
  std::string out;
  for (const char c : s) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else out += c >= ' ' && c <= '~' ? c : '?';
  }
  return out;
}

}  // namespace

PixelCanvas::PixelCanvas(std::int64_t width, std::int64_t height) : image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 255)} {}

void PixelCanvas::line(const std::vector<Point>& points, Color color, double thickness, bool dashed) {
  double done = 0;  // length so far
  for (std::size_t i = 1; i < points.size(); ++i) {
    const auto [x1, y1] = points[i - 1];
    const auto [x2, y2] = points[i];
    if (!dashed) {
      draw_line(image, x1, y1, x2, y2, color, thickness);
      continue;
    }
    const double length = std::hypot(x2 - x1, y2 - y1);
    for (double start = std::floor(done / (dash + gap)) * (dash + gap); start < done + length && length > 0; start += dash + gap) {
      const double from = std::max(0.0, start - done) / length, to = std::min(length, start + dash - done) / length;
      if (to > from) draw_line(image, x1 + from * (x2 - x1), y1 + from * (y2 - y1), x1 + to * (x2 - x1), y1 + to * (y2 - y1), color, thickness);
    }
    done += length;
  }
}

void PixelCanvas::fill(const std::vector<Area>& boxes, Color color, double opacity) {
  for (const auto& b : boxes) fill_rect(image, b.left, b.top, b.right, b.bottom, color, opacity);
}

void PixelCanvas::disc(const Point& middle, double radius, Color color) { draw_disc(image, middle.x, middle.y, radius, color); }

void PixelCanvas::text(const Point& at, const std::string& text, double size, Color color, Align align, bool turned) {
  const double width = smooth_text_width(text, size), back = align == Align::left ? 0 : align == Align::middle ? width / 2 : width;
  if (turned) draw_smooth_text(image, at.x - size / 2, at.y + back, text, color, size, true);
  else draw_smooth_text(image, at.x - back, at.y - size / 2, text, color, size);
}

SvgCanvas::SvgCanvas(std::int64_t width, std::int64_t height) {
  const std::string w = std::to_string(width), h = std::to_string(height);
  add("svg", {{"xmlns", "http://www.w3.org/2000/svg"}, {"width", w}, {"height", h}, {"viewBox", "0 0 " + w + " " + h}, {"font-family", "Helvetica, Arial, sans-serif"}}, ">\n");
  add("rect", {{"width", "100%"}, {"height", "100%"}, {"fill", "#ffffff"}});
}

void SvgCanvas::add(const char* element, std::initializer_list<Attribute> attributes, const char* end) {
  body_ += '<';
  body_ += element;
  for (const auto& [name, value] : attributes) {
    body_ += ' ';
    body_ += name;
    body_ += "=\"";
    body_ += value;
    body_ += '"';
  }
  body_ += end;
}

void SvgCanvas::line(const std::vector<Point>& points, Color color, double thickness, bool dashed) {
  std::string path;
  for (const auto& p : points) path.append(number(p.x)).append(",").append(number(p.y)).append(" ");
  add("polyline", {{"fill", "none"}, {"stroke-linejoin", "round"}, {"stroke", hex(color)}, {"stroke-width", number(thickness)},
                   {"stroke-dasharray", dashed ? number(dash) + " " + number(gap) : "none"}, {"points", path}});
}

void SvgCanvas::fill(const std::vector<Area>& boxes, Color color, double opacity) {
  std::string path;
  for (const auto& b : boxes)
    path.append("M").append(number(b.left)).append(" ").append(number(b.top)).append("H").append(number(b.right)).append("V").append(number(b.bottom)).append("H").append(number(b.left)).append("Z");
  add("path", {{"fill", hex(color)}, {"fill-opacity", number(opacity)}, {"d", path}});
}

void SvgCanvas::disc(const Point& middle, double radius, Color color) {
  add("circle", {{"cx", number(middle.x)}, {"cy", number(middle.y)}, {"r", number(radius)}, {"fill", hex(color)}});
}

void SvgCanvas::text(const Point& at, const std::string& text, double size, Color color, Align align, bool turned) {
  constexpr double capital = .72;  // height of capitals in a font of size 1
  const double x = turned ? at.x + size / 2 : at.x, y = turned ? at.y : at.y + size / 2;
  add("text", {{"fill", hex(color)}, {"font-size", number(size / capital)}, {"text-anchor", align == Align::left ? "start" : align == Align::middle ? "middle" : "end"},
               {"transform", "translate(" + number(x) + " " + number(y) + ")" + (turned ? " rotate(-90)" : "")}}, ">");
  body_ += escaped(text) + "</text>\n";
}

}  // namespace mien
