// The problems of the conformance test, continued: average pooling, the end of a residual block, concatenation.
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

}  // namespace

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
