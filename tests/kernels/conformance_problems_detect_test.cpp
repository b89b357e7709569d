// The problems of the conformance test, continued: what a face detector needs.
#include <cmath>

#include "kernels/conformance_values.h"
#include "mien/kernels/pnet_params.h"

namespace mien::test {

Problem make_nms(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t n = kind.empty ? 0 : kind.big ? 400 : dice.integer(1, 40);
  const double size = dice.one_of({4., 40., 400.});  // of the picture: crowded or sparse
  const double steps = kind.whole ? 1 : 4;  // a lattice on which f32 is exact: no pair lies within rounding of the threshold
  std::vector<double> boxes;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto draw = [&](double low, double high) { return std::floor(dice.uniform(low, high) * steps) / steps; };
    const double x = draw(-size, size), y = draw(-size, size);
    const double wide = dice.chance(.05) ? 3 * size : dice.chance(.05) ? -2 : 20;  // some cover everything, some are turned inside out
    for (const double v : {x, y, x + draw(0, wide), y + draw(0, wide)}) boxes.push_back(v);
  }
  std::size_t next = 0;
  Problem p;
  p.in.push_back(filled({n, 4}, DType::f32, any_order(dice, false), dice, [&] { return boxes[next++]; }));
  p.in.push_back(filled({n}, DType::f32, any_order(dice), dice, [&] { return kind.whole ? static_cast<double>(dice.integer(0, 5)) : dice.uniform(0, 1); }));  // ties
  if (kind.nan) spoil(p.in[dice.chance(.5) ? 0 : 1], dice);
  p.out.push_back({{n}, DType::i64, dice.chance(.9) ? Order::contiguous : Order::stepped, {}});
  p.out.push_back({{1}, DType::i64, Order::contiguous, {}});
  p.set_params(NmsParams{dice.one_of({0., .3719, .5}), dice.chance(.5) ? NmsMode::union_ : NmsMode::min, dice.chance(.5) ? 1 : 0});
  p.exact = true;
  return p;
}

// Threshold 0: every cell is in the outputs. Others: tests/ops/pnet_test.cpp.
Problem make_pnet_candidates(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t h = kind.big ? 150 : dice.integer(1, 60), w = kind.big ? 90 : dice.integer(1, 60);
  Operand image({1, 3, h, w}, DType::u8, dice.chance(.8) ? Order::channels_last : any_order(dice, false), dice);
  for (const auto o : image.offsets()) image.set(o, static_cast<double>(dice.integer(0, 255)));
  image.drop_first();
  const std::int64_t scales = kind.empty ? 0 : dice.integer(1, 3);
  std::vector<double> sizes;
  std::int64_t cells = 0;
  for (std::int64_t s = 0; s < scales; ++s) {
    const std::int64_t a = kind.big ? dice.integer(80, 160) : dice.integer(11, 24), b = 10 + (kind.big ? 40 : 0) + kind.width;
    sizes.push_back(static_cast<double>(a));
    sizes.push_back(static_cast<double>(b));
    cells += ((a - 1) / 2 - 4) * ((b - 1) / 2 - 4);
  }
  std::size_t next = 0;
  Problem p;
  p.in.push_back(std::move(image));
  p.in.push_back(filled({scales, 2}, DType::i64, Order::contiguous, dice, [&] { return sizes[next++]; }));
  for (const Shape& shape : {Shape{10, 3, 3, 3}, Shape{10}, Shape{10}, Shape{16, 10, 3, 3}, Shape{16}, Shape{16}, Shape{32, 16, 3, 3}, Shape{32}, Shape{32}, Shape{2, 32, 1, 1},
                             Shape{2}, Shape{4, 32, 1, 1}, Shape{4}})
    p.in.push_back(filled(shape, DType::f32, any_order(dice, false), dice, [&] { return dice.uniform(-.25, .25); }));
  p.out.push_back({{cells}, DType::i64, Order::contiguous, {}});
  p.out.push_back({{cells, 5}, DType::f32, Order::contiguous, {}});
  p.out.push_back({{scales}, DType::i64, Order::contiguous, {}});
  PnetPyramidParams q;
  q.threshold = 0;
  q.scales = static_cast<std::int16_t>(scales);
  for (std::size_t s = 0; s < sizes.size(); ++s) q.size[s / 2][s % 2] = static_cast<std::int16_t>(sizes[s]);
  p.set_params(q);
  return p;
}

Problem make_conv_chain(Dice& dice, int number) {
  const Kind kind(number, dice);
  const bool square = dice.chance(.3);  // 3x3 kernels of more channels on larger maps
  Shape now{kind.empty ? 0 : dice.integer(1, kind.big ? 40 : 18), square ? dice.integer(8, 12) : dice.integer(1, 5), square ? dice.integer(5, 13) : dice.integer(3, 9),
            square ? dice.integer(5, 13) : 2 + kind.width};
  Problem p;
  p.in.push_back(filled(now, DType::f32, dice.chance(.9) ? Order::contiguous : any_order(dice), dice, values_of(kind, dice)));
  ConvChainParams q;
  const std::int64_t wanted = dice.integer(1, kind.whole ? 2 : 4);  // two layers of whole numbers stay exact
  for (; q.layers < wanted; ++q.layers) {
    ChainLayer& l = q.layer[static_cast<std::size_t>(q.layers)];
    const std::int64_t largest = std::min<std::int64_t>(3, std::min(now[2], now[3]));
    l.kernel = static_cast<std::int8_t>(square && dice.chance(.7) ? largest : dice.integer(1, largest));
    p.by_largest |= l.kernel == 3 && now[1] >= 8;  // Winograd rounds whole numbers, too
    l.channels = static_cast<std::int16_t>(dice.integer(1, kind.big ? 40 : 20));
    if (dice.chance(.4)) l.channels = static_cast<std::int16_t>((l.channels + 7) / 8 * 8);  // Winograd's
    l.pool = dice.one_of<std::int8_t>({0, 0, 1, 2, 3, 3});
    l.prelu = dice.chance(.7);
    const std::int64_t depth = l.kernel * l.kernel * now[1], panels = (l.channels + packed_columns - 1) / packed_columns;
    const double size = 2 / std::sqrt(static_cast<double>(depth));
    std::int64_t at = -1;
    p.in.push_back(filled({panels, depth, packed_columns}, DType::f32, Order::contiguous, dice, [&] {
      ++at;
      if (at / (depth * packed_columns) * packed_columns + at % packed_columns >= l.channels) return 0.;
      return kind.whole ? static_cast<double>(dice.integer(-3, 3)) : dice.uniform(-size, size);
    }));
    for (int i = 0; i < (l.prelu ? 2 : 1); ++i) p.in.push_back(filled({l.channels}, DType::f32, any_order(dice), dice, values_of(kind, dice)));
    now = {now[0], l.channels, now[2] - l.kernel + 1, now[3] - l.kernel + 1};
    if (l.pool) now = {now[0], now[1], pooled_side(now[2], l.pool), pooled_side(now[3], l.pool)};
  }
  p.out.push_back({now, DType::f32, output_order(dice), {}});
  p.set_params(q);
  p.exact = kind.whole && !p.by_largest;
  return p;
}

}  // namespace mien::test
