// The problems of the conformance test, continued: average pooling, the end of a residual block, concatenation, convolutions between batch norms.
#include "kernels/conformance_values.h"

namespace mien::test {
namespace {

Problem avg_pool_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  PoolCase c = pool_case(kind, dice);
  c.q.dilation = {1, 1};
  c.y = {c.x[0], c.x[1], pool_size(c.x[2], c.q, 0), pool_size(c.x[3], c.q, 1)};
  c.q.count_include_pad = dice.chance(.5);
  if (kind.whole || dice.chance(.2)) c.q.divisor_override = 4;  // whole numbers stay exact
  const Order order = dice.one_of({Order::contiguous, Order::channels_last});
  const bool same = dice.chance(.7);
  Problem p;
  p.in.push_back(filled(backward ? c.y : c.x, DType::f32, same ? order : any_order(dice), dice, values_of(kind, dice)));
  p.out.push_back({backward ? c.x : c.y, DType::f32, same ? order : output_order(dice), {}});
  p.set_params(c.q);
  p.magnitudes = {true};
  p.exact = kind.whole;
  return p;
}

// 1x1 or depthwise 3x3, in most cases as the fast kernels want it.
struct NormConvCase {
  NormConvCase(const Kind& kind, Dice& dice) {
    const bool plain = dice.chance(.1);
    const std::int64_t channels = plain ? dice.integer(1, 9) : 32 * dice.integer(1, kind.big ? 4 : 2), n = dice.integer(1, kind.big ? 18 : 3);
    const std::int64_t h = dice.integer(2, kind.big ? 12 : 6), w = kind.width + 1, outputs = plain ? dice.integer(1, 9) : 32 * dice.integer(1, 3);
    p.eps = 1e-3;
    p.activation = dice.one_of({Activation::none, Activation::relu, Activation::prelu});
    normed = dice.chance(.8);
    if (!normed) p.activation = Activation::none;
    x = {n, channels, h, w};
    if (dice.chance(.5)) {
      weights = {outputs, channels, 1, 1};
      y = {n, outputs, h, w};
      return;
    }
    const std::int64_t stride = dice.integer(1, 2);
    p.groups = channels;
    p.padding = {1, 1, 1, 1};
    p.stride = {stride, stride};
    weights = {channels, 1, 3, 3};
    y = {n, channels, (h - 1) / stride + 1, (w - 1) / stride + 1};
  }
  // x, weights and the norm, which keeps its values away from the activation's kink: an odd number of eighths against even ones.
  void add_inputs(Problem& q, Dice& dice) const {
    const auto per_channel = [&](const Values& value) { q.in.push_back(filled({x[1]}, DType::f32, dice.chance(.8) ? Order::contiguous : Order::stepped, dice, value)); };
    const auto even = [&] { return static_cast<double>(dice.integer(-3, 3)) / 4; };
    q.in.push_back(filled(x, DType::f32, order, dice, [&] { return static_cast<double>(2 * dice.integer(-4, 4) + 1) / 8; }));
    q.in.push_back(filled(weights, DType::f32, Order::contiguous, dice, [&] { return dice.uniform(-.2, .2); }));
    if (!normed) return;
    per_channel(even);
    per_channel([] { return 1; });
    per_channel([&] { return dice.one_of({-1., 1.}); });
    per_channel(even);
    if (p.activation == Activation::prelu) per_channel([&] { return dice.uniform(-1, 1); });
  }
  NormConvParams p;
  Shape x, weights, y;
  bool normed = true;
  Order order = Order::channels_last;
};

}  // namespace

Problem make_norm_conv(Dice& dice, int number) {
  NormConvCase c(Kind(number, dice), dice);
  if (dice.chance(.1)) c.order = Order::contiguous;
  Problem p;
  c.add_inputs(p, dice);
  p.out = {{c.y, DType::f32, c.order, {}}, {{c.y[1]}, DType::f32, Order::contiguous, {}}, {{c.y[1]}, DType::f32, Order::stepped, {}}};
  p.set_params(c.p);
  p.text = to_string(c.x) + " w" + to_string(c.weights) + " stride " + std::to_string(c.p.stride[0]) + (c.normed ? " normed" : "");
  return p;
}
Problem make_norm_conv_backward(Dice& dice, int number) {
  NormConvCase c(Kind(number, dice), dice);
  if (dice.chance(.1)) c.order = Order::contiguous;
  const Shape outputs{c.y[1]};
  Problem p;
  const auto small = [&] { return dice.uniform(-.2, .2); };
  p.in.push_back(filled(c.y, DType::f32, c.order, dice, small));
  for (int i = 0; i < 2; ++i) p.in.push_back(filled(outputs, DType::f32, Order::contiguous, dice, small));
  p.in.push_back(filled(c.y, DType::f32, c.order, dice, [&] { return dice.uniform(-1, 1); }));
  p.in.push_back(filled(outputs, DType::f32, Order::contiguous, dice, small));
  p.in.push_back(filled(outputs, DType::f32, Order::stepped, dice, [&] { return dice.uniform(.5, 2); }));
  c.add_inputs(p, dice);
  p.out = {{c.x, DType::f32, c.order, {}}, {c.weights, DType::f32, Order::contiguous, {}}};
  for (std::size_t i = 8; i < p.in.size(); ++i) p.out.push_back({{c.x[1]}, DType::f32, dice.chance(.8) ? Order::contiguous : Order::stepped, {}});
  p.set_params(c.p);
  p.text = to_string(c.x) + " w" + to_string(c.weights) + " stride " + std::to_string(c.p.stride[0]) + (c.normed ? " normed" : "");
  return p;
}

// x and gradients of a norm_add of 1 to 4 vectors of channels, now and then of others.
Problem norm_add_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  const Shape shape{dice.integer(1, 3), dice.chance(.1) ? dice.integer(1, 20) : 16 * dice.integer(1, 4), dice.integer(1, kind.big ? 30 : 5), kind.width}, channels{shape[1]};
  const Order order = dice.chance(.8) ? Order::channels_last : any_order(dice, false);
  Problem p;
  const auto value = [&] { return dice.uniform(-1, 1); };
  const auto small = [&] { return dice.uniform(-.2, .2); };
  if (backward) p.in.push_back(filled(shape, DType::f32, order, dice, small));
  p.in.push_back(filled(shape, DType::f32, order, dice, value));
  for (int i = 0; i < 4; ++i) p.in.push_back(filled(channels, DType::f32, dice.chance(.8) ? Order::contiguous : Order::stepped, dice, value));
  if (!backward && dice.chance(.5)) p.in.push_back(filled(shape, DType::f32, order, dice, value));
  p.out.push_back({shape, DType::f32, order, {}});
  for (int i = 0; backward && i < 4; ++i) p.out.push_back({channels, DType::f32, Order::contiguous, {}});
  p.text = to_string(shape);
  return p;
}
Problem make_norm_add(Dice& dice, int number) { return norm_add_problem(dice, number, false); }
Problem make_norm_add_backward(Dice& dice, int number) { return norm_add_problem(dice, number, true); }

Problem make_avg_pool2d(Dice& dice, int number) { return avg_pool_problem(dice, number, false); }
Problem make_avg_pool2d_backward(Dice& dice, int number) { return avg_pool_problem(dice, number, true); }

Problem make_residual(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  const Orders orders(dice);
  Problem p;
  for (int i = 0; i < 2; ++i) p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.set_params(ResidualParams{kind.whole ? .5 : .17, dice.chance(.5)});
  p.exact = kind.whole;
  return p;
}

Problem make_concat(Dice& dice, int number) {
  const Kind kind(number, dice);
  Shape shape = elementwise_shape(kind, dice);
  if (shape.rank() == 0) shape = {kind.width};
  const int dim = static_cast<int>(dice.integer(0, shape.rank() - 1));
  const Orders orders(dice);
  Problem p;
  std::int64_t total = 0;
  for (std::int64_t parts = dice.integer(1, 4); parts > 0; --parts) {
    shape[dim] = dice.integer(kind.empty ? 0 : 1, 20);
    total += shape[dim];
    p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  }
  shape[dim] = total;
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.set_params(DimParams{dim});
  p.exact = true;
  return p;
}

}  // namespace mien::test
