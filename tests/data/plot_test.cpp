// Charts: both forms, what is cut, what stands where.
#include <cmath>
#include <set>

#include "catch.h"
#include "mien/data/draw.h"
#include "mien/data/plot.h"
#include "mien/io/file.h"

namespace fs = std::filesystem;

namespace mien::test {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}
bool has_color(const Image& image, Color c) {
  for (std::size_t i = 0; i + 2 < image.pixels.size(); i += 3)
    if (image.pixels[i] == c[0] && image.pixels[i + 1] == c[1] && image.pixels[i + 2] == c[2]) return true;
  return false;
}
// Elements that are opened are closed, text holds no bare < or &: enough of XML for what charts write.
bool is_balanced(const std::string& svg) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < svg.size(); ++i) {
    if (svg[i] == '&' && svg.compare(i, 5, "&amp;") != 0 && svg.compare(i, 4, "&lt;") != 0 && svg.compare(i, 4, "&gt;") != 0) return false;
    if (svg[i] != '<') continue;
    const auto end = svg.find('>', i);
    if (end == std::string::npos || count(svg.substr(i, end - i), "\"") % 2 != 0) return false;
    const std::string tag = svg.substr(i + 1, end - i - 1);
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    i = end;
  }
  return open.empty();
}
constexpr Color blue{31, 119, 180}, red{214, 39, 40};

}  // namespace

TEST_CASE("a chart has the wanted size and both curves, as picture and as SVG") {
  const Chart chart{.title = "a < b & \"c\"", .x_label = "epoch", .y_label = "loss \xc3\xa9", .curves = {{"one", {1, 2, 3}, {3, 2, 1}}, {"two", {1, 2, 3}, {1, NAN, 3}}}};
  const Image image = draw_chart(chart);
  CHECK(image.width == 800);
  CHECK(image.height == 500);
  CHECK(has_color(image, blue));
  CHECK(has_color(image, red));
  const std::string svg = chart_svg(chart);
  CHECK(is_balanced(svg));
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"500\""));
  CHECK(svg.find(">a &lt; b &amp; \"c\"<") != std::string::npos);
  CHECK(svg.find(">loss ?" "?<") != std::string::npos);
  CHECK(count(svg, "<circle") == 5);  // few points are marked; the NaN is not
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(plot_curves(chart.title, chart.x_label, chart.y_label, chart.curves).pixels == image.pixels);
}

TEST_CASE("a chart of nothing, of one point and of equal values") {
  for (const auto& curves : std::vector<std::vector<Curve>>{{}, {{"none", {}, {}}}, {{"point", {2}, {5}}}, {{"flat", {0, 1}, {7, 7}}}, {{"bad", {NAN, 1}, {1, INFINITY}}}})
    for (const bool log_x : {false, true}) {
      const Chart chart{.title = "edge", .curves = curves, .log_x = log_x};
      CHECK(draw_chart(chart).pixels.size() == 800 * 500 * 3);
      const std::string svg = chart_svg(chart);
      CHECK(is_balanced(svg));
      CHECK(svg.find("nan") == std::string::npos);
      CHECK(svg.find("inf") == std::string::npos);
    }
}

TEST_CASE("a logarithmic axis ends on powers of ten; zero stands on its left edge") {
  const std::string svg = chart_svg({.title = "", .curves = {{"roc", {0, .003, .5, 1}, {.2, .4, .8, 1}}}, .log_x = true});
  for (const char* tick : {">0.001<", ">0.01<", ">0.1<", ">1<"}) CHECK(count(svg, tick) == 1);
  CHECK(svg.find(">0.0001<") == std::string::npos);
}

TEST_CASE("what leaves a fixed range is cut at its edge") {
  const Chart chart{.curves = {{"", {-10, 10}, {-10, 10}}}, .x_range = std::array{0.0, 4.0}, .y_range = std::array{0.0, 1.0}};
  const std::string svg = chart_svg(chart);
  const auto at = svg.find("stroke=\"#1f77b4\"");
  REQUIRE(at != std::string::npos);
  const auto points = svg.substr(svg.find("points=\"", at) + 8, 30);
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  REQUIRE(std::sscanf(points.c_str(), "%lf,%lf %lf,%lf", &x1, &y1, &x2, &y2) == 4);
  CHECK(y1 == 466);  // from (0, 0) ...
  CHECK(y2 == 20);   // ... to (1, 1), a quarter of the way along x
  CHECK((x2 - x1) / (774 - x1) == Approx(.25).epsilon(.001));
}

TEST_CASE("a histogram is filled, a vertical line dashed, names that are empty not in the legend") {
  const Chart chart{.title = "t", .curves = {{"bars", {0, 1, 2, 3}, {0, 5, 0}, Curve::Look::steps}, {"", {1.5}, {}, Curve::Look::vertical}}};
  const std::string svg = chart_svg(chart);
  CHECK(is_balanced(svg));
  CHECK(count(svg, "fill-opacity=\"0.30\"") == 1);
  CHECK(count(svg, "stroke-dasharray=\"7.00 5.00\"") == 1);
  CHECK(count(svg, ">bars<") == 1);
}

TEST_CASE("a chart is written in both forms") {
  const fs::path dir = temp_dir("chart");
  write_chart((dir / "c").string(), {.title = "t", .curves = {{"one", {1, 2}, {1, 2}}}});
  CHECK(read_image((dir / "c.png").string()).width == 800);
  CHECK(read_file((dir / "c.svg").string()).size() > 500);
  fs::remove_all(dir);
}

TEST_CASE("smooth letters all differ and stay in their rows") {
  std::set<std::string> seen;
  for (char c = '!'; c <= '~'; ++c) {
    Image image{40, 40, std::vector<std::uint8_t>(40 * 40 * 3, 255)};
    draw_smooth_text(image, 10, 10, std::string(1, c), {0, 0, 0}, 14);
    INFO(c);
    CHECK(seen.insert(std::string(image.pixels.begin(), image.pixels.end())).second);
    bool outside = false;
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 40; ++x)
        if ((y < 9 || y > 29 || x < 9 || x > 21) && image.pixels[static_cast<std::size_t>((y * 40 + x) * 3)] < 200) outside = true;
    CHECK_FALSE(outside);
  }
}

}  // namespace mien::test
