// Charts as pictures and as SVG, without any other program.
//
//   write_chart("out/roc", {.title = "ROC", .x_label = "false accepts", .y_label = "true accepts", .curves = {{"net", fpr, tpr}}, .log_x = true});
//
// Both forms are drawn from one layout. Text is printable ASCII; other bytes become '?'. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mien/data/image.h"

namespace mien {

struct Curve {
  std::string name;  // in the legend; empty: not listed there
  std::vector<double> x, y;
  // line: through the points. dashed: the same, gray, for what others are compared with. steps: a filled histogram, x holds the edges and thus one value
  // more than y. vertical: a dashed line over the whole height at x[0].
  enum class Look { line, dashed, steps, vertical } look = Look::line;
};

// Values that are not finite are left out. Without a range an axis holds all values and ends on round numbers.
struct Chart {
  std::string title{}, x_label{}, y_label{};
  std::vector<Curve> curves{};
  bool log_x = false;  // ends on powers of ten; what lies left of the axis, zero for instance, is drawn on its left edge
  std::optional<std::array<double, 2>> x_range{}, y_range{};
  std::int64_t width = 800, height = 500;  // pixels
};

// Empty axes when there is nothing to draw.
Image draw_chart(const Chart& chart);
std::string chart_svg(const Chart& chart);
// STEM.png and STEM.svg.
void write_chart(const std::string& stem, const Chart& chart);

// A chart of lines in one call.
Image plot_curves(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Curve>& curves, std::int64_t width = 800, std::int64_t height = 500);

}  // namespace mien
