// The problems of the conformance test: one maker per fast CPU kernel. `number` walks through sizes, data and memory orders in a fixed way,
// the dice choose the rest.
#include "kernels/conformance_values.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/unary_table.h"

namespace mien::test {
namespace {

// --- convolution -----------------------------------------------------------------------------------------------------
struct ConvCase {
  Shape x, w, y;
  ConvParams p;
  bool last = false;  // picture and output are channels_last
  Order picture(Dice& dice) const { return last ? Order::channels_last : any_order(dice); }
  Order output(Dice& dice) const { return last ? Order::channels_last : output_order(dice); }
};
std::int64_t conv_size(std::int64_t in, std::int64_t pads, std::int64_t dilation, std::int64_t kernel, std::int64_t stride) {
  return (in + pads - dilation * (kernel - 1) - 1) / stride + 1;
}
ConvCase conv_case(const Kind& kind, Dice& dice) {
  ConvCase c;
  c.p.groups = dice.one_of<std::int64_t>({1, 1, 1, 2, 3});
  std::int64_t channels = c.p.groups * dice.integer(1, 4), outputs = c.p.groups * dice.integer(1, kind.big && c.p.groups == 1 ? 20 : 7);
  if (dice.chance(.15)) outputs = channels = c.p.groups = dice.integer(1, 9);  // depthwise
  Pair kernel{dice.integer(1, 5), dice.integer(1, 4)};
  c.last = dice.chance(.5);
  if (c.last) {  // channels past one and two vectors; now and then more taps than one block of the product
    const bool depthwise = dice.chance(.4), pointwise = dice.chance(.3);
    channels = dice.one_of<std::int64_t>({dice.integer(1, 9), dice.integer(15, 20), 32, 40});
    outputs = dice.one_of<std::int64_t>({dice.integer(1, 9), dice.integer(15, 20), 32, 47});
    c.p.groups = 1;
    if (pointwise) kernel = {1, 1};
    if (kind.big && !depthwise) kernel = {5, 4};
    if (depthwise) outputs = c.p.groups = channels;
  }
  for (std::size_t i = 0; i < 2; ++i) {
    c.p.stride[i] = dice.one_of<std::int64_t>({1, 1, 2, 3});
    c.p.dilation[i] = dice.one_of<std::int64_t>({1, 1, 1, 2});
    for (std::size_t side = 0; side < 2; ++side) c.p.padding[2 * i + side] = dice.chance(.5) ? 0 : dice.integer(0, 3);
  }
  std::int64_t h = kind.big ? 20 : dice.integer(1, 9), w = kind.big ? 24 + kind.width : kind.width;
  h = std::max(h, c.p.dilation[0] * (kernel[0] - 1) + 1 - c.p.padding[0] - c.p.padding[1]);
  w = std::max(w, c.p.dilation[1] * (kernel[1] - 1) + 1 - c.p.padding[2] - c.p.padding[3]);
  // Many pictures of small maps are worked on a picture a row.
  const std::int64_t n = kind.empty ? 0 : kind.big ? dice.one_of<std::int64_t>({2, 17}) : c.last && dice.chance(.3) ? dice.integer(4, 30) : dice.integer(1, 3);
  h = std::max<std::int64_t>(h, 1);
  w = std::max<std::int64_t>(w, 1);
  c.x = {n, channels, h, w};
  c.w = {outputs, channels / c.p.groups, kernel[0], kernel[1]};
  c.y = {n, outputs, conv_size(h, c.p.padding[0] + c.p.padding[1], c.p.dilation[0], kernel[0], c.p.stride[0]),
         conv_size(w, c.p.padding[2] + c.p.padding[3], c.p.dilation[1], kernel[1], c.p.stride[1])};
  return c;
}
Problem conv_problem(const ConvCase& c, const Kind& kind, const Shape& out, Order order) {
  Problem p;
  p.set_params(c.p);
  p.exact = kind.whole;
  p.out.push_back({out, DType::f32, order, {}});
  p.text = std::string("x") + to_string(c.x) + " w" + to_string(c.w) + " y" + to_string(c.y) + " stride " + to_string(Shape{c.p.stride[0], c.p.stride[1]}) + " padding " +
           to_string(Shape{c.p.padding[0], c.p.padding[1], c.p.padding[2], c.p.padding[3]}) + " dilation " +
           to_string(Shape{c.p.dilation[0], c.p.dilation[1]}) + " groups " + std::to_string(c.p.groups) + (c.last ? " channels_last" : "");
  return p;
}
Problem make_conv2d(Dice& dice, int number) {
  const Kind kind(number, dice);
  const ConvCase c = conv_case(kind, dice);
  Problem p = conv_problem(c, kind, c.y, c.output(dice));
  const auto value = values_of(kind, dice);
  p.in.push_back(filled(c.x, DType::f32, c.picture(dice), dice, value));
  p.in.push_back(input(c.w, dice, value));
  if (dice.chance(.5)) p.in.push_back(filled({c.w[0]}, DType::f32, dice.chance(.1) ? Order::expanded : Order::contiguous, dice, value));
  p.magnitudes.assign(p.in.size(), true);
  return p;
}
Problem make_conv2d_grad(Dice& dice, int number, Shape ConvCase::*other, Shape ConvCase::*wanted) {
  const Kind kind(number, dice);
  const ConvCase c = conv_case(kind, dice);
  Problem p = conv_problem(c, kind, c.*wanted, wanted == &ConvCase::x ? c.output(dice) : output_order(dice));
  const auto value = values_of(kind, dice);
  p.in.push_back(filled(c.y, DType::f32, c.picture(dice), dice, value));
  p.in.push_back(filled(c.*other, DType::f32, other == &ConvCase::x ? c.picture(dice) : any_order(dice), dice, value));
  p.magnitudes = {true, true};
  return p;
}
Problem make_conv2d_grad_input(Dice& dice, int number) { return make_conv2d_grad(dice, number, &ConvCase::w, &ConvCase::x); }
Problem make_conv2d_grad_input_add(Dice& dice, int number) {
  const Kind kind(number, dice);
  ConvCase c = conv_case(kind, dice);
  if (dice.chance(.7)) {  // 1x1, which has a kernel
    c.last = true;
    c.p = {};
    c.w = {c.w[0], c.x[1], 1, 1};
    c.y = {c.x[0], c.w[0], c.x[2], c.x[3]};
  }
  Problem p = conv_problem(c, kind, c.x, c.output(dice));
  const auto value = values_of(kind, dice);
  p.in.push_back(filled(c.y, DType::f32, c.picture(dice), dice, value));
  p.in.push_back(filled(c.w, DType::f32, any_order(dice), dice, value));
  p.in.push_back(filled(c.x, DType::f32, c.picture(dice), dice, value));
  p.magnitudes = {true, true, true};
  return p;
}
Problem make_conv2d_grad_weight(Dice& dice, int number) { return make_conv2d_grad(dice, number, &ConvCase::x, &ConvCase::w); }

// --- products --------------------------------------------------------------------------------------------------------
Problem make_matmul(Dice& dice, int number) {
  const Kind kind(number, dice);
  Shape batch;
  for (std::int64_t d = dice.integer(0, 2); d > 0; --d) batch.push_back(dice.integer(1, 3));
  const std::int64_t m = kind.big ? 70 : dice.integer(1, 17), n = kind.big ? 60 + kind.width : kind.width,
                     k = kind.empty ? 0 : kind.big ? dice.one_of<std::int64_t>({50, 384, 385, 900}) : dice.integer(1, 33);
  const auto with = [&](std::int64_t rows, std::int64_t cols) {
    Shape s = batch;
    s.push_back(rows);
    s.push_back(cols);
    return s;
  };
  Problem p;
  const auto value = values_of(kind, dice);
  p.in.push_back(input(with(m, k), dice, value));
  p.in.push_back(input(with(k, n), dice, value));
  p.out.push_back({with(m, n), DType::f32, dice.chance(.8) ? Order::contiguous : Order::permuted, {}});
  p.magnitudes = {true, true};
  p.exact = kind.whole;
  return p;
}
Problem make_linear(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t n = kind.empty && dice.chance(.5) ? 0 : kind.big ? 100 : dice.integer(1, 17), in = kind.empty && n ? 0 : kind.big ? 1152 : dice.integer(1, 40),
                     out = kind.big ? 250 + kind.width : kind.width;
  Problem p;
  const auto value = values_of(kind, dice);
  p.in.push_back(input({n, in}, dice, value));
  p.in.push_back(input({out, in}, dice, value));
  if (dice.chance(.6)) p.in.push_back(filled({out}, DType::f32, dice.chance(.1) ? Order::stepped : Order::contiguous, dice, value));
  p.out.push_back({{n, out}, DType::f32, dice.chance(.85) ? Order::contiguous : Order::stepped, {}});
  p.magnitudes.assign(p.in.size(), true);
  p.exact = kind.whole;
  return p;
}

// --- pooling and resizing --------------------------------------------------------------------------------------------
Problem make_max_pool2d(Dice& dice, int number) {
  const Kind kind(number, dice);
  const PoolCase c = pool_case(kind, dice);
  Problem p;
  const bool last = dice.chance(.4);
  p.in.push_back(filled(c.x, DType::f32, last ? Order::channels_last : any_order(dice), dice, values_of(kind, dice)));
  if (kind.nan) spoil(p.in[0], dice);
  const Order order = last ? Order::channels_last : output_order(dice);
  p.out.push_back({c.y, DType::f32, order, {}});
  p.out.push_back({c.y, dice.chance(.5) ? DType::u8 : DType::i64, order, {}});
  p.set_params(c.q);
  p.exact = true;  // a choice among the inputs
  return p;
}
Problem make_max_pool2d_backward(Dice& dice, int number) {
  const Kind kind(number, dice);
  const PoolCase c = pool_case(kind, dice);
  Problem p;
  const bool last = dice.chance(.4);
  p.in.push_back(filled(c.y, DType::f32, last ? Order::channels_last : any_order(dice), dice, values_of(kind, dice)));
  // Of each window some tap inside the picture, -1 or 255 where there is none.
  const DType winners = dice.chance(.5) ? DType::u8 : DType::i64;
  std::int64_t number_of_window = 0;
  const auto along = [&](std::size_t side, std::int64_t window, std::int64_t& tap) {
    tap = dice.integer(0, c.q.kernel[side] - 1);
    const std::int64_t at = window * c.q.stride[side] - c.q.padding[side] + tap * c.q.dilation[side];
    return at < c.x[static_cast<int>(side) + 2] ? at : -1;
  };
  p.in.push_back(filled(c.y, winners, last ? Order::channels_last : dice.chance(.7) ? Order::contiguous : Order::stepped, dice, [&] {
    std::int64_t i = 0, j = 0;
    const std::int64_t window = number_of_window++, h = along(0, window / c.y[3] % c.y[2], i), w = along(1, window % c.y[3], j);
    if (winners == DType::u8) return static_cast<double>(h < 0 || w < 0 ? 255 : i * c.q.kernel[1] + j);
    return static_cast<double>(h < 0 || w < 0 ? -1 : h * c.x[3] + w);
  }));
  p.out.push_back({c.x, DType::f32, last ? Order::channels_last : output_order(dice), {}});
  p.magnitudes = {true, false};
  p.set_params(c.q);
  p.exact = kind.whole;
  return p;
}
// --- convolution, PReLU and pooling in one --------------------------------------------------------------------------------
struct BlockCase {
  Shape x, w, slope, map, y;
  ConvBlockParams q;
  // Winograd may come in: it rounds whole numbers, too, and spreads what is not finite over its patches.
  bool rounds() const { return w[2] == 3 && w[3] == 3 && w[1] >= 16 && w[0] >= 16; }
};
BlockCase block_case(const Kind& kind, Dice& dice) {
  BlockCase c;
  const bool many = !kind.big && dice.chance(.05);  // a share of them has several groups
  const bool square = !many && dice.chance(.2);     // 3x3 kernels of many channels
  const std::int64_t n = kind.empty ? 0 : many ? 290 : dice.one_of<std::int64_t>({1, 2, 5, 16, 17, 30});
  const std::int64_t channels = many ? dice.integer(1, 3) : square ? dice.one_of<std::int64_t>({16, 28, 33}) : dice.one_of<std::int64_t>({1, 3, dice.integer(2, 9), 16, 20});
  const std::int64_t outputs = many ? dice.integer(1, 10) : square ? dice.one_of<std::int64_t>({16, 20, 33, 48}) : dice.one_of<std::int64_t>({dice.integer(1, 9), 10, 16, 28, 32, 33, 48});
  const std::int64_t kh = square ? 3 : dice.chance(.03) ? 9 : dice.integer(1, 4), kw = square ? 3 : dice.integer(1, 4);
  c.map = {n, outputs, kind.big ? 17 : dice.integer(1, 6), kind.big ? 20 : square ? dice.integer(3, 9) : kind.width};
  c.x = {n, channels, c.map[2] + kh - 1, c.map[3] + kw - 1};
  c.w = {outputs, channels, kh, kw};
  c.slope = {dice.chance(.3) ? 1 : outputs};
  PoolParams pool{.stride = {1, 1}};
  const std::int64_t usual = dice.one_of<std::int64_t>({0, 0, 2, 3});  // windows of MTCNN, two apart
  for (std::size_t i = 0; i < 2; ++i) {
    c.q.kernel[i] = pool.kernel[i] = std::min(usual > 0 ? usual : dice.chance(.4) ? 1 : dice.integer(1, 3), c.map[static_cast<int>(i) + 2]);
    c.q.stride[i] = pool.stride[i] = usual > 0 ? 2 : c.q.kernel[i] == 1 ? 1 : dice.integer(1, 3);
  }
  c.q.ceil_mode = pool.ceil_mode = dice.chance(.5);
  c.q.input_gradient = dice.chance(.7);
  c.y = {n, outputs, pool_size(c.map[2], pool, 0), pool_size(c.map[3], pool, 1)};
  return c;
}
Order block_picture(Dice& dice) { return dice.one_of({Order::contiguous, Order::channels_last, Order::channels_last, Order::stepped}); }
std::string block_text(const BlockCase& c) {
  return std::string("x") + to_string(c.x) + " w" + to_string(c.w) + " window " + to_string(Shape{c.q.kernel[0], c.q.kernel[1]}) + " stride " + to_string(Shape{c.q.stride[0], c.q.stride[1]});
}
// Whole numbers only: a rounding error may choose another winner. Where values are rounded all the same, those of a window lie whole numbers apart: the first channel adds
// another number to each of 3 x 3 neighbours, the others add multiples of 16.
Problem make_conv_block(Dice& dice, int number) {
  const Kind kind(number, dice);
  const BlockCase c = block_case(kind, dice);
  const Values value = [&dice] { return static_cast<double>(dice.integer(-3, 3)); };
  Problem p;
  p.in.push_back(filled(c.x, DType::f32, block_picture(dice), dice, value));
  if (kind.nan && !c.rounds()) spoil(p.in[0], dice);
  p.in.push_back(c.rounds() ? filled(c.w, DType::f32, dice.one_of({Order::contiguous, Order::channels_last, Order::stepped}), dice, value) : input(c.w, dice, value));
  if (c.rounds()) {
    std::int64_t i = 0;
    for (const auto at : p.in[0].offsets()) {
      const std::int64_t channel = i / (c.x[2] * c.x[3]) % c.x[1], row = i / c.x[3] % c.x[2], column = i % c.x[3];
      p.in[0].set(at, channel > 0 ? 16 * p.in[0].get(at) : static_cast<double>(row % 3 * 3 + column % 3));
      ++i;
    }
    i = 0;
    for (const auto at : p.in[1].offsets()) {
      if (i / 9 % c.w[1] == 0) p.in[1].set(at, i % 9 == 4 ? 1 : 0);
      ++i;
    }
    p.magnitudes = {true, true, true, true};
    p.wide = true;
  }
  p.in.push_back(filled({c.w[0]}, DType::f32, dice.one_of({Order::contiguous, Order::stepped}), dice, value));
  const bool rises = c.rounds() || dice.chance(.5);  // all slopes positive
  p.in.push_back(filled(c.slope, DType::f32, dice.one_of({Order::contiguous, Order::stepped}), dice, [&] { return static_cast<double>(dice.integer(rises ? 1 : -3, 3)); }));
  const Order order = dice.chance(.85) ? Order::channels_last : Order::stepped;
  for (const DType dtype : {DType::f32, DType::f32, DType::u8}) p.out.push_back({c.y, dtype, order, {}});
  p.set_params(c.q);
  p.exact = !c.rounds();
  p.text = block_text(c);
  return p;
}
Problem make_conv_block_backward(Dice& dice, int number) {
  const Kind kind(number, dice);
  const BlockCase c = block_case(kind, dice);
  const auto value = values_of(kind, dice);
  Problem p;
  p.in.push_back(filled(c.y, DType::f32, block_picture(dice), dice, value));
  p.in.push_back(filled(c.x, DType::f32, block_picture(dice), dice, value));
  if (kind.nan && !kind.empty && !c.rounds()) p.in[1].set(p.in[1].offsets().back(), std::numeric_limits<double>::infinity());  // in the last picture
  p.in.push_back(input(c.w, dice, value));
  p.in.push_back(filled(c.slope, DType::f32, dice.one_of({Order::contiguous, Order::stepped}), dice, value));
  p.in.push_back(filled(c.y, DType::f32, Order::channels_last, dice, value));
  std::int64_t next = 0;  // winners anywhere in the part of the window that lies on the map
  p.in.push_back(filled(c.y, DType::u8, Order::channels_last, dice, [&] {
    const std::int64_t h = next / c.y[3] % c.y[2], w = next++ % c.y[3];
    const std::int64_t i = dice.integer(0, std::min(c.q.kernel[0], c.map[2] - h * c.q.stride[0]) - 1), j = dice.integer(0, std::min(c.q.kernel[1], c.map[3] - w * c.q.stride[1]) - 1);
    return static_cast<double>(i * c.q.kernel[1] + j);
  }));
  p.out.push_back({c.q.input_gradient ? c.x : Shape{0}, DType::f32, c.q.input_gradient && dice.chance(.85) ? Order::channels_last : Order::contiguous, {}});
  p.out.push_back({c.w, DType::f32, output_order(dice), {}});
  p.out.push_back({{c.w[0]}, DType::f32, Order::contiguous, {}});
  p.out.push_back({c.slope, DType::f32, Order::contiguous, {}});
  if (c.rounds()) p.by_largest = true;
  else p.magnitudes = {true, true, true, true, false, false};
  p.set_params(c.q);
  p.exact = kind.whole && !c.rounds();
  p.text = block_text(c);
  return p;
}
// Whole sums come out exact where the averages are over 1, 2, 4, ... cells.
Problem make_adaptive_avg_pool2d(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t h = kind.big ? 33 : dice.integer(1, 7), w = kind.big ? 40 + kind.width : kind.width, times = std::int64_t{1} << dice.integer(0, 2);
  const std::int64_t ih = kind.whole ? h * times : dice.integer(1, 40), iw = kind.whole ? w * times : dice.integer(1, 60);
  const std::int64_t n = kind.empty ? 0 : dice.integer(1, 2), c = dice.integer(1, 5);
  Problem p;
  if (dice.chance(.5)) p.in.push_back(filled({n, c, ih, iw}, DType::u8, any_order(dice), dice, [&] { return static_cast<double>(dice.integer(0, 255)); }));
  else p.in.push_back(input({n, c, ih, iw}, dice, values_of(kind, dice)));
  p.out.push_back({{n, c, h, w}, DType::f32, output_order(dice), {}});
  p.magnitudes = {true};
  p.exact = kind.whole;
  return p;
}
Operand picture(std::int64_t c, std::int64_t h, std::int64_t w, const Kind& kind, Dice& dice) {
  const bool bytes = dice.chance(.6);
  // Pictures mostly lie in memory as rows of interleaved pixels.
  Operand image(Shape{1, c, h, w}, bytes ? DType::u8 : DType::f32, dice.chance(.5) ? Order::channels_last : any_order(dice), dice);
  const auto value = bytes ? Values([&] { return static_cast<double>(dice.integer(0, 255)); }) : values_of(kind, dice);
  for (const auto o : image.offsets()) image.set(o, value());
  image.drop_first();
  return image;
}

Problem make_crop_resize_area(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t h = kind.big ? 24 : dice.integer(1, 7), w = kind.big ? 24 : kind.width, times = std::int64_t{1} << dice.integer(0, 2);
  const std::int64_t boxes = kind.empty ? 0 : dice.integer(1, kind.big ? 40 : 4), c = dice.one_of<std::int64_t>({1, 3, 3, 4});
  const std::int64_t ih = h * times + dice.integer(0, 9), iw = w * times + dice.integer(0, 9);
  std::vector<double> corners;
  for (std::int64_t k = 0; k < boxes; ++k) {
    const std::int64_t bh = kind.whole ? h * times : dice.integer(1, ih), bw = kind.whole ? w * times : dice.integer(1, iw);
    const std::int64_t x1 = dice.integer(0, iw - bw), y1 = dice.integer(0, ih - bh);
    for (const auto v : {x1, y1, x1 + bw, y1 + bh}) corners.push_back(static_cast<double>(v));
  }
  std::size_t next = 0;
  Problem p;
  p.in.push_back(picture(c, ih, iw, kind, dice));
  p.in.push_back(filled({boxes, 4}, DType::i64, dice.chance(.7) ? Order::contiguous : Order::stepped, dice, [&] { return corners[next++]; }));
  p.out.push_back({{boxes, c, h, w}, DType::f32, output_order(dice), {}});
  const CropResizeParams q = kind.whole ? CropResizeParams{128.f, 1.f / 64} : CropResizeParams{127.5f, .0078125f};
  p.set_params(q);
  p.magnitudes = {true, false};
  p.set_magnitude_params(CropResizeParams{-q.mean, q.scale});
  p.exact = kind.whole;
  return p;
}

Problem make_warp_affine(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t h = kind.big ? 24 : dice.integer(1, 7), w = kind.big ? 24 : kind.width, crops = kind.empty ? 0 : dice.integer(1, 4), c = dice.one_of<std::int64_t>({1, 3, 3, 4, 5});
  const std::int64_t ih = dice.integer(1, 30), iw = dice.integer(1, 30);
  std::vector<double> m;
  for (std::int64_t k = 0; k < crops; ++k) {
    // Whole: steps of 0, 1, 2 or 4 pixels from a whole place, a grid of samples at quarters; otherwise turned, sheared, and partly outside.
    const double step = kind.whole ? dice.one_of({1., 2., 4.}) : dice.uniform(.2, 4), turn = kind.whole ? 0 : dice.uniform(-.8, .8);
    for (const double v : {step, -turn, kind.whole ? static_cast<double>(dice.integer(-3, iw)) : dice.uniform(-3, static_cast<double>(iw))}) m.push_back(v);
    for (const double v : {turn, step, kind.whole ? static_cast<double>(dice.integer(-3, ih)) : dice.uniform(-3, static_cast<double>(ih))}) m.push_back(v);
  }
  std::size_t next = 0;
  Problem p;
  p.in.push_back(picture(c, ih, iw, kind, dice));
  p.in.push_back(filled({crops, 2, 3}, DType::f64, dice.chance(.7) ? Order::contiguous : Order::stepped, dice, [&] { return m[next++]; }));
  p.out.push_back({{crops, c, h, w}, DType::f32, output_order(dice), {}});
  const CropResizeParams q = kind.whole ? CropResizeParams{128.f, 1.f / 64} : CropResizeParams{127.5f, .0078125f};
  p.set_params(q);
  p.magnitudes = {true, false};
  p.set_magnitude_params(CropResizeParams{-q.mean, q.scale});
  p.exact = kind.whole;
  return p;
}

// --- elementwise -----------------------------------------------------------------------------------------------------

struct UnaryRow {
  UnaryKind kind;
  const char* name;
  double low, high;
};
UnaryRow unary_row(int number) {
  static const UnaryRow rows[] = {
#define MIEN_ROW(name, f, df, lo, hi, kink) {UnaryKind::name, #name, lo, hi},
      MIEN_UNARY(MIEN_ROW)
#undef MIEN_ROW
  };
  return rows[static_cast<std::size_t>(number) % std::size(rows)];
}
bool whole_stays_whole(UnaryKind k) {
  return k == UnaryKind::neg || k == UnaryKind::abs || k == UnaryKind::square || k == UnaryKind::relu || k == UnaryKind::leaky_relu || k == UnaryKind::clamp ||
         k == UnaryKind::affine || k == UnaryKind::sign;
}
UnaryParams unary_params(UnaryKind kind, Dice& dice) {
  UnaryParams q{kind, .5, 1.5};
  if (kind == UnaryKind::clamp) q.a = -1, q.b = 1.5;
  if (kind == UnaryKind::pow) q.a = dice.one_of({2.0, .5, 3.0, -1.0});
  return q;
}
Problem unary_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  const UnaryRow row = unary_row(number);
  const UnaryParams q = unary_params(row.kind, dice);
  Problem p;
  const bool whole = kind.whole && whole_stays_whole(row.kind);
  const auto value = whole ? values_of(kind, dice) : Values([&] { return dice.uniform(row.low, row.high); });
  const Shape shape = elementwise_shape(kind, dice);
  const Orders orders(dice);
  if (backward) p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, [&] { return whole ? static_cast<double>(dice.integer(-3, 3)) : dice.uniform(-1, 1); }));
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, value));
  if (kind.nan && !backward) spoil(p.in.back(), dice);
  if (backward) {  // y = f(x) as the forward kernel gives it
    Operand y(shape, DType::f32, orders.next(dice, false), dice);
    const View in[] = {p.in[1].view()}, out[] = {y.view()};
    ref::unary_entry.run({in, out, &q});
    p.in.push_back(std::move(y));
  }
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.set_params(q);
  p.exact = whole;
  p.text = std::string(row.name) + " " + to_string(shape);
  return p;
}
Problem make_unary(Dice& dice, int number) { return unary_problem(dice, number, false); }
Problem make_unary_backward(Dice& dice, int number) { return unary_problem(dice, number, true); }

Problem make_binary(Dice& dice, int number) {
  const Kind kind(number, dice);
  const BinaryParams q{static_cast<BinaryKind>(number % 12)};
  const Shape shape = elementwise_shape(kind, dice);
  const Orders orders(dice);
  const bool divides = q.kind == BinaryKind::div;
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.in.push_back(filled(shape, DType::f32, dice.chance(.3) ? Order::per_channel : orders.next(dice), dice,
                        [&] { return kind.whole ? (divides ? dice.one_of({-2., -1., .5, 1., 2.}) : static_cast<double>(dice.integer(-3, 3))) : dice.uniform(.5, 1.5); }));
  p.out.push_back({shape, q.kind >= BinaryKind::eq ? DType::boolean : DType::f32, orders.next(dice, false), {}});
  p.set_params(q);
  p.exact = kind.whole || q.kind > BinaryKind::div;
  return p;
}

Problem make_copy(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  const DType from = dice.one_of({DType::f32, DType::f32, DType::u8, DType::i64, DType::i32, DType::boolean});
  const DType to = dice.chance(.75) ? DType::f32 : dice.one_of({DType::u8, DType::i64, DType::boolean});
  Problem p;
  p.in.push_back(filled(shape, from, any_order(dice), dice, [&] {
    if (from == DType::f32 && to == DType::f32) return dice.uniform(-1, 1);
    return static_cast<double>(dice.integer(0, from == DType::boolean ? 1 : 100));
  }));
  p.out.push_back({shape, to, any_order(dice, false), {}});
  p.exact = true;
  return p;
}

// --- PReLU, sums, SGD ------------------------------------------------------------------------------------------------
Shape channel_shape(const Kind& kind, Dice& dice) {
  const std::int64_t n = kind.empty ? 0 : dice.integer(1, kind.big ? 20 : 3), c = kind.big ? 32 : dice.integer(1, 9);
  switch (dice.integer(0, 2)) {
    case 0: return {n, c, kind.big ? 24 : dice.integer(1, 5), kind.big ? 20 + kind.width : kind.width};
    case 1: return {n, kind.big ? 1000 + kind.width : kind.width};
    default: return kind.width > 8 ? Shape{kind.width} : Shape{n, c, kind.width};
  }
}
Problem prelu_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  const Shape shape = channel_shape(kind, dice);
  const Shape slope{dice.chance(.3) ? 1 : shape[shape.rank() > 1 ? 1 : 0]};
  const auto value = values_of(kind, dice);
  const Orders orders(dice);
  Problem p;
  if (backward) p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, value));
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, value));
  if (kind.nan) spoil(p.in.back(), dice);
  p.in.push_back(filled(slope, DType::f32, dice.one_of({Order::contiguous, Order::stepped}), dice, value));
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  if (backward) {
    p.out.push_back({slope, DType::f32, Order::contiguous, {}});
    p.magnitudes = {true, false, true};  // |g|, |a|: the terms g*x of the slope's sum all have one sign
  }
  p.exact = kind.whole;
  p.text = to_string(shape) + " slope " + to_string(slope);
  return p;
}
Problem make_prelu(Dice& dice, int number) { return prelu_problem(dice, number, false); }
Problem make_prelu_backward(Dice& dice, int number) { return prelu_problem(dice, number, true); }

// Some channels reach past a vector, some pictures past a chunk of sums.
Shape norm_shape(const Kind& kind, Dice& dice) {
  const std::int64_t c = dice.one_of<std::int64_t>({kind.width, dice.integer(1, 9), 16, 33});
  if (kind.big) return {3, c, 50, 40};
  switch (dice.integer(0, 3)) {
    case 0: return {dice.integer(2, 9), c};
    case 1: return {dice.integer(2, 3), c, dice.integer(1, 20)};
    default: return {dice.integer(2, 4), c, dice.integer(1, 6), dice.integer(1, 9)};
  }
}
Problem make_batch_norm(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = norm_shape(kind, dice), channels{shape[1]};
  const Orders orders(dice);
  const auto flat = [&] { return dice.one_of({Order::contiguous, Order::contiguous, Order::stepped}); };
  const double centre = dice.one_of({0., 0., 5.});
  Problem p;
  const bool piece = orders.order == Order::channels_last && dice.chance(.3);
  p.in.push_back(filled(shape, DType::f32, piece ? Order::channel_slice : orders.next(dice), dice, [&] { return centre + dice.uniform(-1, 1); }));
  for (int i = 0; i < 2; ++i) p.in.push_back(filled(channels, DType::f32, flat(), dice, values_of(kind, dice)));
  p.out = {{shape, DType::f32, orders.next(dice, false), {}}, {channels, DType::f32, flat(), {}}, {channels, DType::f32, flat(), {}}};
  const Activation activation = dice.one_of({Activation::none, Activation::relu, Activation::prelu});
  if (activation == Activation::prelu) p.in.push_back(filled(channels, DType::f32, flat(), dice, values_of(kind, dice)));
  p.set_params(NormParams{1e-3, activation});
  p.text = to_string(shape);
  return p;
}
Problem make_batch_norm_backward(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = norm_shape(kind, dice), channels{shape[1]};
  const Orders orders(dice);
  const auto flat = [&] { return dice.one_of({Order::contiguous, Order::contiguous, Order::stepped}); };
  Problem p;
  const Activation activation = dice.one_of({Activation::none, Activation::relu, Activation::prelu});
  const bool active = activation != Activation::none;
  // Small gradients: errors of a sum of thousands are measured against 1. With an activation the normalised values keep away from 0, where its derivative jumps:
  // x is an odd number of eighths, mean and bias are even ones.
  const auto even = [&] { return static_cast<double>(dice.integer(-3, 3)) / 4; };
  p.in.push_back(filled(shape, DType::f32, orders.order == Order::channels_last && dice.chance(.3) ? Order::channel_slice : orders.next(dice), dice, [&] { return dice.uniform(-.2, .2); }));
  p.in.push_back(filled(shape, DType::f32, orders.order == Order::channels_last && dice.chance(.3) ? Order::channel_slice : orders.next(dice), dice, [&] { return active ? static_cast<double>(2 * dice.integer(-4, 4) + 1) / 8 : dice.uniform(-1, 1); }));
  p.in.push_back(filled(channels, DType::f32, flat(), dice, [&] { return active ? dice.one_of({-1., 1.}) : dice.uniform(-1, 1); }));
  p.in.push_back(filled(channels, DType::f32, flat(), dice, [&] { return active ? even() : dice.uniform(-1, 1); }));
  p.in.push_back(filled(channels, DType::f32, flat(), dice, [&] { return active ? 1 : dice.uniform(.5, 2); }));
  if (active) p.in.push_back(filled(channels, DType::f32, flat(), dice, even));
  if (activation == Activation::prelu) p.in.push_back(filled(channels, DType::f32, flat(), dice, values_of(kind, dice)));
  p.out = {{shape, DType::f32, orders.next(dice, false), {}}, {channels, DType::f32, flat(), {}}, {channels, DType::f32, flat(), {}}};
  if (activation == Activation::prelu) p.out.push_back({channels, DType::f32, flat(), {}});
  p.set_params(NormParams{1e-5, activation});
  p.text = to_string(shape) + (active ? " active" : "");
  return p;
}

Problem make_channel_affine(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = norm_shape(kind, dice), channels{shape[1]};
  const Orders orders(dice);
  const auto value = values_of(kind, dice);
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, value));
  for (int i = 0; i < 2; ++i) p.in.push_back(filled(channels, DType::f32, dice.one_of({Order::contiguous, Order::stepped}), dice, value));
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.exact = kind.whole;
  p.text = to_string(shape);
  return p;
}

Problem softmax_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  const std::int64_t n = dice.integer(1, 5), length = kind.big ? 1000 + kind.width : kind.width;
  const Shape shape = dice.chance(.5) ? Shape{n, length} : Shape{dice.integer(1, 3), n, length};
  SoftmaxParams q{shape.rank() - 1, dice.chance(.5)};
  if (dice.chance(.2)) q.dim = 0;
  const Orders orders(dice);
  const double wide = dice.one_of({1., 20., 120.});
  Problem p;
  if (backward) p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, [&] { return dice.uniform(-1, 1); }));
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, [&] {
    if (!backward) return dice.uniform(-wide, wide);
    return q.log ? dice.uniform(-wide - 8, -std::log(static_cast<double>(length))) : dice.uniform(0, 1) / static_cast<double>(length);
  }));
  if (kind.nan && !backward) spoil(p.in.back(), dice);
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.set_params(q);
  p.text = std::string(q.log ? "log " : "") + to_string(shape) + " dim " + std::to_string(q.dim);
  return p;
}
Problem make_softmax(Dice& dice, int number) { return softmax_problem(dice, number, false); }
Problem make_softmax_backward(Dice& dice, int number) { return softmax_problem(dice, number, true); }

Problem make_reduce(Dice& dice, int number) {
  const Kind kind(number, dice);
  Shape shape = elementwise_shape(kind, dice);
  if (kind.big && dice.chance(.5)) shape = {2, 5000 + kind.width};
  Shape out = shape;
  for (auto& s : out)
    if (dice.chance(.5)) s = 1;
  Problem p;
  p.in.push_back(input(shape, dice, values_of(kind, dice)));
  const bool none = numel(shape) == 0;
  p.set_params(ReduceParams{none || dice.chance(.7) ? ReduceKind::sum : dice.one_of({ReduceKind::max, ReduceKind::min})});
  p.out.push_back({out, DType::f32, any_order(dice, false), {}});
  p.magnitudes = {true};
  p.exact = kind.whole;
  p.text = to_string(shape) + " to " + to_string(out);
  if (p.params[0] != std::byte{0}) p.magnitudes.clear();
  return p;
}

Problem make_sgd(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  SgdParams q;
  q.lr = kind.whole ? .5 : .1;
  q.momentum = dice.one_of({0., .5});
  if (q.momentum > 0 && !kind.whole) q.momentum = .9;
  q.weight_decay = dice.one_of({0., kind.whole ? .25 : 5e-4});
  q.nesterov = q.momentum > 0 && dice.chance(.4);
  q.dampening = !q.nesterov && q.momentum > 0 && dice.chance(.4) ? .5 : 0;
  q.first_step = dice.chance(.3);
  const Orders orders(dice);
  const auto value = values_of(kind, dice);
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, value));
  for (int i = 0; i < 2; ++i) {
    Output out{shape, DType::f32, orders.next(dice, false), {}};
    for (std::int64_t k = 0; k < numel(shape); ++k) out.start.push_back(kind.whole ? static_cast<double>(dice.integer(-3, 3)) : static_cast<double>(static_cast<float>(dice.uniform(-1, 1))));
    p.out.push_back(out);
  }
  p.set_params(q);
  p.exact = kind.whole;
  return p;
}

Problem make_adam(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  AdamParams q;
  q.lr = .01;
  q.weight_decay = dice.one_of({0., 1e-2});
  q.decoupled = dice.chance(.5);
  q.step = dice.one_of<std::int64_t>({1, 2, 1000});
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, [&] { return dice.uniform(-1, 1); }));
  for (int i = 0; i < 3; ++i) {
    Output out{shape, DType::f32, orders.next(dice, false), {}};
    for (std::int64_t k = 0; k < numel(shape); ++k) out.start.push_back(static_cast<double>(static_cast<float>(i == 2 ? dice.uniform(.01, 1) : dice.uniform(-1, 1))));
    p.out.push_back(out);
  }
  p.set_params(q);
  return p;
}

}  // namespace

const std::vector<Row>& conformance_rows() {
  static const std::vector<Row> rows = {
#define MIEN_ROW(name) {#name, {&ref::name##_entry, &KernelTable::name}, make_##name},
      MIEN_CPU_KERNELS(MIEN_ROW)
#undef MIEN_ROW
      {"packed_winograd", {&ref::packed_conv2d_entry, &KernelTable::packed_conv2d}, make_packed_winograd},
  };
  return rows;
}

}  // namespace mien::test
