#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/shape.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {

TEST_CASE("concat and stack", "[ops][shape]") {
  const Tensor a = f32({1, 2, 3, 4}, {2, 2}), b = f32({5, 6}, {1, 2}), c = f32({7, 8}, {2, 1});
  CHECK(concat({a, b}, 0).to_vector() == Values{1, 2, 3, 4, 5, 6});
  CHECK(concat({a, c}, -1).to_vector() == Values{1, 2, 7, 3, 4, 8});
  CHECK(concat({transpose(a, 0, 1), c}, 1).to_vector() == Values{1, 3, 7, 2, 4, 8});
  CHECK(concat({a}, 0).to_vector() == a.to_vector());
  CHECK(concat({a, zeros({0, 2})}, 0).shape() == Shape{2, 2});
  CHECK(concat({i64({1}), i64({2})}, 0).dtype() == DType::i64);
  CHECK(concat({channels_last(rand({1, 2, 3, 3})), rand({1, 1, 3, 3})}, 1).is_channels_last());
  CHECK(stack({f32({1, 2}), f32({3, 4})}).to_vector() == Values{1, 2, 3, 4});
  CHECK(stack({f32({1, 2}), f32({3, 4})}, 1).to_vector() == Values{1, 3, 2, 4});
  CHECK(stack({Tensor::scalar(1.f), Tensor::scalar(2.f)}).to_vector() == Values{1, 2});
  std::vector<Tensor> many;
  Values expected;
  for (int i = 0; i < 100; ++i) {
    many.push_back(full({1}, i));
    expected.push_back(i);
  }
  CHECK(concat(many, 0).to_vector() == expected);
}

TEST_CASE("concat refuses parts that don't fit", "[ops][shape]") {
  CHECK(message_of<ShapeError>([] { concat({zeros({2, 3}), zeros({2, 4})}, 0); }) ==
        "concat: expects equal sizes in all dimensions but 0, got f32[2, 3], f32[2, 4]");
  CHECK_THROWS_AS(concat({zeros({2}), zeros({2, 1})}, 0), ShapeError);
  CHECK_THROWS_AS(concat({zeros({2}), i64({1})}, 0), DTypeError);
  CHECK_THROWS_AS(concat({zeros({2})}, 1), ShapeError);
  CHECK_THROWS_AS(concat({Tensor::scalar(1.f)}, 0), ShapeError);
  CHECK_THROWS_AS(concat({}, 0), ValueError);
  CHECK_THROWS_AS(stack({}), ValueError);
}

TEST_CASE("pad puts a constant around", "[ops][shape]") {
  const Tensor x = f32({1, 2, 3, 4}, {2, 2});
  CHECK(pad(x, {{1, 0}, {0, 2}}, 9).to_vector() == Values{9, 9, 9, 9, 1, 2, 9, 9, 3, 4, 9, 9});
  CHECK(pad(x, {{0, 0}, {0, 0}}).to_vector() == x.to_vector());
  CHECK(pad(i64({1}), {{1, 1}}, -1).to_vector() == Values{-1, 1, -1});
  CHECK(pad(zeros({0}), {{1, 2}}, 5).to_vector() == Values{5, 5, 5});
  CHECK(pad(transpose(x, 0, 1), {{0, 1}, {0, 0}}).to_vector() == Values{1, 3, 2, 4, 0, 0});
  CHECK_THROWS_AS(pad(x, {{1, 1}}), ShapeError);
  CHECK_THROWS_AS(pad(x, {{-1, 0}, {0, 0}}), ValueError);
  CHECK_THROWS_AS(pad(x, {{std::numeric_limits<std::int64_t>::max(), 0}, {0, 0}}), ShapeError);
}

TEST_CASE("index_select picks rows", "[ops][shape]") {
  const Tensor x = f32({1, 2, 3, 4, 5, 6}, {3, 2});
  CHECK(index_select(x, i64({2, 0, 2})).to_vector() == Values{5, 6, 1, 2, 5, 6});
  CHECK(index_select(x, Tensor::empty({0}, DType::i64)).shape() == Shape{0, 2});
  CHECK(index_select(f32({7, 8, 9}), i64({1})).to_vector() == Values{8});
  CHECK(index_select(u8({7, 8, 9}, {3}), i64({1, 1})).to_vector() == Values{8, 8});
  CHECK(index_select(transpose(x, 0, 1), i64({1})).to_vector() == Values{2, 4, 6});
  CHECK(message_of<ShapeError>([&] { index_select(x, i64({0, 3})); }) == "index_select: expects indices from 0 to below 3, got 3 at place 1");
  CHECK_THROWS_AS(index_select(x, i64({-1})), ShapeError);
  CHECK_THROWS_AS(index_select(zeros({0, 2}), i64({0})), ShapeError);
  CHECK_THROWS_AS(index_select(x, i64({0, 1}, {1, 2})), ShapeError);
  CHECK_THROWS_AS(index_select(x, f32({0})), DTypeError);
  CHECK_THROWS_AS(index_select(Tensor::scalar(1.f), i64({0})), ShapeError);
}

TEST_CASE("the gradient of picked rows goes back to them, repeated rows add up", "[ops][shape]") {
  Tensor w = zeros({200, 2}, {.dtype = DType::f64});
  set_requires_grad(w);
  backward(index_select(w, i64({7, 199, 7})), f64({1, 2, 3, 4, 5, 6}, {3, 2}));
  const Tensor g = grad(w);
  CHECK(g.at<double>({7, 0}) == 6);
  CHECK(g.at<double>({7, 1}) == 8);
  CHECK(g.at<double>({199, 1}) == 4);
  CHECK(sum(g).item() == 21);
}

}  // namespace mien::test
