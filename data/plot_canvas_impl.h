// What a chart is drawn on: pixels or SVG, with the same calls.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "mien/data/draw.h"

namespace mien {

struct Point {
  double x, y;
};
struct Area {
  double left, top, right, bottom;
};
enum class Align { left, middle, right };

class Canvas {
 public:
  virtual ~Canvas() = default;
  virtual void line(const std::vector<Point>& points, Color color, double thickness, bool dashed = false) = 0;
  virtual void fill(const std::vector<Area>& boxes, Color color, double opacity = 1) = 0;
  virtual void disc(const Point& middle, double radius, Color color) = 0;
  // `at` is the left, middle or right end of the text, half its height; `size` is the height of capitals. Turned text is read from bottom to top.
  virtual void text(const Point& at, const std::string& text, double size, Color color, Align align, bool turned = false) = 0;
};

class PixelCanvas final : public Canvas {
 public:
  PixelCanvas(std::int64_t width, std::int64_t height);
  void line(const std::vector<Point>& points, Color color, double thickness, bool dashed) override;
  void fill(const std::vector<Area>& boxes, Color color, double opacity) override;
  void disc(const Point& middle, double radius, Color color) override;
  void text(const Point& at, const std::string& text, double size, Color color, Align align, bool turned) override;
  Image image;
};

class SvgCanvas final : public Canvas {
 public:
  SvgCanvas(std::int64_t width, std::int64_t height);
  void line(const std::vector<Point>& points, Color color, double thickness, bool dashed) override;
  void fill(const std::vector<Area>& boxes, Color color, double opacity) override;
  void disc(const Point& middle, double radius, Color color) override;
  void text(const Point& at, const std::string& text, double size, Color color, Align align, bool turned) override;
  std::string finish() const { return body_ + "</svg>\n"; }

 private:
  struct Attribute {
    const char* name;
    std::string value;
  };
  void add(const char* element, std::initializer_list<Attribute> attributes, const char* end = "/>\n");
  std::string body_;
};

}  // namespace mien
