// Where the panels of a packed convolution go: outputs, bias, slope and residual of its operands as panel_tile.h wants them.
#pragma once

#include "mien/kernels/cpu/packed_conv.h"
#include "mien/kernels/cpu/panel_tile.h"

namespace mien::MIEN_LEVEL {

// A panel's place: its output, the first column there and in bias and slope.
struct Place {
  const View* y;
  std::int64_t column, values;
};
inline Place place_of(const KernelArgs& a, std::int64_t panel) {
  std::int64_t values = 0;
  for (const View& y : a.out) {
    const std::int64_t mine = ceil_div(y.size(1), panel_cols);
    if (panel < mine) return {&y, panel * panel_cols, values + panel * panel_cols};
    panel -= mine;
    values += y.size(1);
  }
  return {};
}
// The output of a panel, for the block's first pixel.
inline PanelOut panel_out(const KernelArgs& a, std::int64_t panel, std::int64_t pixel) {
  const Place place = place_of(a, panel);
  const PackedExtras extras = packed_extras(a);
  PanelOut o{};
  o.step = pixel_step(*place.y);
  o.y = place.y->ptr<float>() + pixel * o.step + place.column;
  o.cols = std::min<std::int64_t>(panel_cols, place.y->size(1) - place.column);
  o.bias = extras.bias + place.values;
  o.slope = extras.slope ? extras.slope + place.values : nullptr;
  if (extras.residual) {
    o.residual_step = pixel_step(*extras.residual);
    o.residual = extras.residual->ptr<float>() + pixel * o.residual_step + place.column;
  }
  o.relu = a.get<PackedConvParams>().activation == Activation::relu;
  return o;
}

}  // namespace mien::MIEN_LEVEL
