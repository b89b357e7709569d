// Curves as pictures, without any other program.
#pragma once

#include <string>
#include <vector>

#include "mien/data/image.h"

namespace mien {

struct Curve {
  std::string name;
  std::vector<double> x, y;
};
// Axes with ticks, grid and legend; values that are not finite are left out. An empty picture of the axes when there is nothing to draw.
Image plot_curves(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Curve>& curves, std::int64_t width = 800, std::int64_t height = 500);

}  // namespace mien
