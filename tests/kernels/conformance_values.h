// What the makers of problems share: sizes, orders and values by the number of the case.
#pragma once

#include "kernels/conformance.h"

namespace mien::test {

// What kind of case `number` is.
struct Kind {
  explicit Kind(int number, Dice& dice)
      : width(1 + number % 17), whole(number % 3 == 0), empty(number % 29 == 28), big(number % 31 == 30), nan(dice.chance(.1)) {}
  std::int64_t width;  // odd tails: 1..17 in turn
  bool whole;          // small whole numbers
  bool empty, big, nan;
};

inline Order any_order(Dice& dice, bool expanded = true) {
  if (dice.chance(.4)) return Order::contiguous;
  const Order orders[] = {Order::channels_last, Order::stepped, Order::permuted, Order::flipped, Order::expanded};
  return orders[dice.integer(0, expanded ? 4 : 3)];
}
// Outputs that fast kernels take, and now and then one that they don't.
inline Order output_order(Dice& dice) {
  return dice.chance(.6) ? Order::contiguous : dice.one_of({Order::channels_last, Order::channels_last, Order::stepped, Order::permuted});
}

using Values = std::function<double()>;
inline Values values_of(const Kind& kind, Dice& dice, double low = -1, double high = 1) {
  if (kind.whole) return [&dice] { return static_cast<double>(dice.integer(-3, 3)); };
  return [&dice, low, high] { return dice.uniform(low, high); };
}

inline Operand filled(const Shape& shape, DType dtype, Order order, Dice& dice, const Values& value) {
  Operand x(shape, dtype, order, dice);
  for (const auto o : x.offsets()) x.set(o, value());
  return x;
}
inline Operand input(const Shape& shape, Dice& dice, const Values& value, bool expanded = true) {
  return filled(shape, DType::f32, any_order(dice, expanded), dice, value);
}
inline void spoil(Operand& x, Dice& dice) {
  const auto offsets = x.offsets();
  if (!offsets.empty()) x.set(offsets[static_cast<std::size_t>(dice.integer(0, static_cast<std::int64_t>(offsets.size()) - 1))], std::nan(""));
}

// One order for all operands in half of the cases: that is what fast elementwise kernels take.
struct Orders {
  explicit Orders(Dice& dice) : same(dice.chance(.6)), order(dice.one_of({Order::contiguous, Order::contiguous, Order::channels_last})) {}
  Order next(Dice& dice, bool expanded = true) const { return same ? order : any_order(dice, expanded); }
  bool same;
  Order order;
};

inline Shape elementwise_shape(const Kind& kind, Dice& dice) {
  if (kind.big) return {3, 7, 41, 40 + kind.width};
  Shape s;
  for (std::int64_t d = dice.integer(0, 4); d > 0; --d) s.push_back(dice.integer(1, 4));
  if (s.rank() > 0) s.back() = kind.width;
  if (kind.empty && s.rank() > 0) s[0] = 0;
  return s;
}

inline PoolParams pool_params(Dice& dice) {
  PoolParams q;
  for (std::size_t i = 0; i < 2; ++i) {
    q.kernel[i] = dice.integer(1, 4);
    q.stride[i] = dice.integer(1, 3);
    q.padding[i] = dice.integer(0, q.kernel[i] / 2);
    q.dilation[i] = dice.one_of<std::int64_t>({1, 1, 1, 2});
  }
  if (dice.chance(.6)) q.kernel[0] = q.kernel[1] = dice.integer(2, 3), q.dilation = {1, 1}, q.padding = {dice.integer(0, 1), dice.integer(0, 1)};
  q.ceil_mode = dice.chance(.5);
  return q;
}
inline std::int64_t pool_size(std::int64_t in, const PoolParams& q, std::size_t i) {
  const std::int64_t room = in + 2 * q.padding[i] - q.dilation[i] * (q.kernel[i] - 1) - 1;
  std::int64_t out = (room + (q.ceil_mode ? q.stride[i] - 1 : 0)) / q.stride[i] + 1;
  if (q.ceil_mode && (out - 1) * q.stride[i] >= in + q.padding[i]) --out;
  return out;
}
struct PoolCase {
  PoolParams q;
  Shape x, y;
};
inline PoolCase pool_case(const Kind& kind, Dice& dice) {
  PoolCase c;
  c.q = pool_params(dice);
  const bool tight = dice.chance(.3);  // whole windows with the padding only: then some lie outside the picture, between whose taps it fits
  const auto at_least = [&](std::int64_t size, std::size_t i) {
    const std::int64_t window = c.q.dilation[i] * (c.q.kernel[i] - 1) + 1;
    return tight ? std::max(std::min<std::int64_t>(size, 3), window - 2 * c.q.padding[i]) : std::max(size, window);
  };
  c.x = {kind.empty ? 0 : dice.integer(1, kind.big ? 5 : 2), dice.integer(1, kind.big ? 30 : 4), at_least(kind.big ? 30 : dice.integer(1, 9), 0),
         at_least(kind.big ? 30 + kind.width : kind.width, 1)};
  c.y = {c.x[0], c.x[1], pool_size(c.x[2], c.q, 0), pool_size(c.x[3], c.q, 1)};
  return c;
}

// More makers, of conformance_problems_layers_test.cpp.
Problem make_avg_pool2d(Dice& dice, int number);
Problem make_avg_pool2d_backward(Dice& dice, int number);
Problem make_residual(Dice& dice, int number);
Problem make_concat(Dice& dice, int number);
Problem make_norm_conv(Dice& dice, int number);
Problem make_norm_conv_backward(Dice& dice, int number);
Problem make_norm_add(Dice& dice, int number);
Problem make_norm_add_backward(Dice& dice, int number);
// And of conformance_problems_detect_test.cpp.
Problem make_nms(Dice& dice, int number);
Problem make_pnet_candidates(Dice& dice, int number);
Problem make_conv_chain(Dice& dice, int number);

}  // namespace mien::test
