#include "mien/data/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "mien/data/draw.h"

namespace mien {
namespace {

constexpr Color palette[] = {{31, 119, 180}, {214, 39, 40}, {44, 160, 44}, {255, 127, 14}, {148, 103, 189}, {140, 86, 75}, {227, 119, 194}, {90, 90, 90}};
constexpr Color black{30, 30, 30}, grid{225, 225, 225}, white{255, 255, 255};

struct Range {
  double low, high, step;
};

// Ends on round numbers: 1, 2 or 5 times a power of ten apart.
Range round_range(double low, double high, int wanted) {
  if (!(high > low)) {
    const double pad = std::max(std::abs(low) * .05, .5);
    low -= pad;
    high += pad;
  }
  const double raw = (high - low) / wanted, power = std::pow(10, std::floor(std::log10(raw))), lead = raw / power;
  const double step = (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10) * power;
  return {std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step};
}

std::string tick_text(double v, double step) {
  char text[32];
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  if (digits > 5 || std::abs(v) >= 1e6) std::snprintf(text, sizeof text, "%.1e", v);
  else std::snprintf(text, sizeof text, "%.*f", digits, std::abs(v) < step * 1e-6 ? 0.0 : v);
  return text;
}

struct Point {
  double x, y;
};
struct Area {
  double left, top, right, bottom;
};

// Where a legend of width x height hides the fewest points: the upper left end of it in one of the area's four corners (top right wins a tie).
Point quietest_corner(const std::vector<Point>& points, const Area& area, double width, double height) {
  const Point corners[] = {{area.right - width, area.top}, {area.left, area.top}, {area.right - width, area.bottom - height}, {area.left, area.bottom - height}};
  const auto hidden = [&](const Point& c) {
    return std::count_if(points.begin(), points.end(), [&](const Point& p) { return p.x >= c.x && p.x <= c.x + width && p.y >= c.y && p.y <= c.y + height; });
  };
  return *std::min_element(std::begin(corners), std::end(corners), [&](const Point& a, const Point& b) { return hidden(a) < hidden(b); });
}

}  // namespace

Image plot_curves(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Curve>& curves, std::int64_t width, std::int64_t height) {
  Image image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 255)};
  double xl = INFINITY, xh = -INFINITY, yl = INFINITY, yh = -INFINITY;
  std::size_t longest = 0;
  for (const auto& c : curves) {
    longest = std::max(longest, c.name.size());
    for (std::size_t i = 0; i < std::min(c.x.size(), c.y.size()); ++i) {
      if (!std::isfinite(c.x[i]) || !std::isfinite(c.y[i])) continue;
      xl = std::min(xl, c.x[i]);
      xh = std::max(xh, c.x[i]);
      yl = std::min(yl, c.y[i]);
      yh = std::max(yh, c.y[i]);
    }
  }
  if (!(xl <= xh)) xl = yl = 0, xh = yh = 1;
  const Range xr = round_range(xl, xh, 8), yr = round_range(yl, yh, 6);
  const double left = 70, right = static_cast<double>(width) - 20, top = 40, bottom = static_cast<double>(height) - 50;
  const auto px = [&](double v) { return left + (v - xr.low) / (xr.high - xr.low) * (right - left); };
  const auto py = [&](double v) { return bottom - (v - yr.low) / (yr.high - yr.low) * (bottom - top); };
  for (double v = yr.low; v <= yr.high + yr.step * .5; v += yr.step) {
    draw_line(image, left, py(v), right, py(v), grid);
    const std::string text = tick_text(v, yr.step);
    draw_text(image, static_cast<std::int64_t>(left) - 8 - text_width(text), static_cast<std::int64_t>(py(v)) - 3, text, black);
  }
  for (double v = xr.low; v <= xr.high + xr.step * .5; v += xr.step) {
    draw_line(image, px(v), top, px(v), bottom, grid);
    const std::string text = tick_text(v, xr.step);
    draw_text(image, static_cast<std::int64_t>(px(v)) - text_width(text) / 2, static_cast<std::int64_t>(bottom) + 8, text, black);
  }
  draw_rect(image, left, top, right, bottom, black);
  draw_text(image, (width - text_width(title, 2)) / 2, 12, title, black, 2);
  draw_text(image, (width - text_width(x_label)) / 2, height - 20, x_label, black);
  draw_text(image, 8, 26, y_label, black);
  std::vector<Point> points;
  std::size_t number = 0;
  for (const auto& c : curves) {
    const Color color = palette[number++ % std::size(palette)];
    const std::size_t n = std::min(c.x.size(), c.y.size());
    for (std::size_t i = 0; i < n; ++i) {
      points.push_back({px(c.x[i]), py(c.y[i])});
      if (i > 0) draw_line(image, px(c.x[i - 1]), py(c.y[i - 1]), px(c.x[i]), py(c.y[i]), color, 2);
      if (n <= 40) draw_disc(image, px(c.x[i]), py(c.y[i]), 3, color);
    }
  }
  if (!curves.empty()) {
    const double box = static_cast<double>(6 * longest) + 40, h = 14.0 * static_cast<double>(curves.size()) + 8;
    const auto [x, y] = quietest_corner(points, {left + 8, top + 8, right - 8, bottom - 8}, box, h);
    fill_rect(image, x, y, x + box, y + h, white);
    draw_rect(image, x, y, x + box, y + h, grid);
    for (std::size_t k = 0; k < curves.size(); ++k) {
      const double row = y + 8 + 14.0 * static_cast<double>(k);
      draw_line(image, x + 6, row + 3, x + 24, row + 3, palette[k % std::size(palette)], 2);
      draw_text(image, static_cast<std::int64_t>(x) + 30, static_cast<std::int64_t>(row), curves[k].name, black);
    }
  }
  return image;
}

}  // namespace mien
