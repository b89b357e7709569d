#include <cmath>
#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {

TEST_CASE("arithmetic of two tensors", "[ops][binary]") {
  const Tensor a = f32({1, 2, 3, 4}, {2, 2}), b = f32({2, 4, -1, .5f}, {2, 2});
  CHECK((a + b).to_vector() == Values{3, 6, 2, 4.5});
  CHECK((a - b).to_vector() == Values{-1, -2, 4, 3.5});
  CHECK((a * b).to_vector() == Values{2, 8, -3, 2});
  CHECK((a / b).to_vector() == Values{.5, .5, -3, 8});
  CHECK(maximum(a, b).to_vector() == Values{2, 4, 3, 4});
  CHECK(minimum(a, b).to_vector() == Values{1, 2, -1, .5});
  CHECK((a + 1).to_vector() == Values{2, 3, 4, 5});
  CHECK((1 - a).to_vector() == Values{0, -1, -2, -3});
  CHECK((a - 1).to_vector() == Values{0, 1, 2, 3});
  CHECK((2 * a).to_vector() == Values{2, 4, 6, 8});
  CHECK((a / 2).to_vector() == Values{.5, 1, 1.5, 2});
}

TEST_CASE("binary ops broadcast as numpy", "[ops][binary]") {
  const Tensor column = f64({10, 20}, {2, 1}), row = f64({1, 2, 3}, {3});
  const Tensor y = column + row;
  CHECK(y.shape() == Shape{2, 3});
  CHECK(y.to_vector() == Values{11, 12, 13, 21, 22, 23});
  CHECK((Tensor::scalar(5.0) * row).to_vector() == Values{5, 10, 15});
  CHECK((Tensor::scalar(5.0) * Tensor::scalar(2.0)).shape() == Shape{});
  CHECK((zeros({0, 3}) + zeros({1, 3})).shape() == Shape{0, 3});
  CHECK((zeros({0, 3}) + zeros({1})).shape() == Shape{0, 3});
  CHECK((zeros({2, 1, 3}) + zeros({4, 1})).shape() == Shape{2, 4, 3});
  CHECK(message_of<ShapeError>([] { add(zeros({2, 3}), zeros({2, 4})); }).rfind("add:", 0) == 0);
}

TEST_CASE("all pairs of strides give the same values", "[ops][binary]") {
  Generator g(5);
  const auto make = [&](DType dtype) {
    const FactoryOptions o{.dtype = dtype, .generator = &g};
    return std::vector<Tensor>{rand({2, 3, 4, 5}, o),           channels_last(rand({2, 3, 4, 5}, o)),         permute(rand({5, 4, 3, 2}, o), {3, 2, 1, 0}),
                               expand(rand({3, 1, 5}, o), {2, 3, 4, 5}), slice(rand({2, 3, 4, 10}, o), 3, 1, {}, 2)};
  };
  for (const DType dtype : {DType::f32, DType::f64})
    for (const auto& a : make(dtype))
      for (const auto& b : make(dtype)) {
        const Values va = a.to_vector(), vb = b.to_vector(), got = sub(a, b).to_vector();
        Values expected;
        for (std::size_t i = 0; i < va.size(); ++i)
          expected.push_back(dtype == DType::f32 ? static_cast<double>(static_cast<float>(va[i]) - static_cast<float>(vb[i])) : va[i] - vb[i]);
        CHECK(got == expected);
      }
}

TEST_CASE("integers wrap and refuse division by zero", "[ops][binary]") {
  const std::int32_t top = std::numeric_limits<std::int32_t>::max(), bottom = std::numeric_limits<std::int32_t>::min();
  CHECK((i32({top}, {1}) + i32({1}, {1})).to_vector() == Values{static_cast<double>(bottom)});
  CHECK((u8({250}, {1}) + u8({10}, {1})).to_vector() == Values{4});
  CHECK((i64({7, -7}) / i64({2, 2})).to_vector() == Values{3, -3});
  CHECK((i32({bottom}, {1}) / i32({-1}, {1})).to_vector() == Values{static_cast<double>(bottom)});
  CHECK_THROWS_AS(div(i64({1}), i64({0})), ValueError);
  CHECK(maximum(i64({1, 5}), i64({3, 2})).dtype() == DType::i64);
}

TEST_CASE("comparisons give bool, NaN is unequal to all", "[ops][binary]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor a = f32({1, 2, 3, nan}), b = f32({2, 2, 2, nan});
  CHECK(less(a, b).dtype() == DType::boolean);
  CHECK(less(a, b).to_vector() == Values{1, 0, 0, 0});
  CHECK(less_equal(a, b).to_vector() == Values{1, 1, 0, 0});
  CHECK(greater(a, b).to_vector() == Values{0, 0, 1, 0});
  CHECK(greater_equal(a, b).to_vector() == Values{0, 1, 1, 0});
  CHECK(equal(a, b).to_vector() == Values{0, 1, 0, 0});
  CHECK(not_equal(a, b).to_vector() == Values{1, 0, 1, 1});
  CHECK(std::isnan(maximum(a, b).to_vector()[3]));
  CHECK(std::isnan(minimum(f32({nan}), f32({1})).item()));
  CHECK(std::isnan(maximum(f32({1}), f32({nan})).item()));
  CHECK(equal(i64({1, 2}), i64({1, 3})).to_vector() == Values{1, 0});
  Tensor w = f32({1, 2, 3, 4});
  set_requires_grad(w);
  CHECK_FALSE(requires_grad(less(w, b)));
}

TEST_CASE("where picks element by element and broadcasts all three", "[ops][binary]") {
  const Tensor c = boolean({true, false}, {2, 1}), a = f32({1, 2, 3}, {3}), b = Tensor::scalar(9.f);
  CHECK(where(c, a, b).to_vector() == Values{1, 2, 3, 9, 9, 9});
  CHECK(where(c, i64({1, 2}), i64({3, 4})).to_vector() == Values{1, 2, 3, 4});
  CHECK(where(boolean({true, false}, {2, 1, 1}), rand({1, 2, 3, 3}), zeros({1, 2, 3, 1})).shape() == Shape{1, 2, 3, 3});
}

TEST_CASE("ties of maximum and minimum share the gradient", "[ops][binary]") {
  Tensor a = f64({1, 5, 3}), b = f64({2, 5, 1});
  set_requires_grad(a);
  set_requires_grad(b);
  backward(sum(maximum(a, b)));
  CHECK(grad(a).to_vector() == Values{0, .5, 1});
  CHECK(grad(b).to_vector() == Values{1, .5, 0});
  clear_grad(a);
  clear_grad(b);
  backward(sum(minimum(a, b)));
  CHECK(grad(a).to_vector() == Values{1, .5, 0});
  CHECK(grad(b).to_vector() == Values{0, .5, 1});
}

TEST_CASE("sums and differences save neither operand", "[ops][binary]") {
  Tensor w = f32({1, 2}), x = f32({3, 4});
  set_requires_grad(w);
  const Tensor y = sum(w + x);
  fill(x, 0);  // not needed any more
  backward(y);
  CHECK(grad(w).to_vector() == Values{1, 1});
  const Tensor z = sum(w * x);
  fill(x, 1);  // this one is
  CHECK_THROWS_AS(backward(z), ValueError);
}

TEST_CASE("binary ops keep the memory order of the operand that has the result's shape", "[ops][binary]") {
  const Tensor x = channels_last(rand({2, 3, 4, 5})), bias = rand({1, 3, 1, 1});
  CHECK((x + bias).is_channels_last());
  CHECK((bias + x).is_channels_last());
  CHECK((contiguous(x) + bias).is_contiguous());
  CHECK(where(greater(x, bias), x, bias).is_channels_last());
}

TEST_CASE("binary ops refuse mixed dtypes and name the cast", "[ops][binary]") {
  CHECK(message_of<DTypeError>([] { mul(f32({1}), f64({1})); }) == "mul: expects operands of one dtype, got f32[1], f64[1]. Cast with mien::cast(x, DType::f32).");
  CHECK_THROWS_AS(where(f32({1}), f32({1}), f32({1})), DTypeError);
  CHECK_THROWS_AS(add(f32({1}), Tensor()), ValueError);
}

}  // namespace mien::test
