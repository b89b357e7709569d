#include "mien/data/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>

#include "mien/data/encode.h"
#include "mien/data/plot_canvas_impl.h"
#include "mien/io/file.h"

namespace mien {
namespace {

constexpr Color palette[] = {{31, 119, 180}, {214, 39, 40}, {44, 160, 44}, {255, 127, 14}, {148, 103, 189}, {140, 86, 75}, {227, 119, 194}, {90, 90, 90}};
constexpr Color black{40, 40, 40}, gray{130, 130, 130}, grid{222, 222, 222}, faint{240, 240, 240}, white{255, 255, 255};
constexpr double title_size = 13, label_size = 10, tick_size = 9, row_height = 18;

struct Axis {
  double low, high, step;
  bool log = false;
  // 0 at the low end, 1 at the high one.
  double share(double v) const { return log ? (std::log10(std::max(v, low)) - std::log10(low)) / (std::log10(high) - std::log10(low)) : (v - low) / (high - low); }
};

// Ends on round numbers: 1, 2 or 5 times a power of ten apart.
Axis round_axis(double low, double high, int wanted) {
  if (!(high > low)) {
    const double pad = std::max(std::abs(low) * .05, .5);
    low -= pad;
    high += pad;
  }
  const double raw = (high - low) / wanted, power = std::pow(10, std::floor(std::log10(raw))), lead = raw / power;
  const double step = (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10) * power;
  return {std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step};
}

Axis log_axis(double low, double high) {
  if (!(low > 0)) low = high > 0 ? high / 1000 : .001;
  const double first = std::floor(std::log10(low) + 1e-9), last = std::ceil(std::log10(std::max(high, low)) - 1e-9);
  return {std::pow(10, first), std::pow(10, std::max(last, first + 1)), 0, true};
}

std::string tick_text(double v, double step) {
  char text[32];
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  if (digits > 5 || std::abs(v) >= 1e6) std::snprintf(text, sizeof text, "%.1e", v);
  else std::snprintf(text, sizeof text, "%.*f", digits, std::abs(v) < step * 1e-6 ? 0.0 : v);
  return text;
}

struct Tick {
  double at;         // 0..1 along the axis
  std::string text;  // empty: a faint line between two marks
};
std::vector<Tick> ticks_of(const Axis& a) {
  std::vector<Tick> out;
  if (!a.log) {
    for (double v = std::ceil(a.low / a.step - 1e-9) * a.step; v <= a.high + a.step * 1e-6; v += a.step) out.push_back({a.share(v), tick_text(v, a.step)});
    return out;
  }
  for (double power = a.low; power <= a.high * 1.001; power *= 10) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", power);
    out.push_back({a.share(power), text});
    for (int k = 2; k < 10 && power * 10 <= a.high * 1.001; ++k) out.push_back({a.share(power * k), ""});
  }
  return out;
}

// Liang and Barsky: the part of a segment inside the area; false when there is none.
bool clip(Point& a, Point& b, const Area& area) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  double from = 0, to = 1;
  for (const auto& [step, room] : {Point{-dx, a.x - area.left}, {dx, area.right - a.x}, {-dy, a.y - area.top}, {dy, area.bottom - a.y}}) {
    if (step == 0 && room < 0) return false;
    if (step < 0) from = std::max(from, room / step);
    if (step > 0) to = std::min(to, room / step);
  }
  if (from > to) return false;
  b = {a.x + to * dx, a.y + to * dy};
  a = {a.x + from * dx, a.y + from * dy};
  return true;
}

// Where a legend of width x height hides the fewest points: the upper left end of it in one of the area's four corners (top right wins a tie).
Point quietest_corner(const std::vector<Point>& points, const Area& area, double width, double height) {
  const Point corners[] = {{area.right - width, area.top}, {area.left, area.top}, {area.right - width, area.bottom - height}, {area.left, area.bottom - height}};
  const auto hidden = [&](const Point& c) {
    return std::count_if(points.begin(), points.end(), [&](const Point& p) { return p.x >= c.x && p.x <= c.x + width && p.y >= c.y && p.y <= c.y + height; });
  };
  return *std::min_element(std::begin(corners), std::end(corners), [&](const Point& a, const Point& b) { return hidden(a) < hidden(b); });
}

// How many (x, y) a curve has.
std::size_t length(const Curve& c) { return c.look == Curve::Look::vertical ? std::min<std::size_t>(c.x.size(), 1) : std::min(c.x.size(), c.y.size()); }

class Plot {
 public:
  Plot(const Chart& chart, Canvas& canvas) : chart_(chart), canvas_(canvas) {}

  void draw() {
    choose_axes();
    draw_axes();
    std::vector<Color> colors;
    std::size_t number = 0;
    for (const auto& c : chart_.curves)
      colors.push_back(c.look == Curve::Look::dashed ? gray : c.look == Curve::Look::vertical ? black : palette[number++ % std::size(palette)]);
    for (std::size_t i = 0; i < chart_.curves.size(); ++i) draw_curve(chart_.curves[i], colors[i]);
    canvas_.line({{area_.left, area_.top}, {area_.right, area_.top}, {area_.right, area_.bottom}, {area_.left, area_.bottom}, {area_.left, area_.top}}, black, 1);
    draw_legend(colors);
  }

 private:
  Point at(double x, double y) const {
    return {area_.left + x_.share(x) * (area_.right - area_.left), area_.bottom - y_.share(y) * (area_.bottom - area_.top)};
  }

  void choose_axes() {
    double xl = INFINITY, xh = -INFINITY, yl = INFINITY, yh = -INFINITY;
    const auto widen = [](double v, double& low, double& high) {
      if (!std::isfinite(v)) return;
      low = std::min(low, v);
      high = std::max(high, v);
    };
    for (const auto& c : chart_.curves) {
      const bool bars = c.look == Curve::Look::steps, vertical = c.look == Curve::Look::vertical;
      const std::size_t n = length(c);
      for (std::size_t i = 0; i < n; ++i) {
        if (!vertical && !(std::isfinite(c.x[i]) && std::isfinite(c.y[i]))) continue;
        if (!chart_.log_x || c.x[i] > 0) widen(c.x[i], xl, xh);
        if (!vertical) widen(c.y[i], yl, yh);
      }
      if (bars && n > 0) {
        widen(c.x[std::min(n, c.x.size() - 1)], xl, xh);
        widen(0, yl, yh);
      }
    }
    if (!(xl <= xh)) xl = chart_.log_x ? .001 : 0, xh = 1;
    if (!(yl <= yh)) yl = 0, yh = 1;
    const auto fixed = [](Axis axis, const std::optional<std::array<double, 2>>& range) {
      if (range) axis.low = (*range)[0], axis.high = (*range)[1];
      return axis;
    };
    const auto range_or = [](const std::optional<std::array<double, 2>>& range, double low, double high) { return range.value_or(std::array{low, high}); };
    const auto [x1, x2] = range_or(chart_.x_range, xl, xh);
    const auto [y1, y2] = range_or(chart_.y_range, yl, yh);
    const double width = static_cast<double>(chart_.width), height = static_cast<double>(chart_.height);
    y_ = fixed(round_axis(y1, y2, std::max(2, static_cast<int>(height / 75))), chart_.y_range);
    x_ = chart_.log_x ? log_axis(x1, x2) : fixed(round_axis(x1, x2, std::max(2, static_cast<int>(width / 95))), chart_.x_range);
    double widest = 0;
    for (const auto& t : ticks_of(y_)) widest = std::max(widest, smooth_text_width(t.text, tick_size));
    // Whole pixels: grid and frame stay sharp.
    area_ = {std::round((chart_.y_label.empty() ? 12 : 36) + widest + 10), chart_.title.empty() ? 20.0 : 44.0, width - 26, height - (chart_.x_label.empty() ? 34 : 60)};
  }

  void draw_axes() {
    const double right = static_cast<double>(chart_.width), bottom = static_cast<double>(chart_.height);
    const auto y_ticks = ticks_of(y_), x_ticks = ticks_of(x_);
    for (const bool marks : {false, true})  // faint lines lie below
      for (const auto& t : x_ticks)
        if (const double x = std::round(area_.left + t.at * (area_.right - area_.left)); t.text.empty() != marks) canvas_.line({{x, area_.top}, {x, area_.bottom}}, marks ? grid : faint, 1);
    for (const auto& t : y_ticks) {
      const double y = std::round(area_.bottom - t.at * (area_.bottom - area_.top));
      canvas_.line({{area_.left, y}, {area_.right, y}}, grid, 1);
      canvas_.text({area_.left - 8, y}, t.text, tick_size, black, Align::right);
    }
    for (const auto& t : x_ticks) canvas_.text({area_.left + t.at * (area_.right - area_.left), area_.bottom + 15}, t.text, tick_size, black, Align::middle);
    const auto fitting = [](const std::string& text, double size, double room) { return std::min(size, room / std::max(1.0, smooth_text_width(text, 1))); };
    const double x_middle = (area_.left + area_.right) / 2, y_middle = (area_.top + area_.bottom) / 2;
    canvas_.text({right / 2, 22}, chart_.title, fitting(chart_.title, title_size, right - 20), black, Align::middle);
    canvas_.text({x_middle, bottom - 18}, chart_.x_label, fitting(chart_.x_label, label_size, area_.right - area_.left), black, Align::middle);
    canvas_.text({18, y_middle}, chart_.y_label, fitting(chart_.y_label, label_size, area_.bottom - area_.top), black, Align::middle, true);
  }

  // A line cut at the area's edges and at values that are not finite; its points every few pixels are what the legend shuns.
  void draw_path(const std::vector<Point>& points, Color color, double thickness, bool dashed) {
    std::vector<Point> run;
    const auto flush = [&] {
      if (run.size() > 1) canvas_.line(run, color, thickness, dashed);
      run.clear();
    };
    for (std::size_t i = 1; i < points.size(); ++i) {
      Point a = points[i - 1], b = points[i];
      if (!std::isfinite(a.x + a.y + b.x + b.y) || !clip(a, b, area_)) {
        flush();
        continue;
      }
      if (run.empty() || run.back().x != a.x || run.back().y != a.y) {
        flush();
        run.push_back(a);
      }
      run.push_back(b);
      const double parts = std::ceil(std::hypot(b.x - a.x, b.y - a.y) / 6);
      for (double k = 0; k <= parts; ++k) busy_.push_back({a.x + (b.x - a.x) * k / std::max(parts, 1.0), a.y + (b.y - a.y) * k / std::max(parts, 1.0)});
    }
    flush();
  }

  void draw_bars(const Curve& c, Color color) {
    std::vector<Area> bars;
    std::vector<Point> outline;
    std::size_t first = 0, n = std::min(length(c), c.x.empty() ? 0 : c.x.size() - 1);
    while (first < n && c.y[first] == 0) ++first;  // empty ends have no outline
    while (n > first && c.y[n - 1] == 0) --n;
    for (std::size_t i = first; i < n; ++i) {
      const Point low = at(c.x[i], 0), high = at(c.x[i + 1], c.y[i]);
      if (!std::isfinite(low.x + high.x + high.y)) continue;
      const auto inside = [](double v, double a, double b) { return std::clamp(v, a, b); };
      const Area bar{inside(low.x, area_.left, area_.right), inside(high.y, area_.top, area_.bottom), inside(high.x, area_.left, area_.right), inside(low.y, area_.top, area_.bottom)};
      if (bar.right > bar.left && bar.bottom > bar.top) bars.push_back(bar);
      if (outline.empty()) outline.push_back(low);
      outline.push_back({low.x, high.y});
      outline.push_back(high);
      for (double y = bar.top; y < bar.bottom; y += 6) busy_.push_back({(bar.left + bar.right) / 2, y});
    }
    if (!outline.empty()) outline.push_back({outline.back().x, outline.front().y});
    if (!bars.empty()) canvas_.fill(bars, color, .3);
    draw_path(outline, color, 1.5, false);
  }

  void draw_curve(const Curve& c, Color color) {
    const std::size_t n = length(c);
    if (n == 0) return;
    if (c.look == Curve::Look::steps) return draw_bars(c, color);
    if (c.look == Curve::Look::vertical) return draw_path({at(c.x[0], y_.low), at(c.x[0], y_.high)}, color, 1.5, true);
    std::vector<Point> points;
    for (std::size_t i = 0; i < n; ++i) {
      const Point p = at(c.x[i], c.y[i]);
      // Of points on one spot the first is enough.
      if (i == 0 || i + 1 == n || !(std::hypot(p.x - points.back().x, p.y - points.back().y) < .2)) points.push_back(p);
    }
    const bool dashed = c.look == Curve::Look::dashed;
    draw_path(points, color, dashed ? 1.5 : 2, dashed);
    if (dashed || n > 40) return;
    for (const auto& p : points)
      if (p.x >= area_.left - .5 && p.x <= area_.right + .5 && p.y >= area_.top - .5 && p.y <= area_.bottom + .5) canvas_.disc(p, 3, color);
  }

  void draw_legend(const std::vector<Color>& colors) {
    double widest = 0, rows = 0;
    for (const auto& c : chart_.curves)
      if (!c.name.empty()) {
        widest = std::max(widest, smooth_text_width(c.name, tick_size));
        rows += 1;
      }
    if (rows == 0) return;
    const double width = widest + 52, height = rows * row_height + 8;
    const Point corner = quietest_corner(busy_, {area_.left + 8, area_.top + 8, area_.right - 8, area_.bottom - 8}, width, height);
    const Area box{corner.x, corner.y, corner.x + width, corner.y + height};
    canvas_.fill({box}, white, .88);
    canvas_.line({{box.left, box.top}, {box.right, box.top}, {box.right, box.bottom}, {box.left, box.bottom}, {box.left, box.top}}, grid, 1);
    double y = box.top + 4 + row_height / 2;
    for (std::size_t i = 0; i < chart_.curves.size(); ++i) {
      const Curve& c = chart_.curves[i];
      if (c.name.empty()) continue;
      const bool dashed = c.look == Curve::Look::dashed || c.look == Curve::Look::vertical;
      if (c.look == Curve::Look::steps) canvas_.fill({{box.left + 10, y - 5, box.left + 34, y + 5}}, colors[i], .45);
      else canvas_.line({{box.left + 9, y}, {box.left + 35, y}}, colors[i], dashed ? 1.5 : 2.5, dashed);
      canvas_.text({box.left + 43, y}, c.name, tick_size, black, Align::left);
      y += row_height;
    }
  }

  const Chart& chart_;
  Canvas& canvas_;
  Axis x_{}, y_{};
  Area area_{};
  std::vector<Point> busy_;  // where something is drawn
};

}  // namespace

Image draw_chart(const Chart& chart) {
  PixelCanvas canvas(chart.width, chart.height);
  Plot(chart, canvas).draw();
  return std::move(canvas.image);
}

std::string chart_svg(const Chart& chart) {
  SvgCanvas canvas(chart.width, chart.height);
  Plot(chart, canvas).draw();
  return canvas.finish();
}

void write_chart(const std::string& stem, const Chart& chart) {
  write_png(stem + ".png", draw_chart(chart));
  const std::string svg = chart_svg(chart);
  write_file_atomic(stem + ".svg", std::as_bytes(std::span(svg)));
}

Image plot_curves(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Curve>& curves, std::int64_t width, std::int64_t height) {
  return draw_chart({.title = title, .x_label = x_label, .y_label = y_label, .curves = curves, .width = width, .height = height});
}

}  // namespace mien
