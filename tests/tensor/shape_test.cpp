#include "mien/tensor/shape.h"

#include <limits>
#include <vector>

#include "catch.h"
#include "mien/tensor/view.h"

namespace mien {

TEST_CASE("shapes hold up to eight sizes", "[shape]") {
  Shape s{2, 3};
  CHECK(s.rank() == 2);
  CHECK(s.back() == 3);
  s.push_back(4);
  CHECK(s == Shape{2, 3, 4});
  CHECK_FALSE(s == Shape{2, 3});
  CHECK_FALSE(s == Shape{2, 3, 5});
  s.resize(1);
  s.resize(2);
  CHECK(s == Shape{2, 0});  // no stale sizes
  CHECK(Shape::filled(3, 7) == Shape{7, 7, 7});
  CHECK(to_string(Shape{}) == "[]");
  CHECK(to_string(Shape{1, -2}) == "[1, -2]");
  const std::vector<std::int64_t> nine(9, 1);
  CHECK_THROWS_AS(Shape(std::span<const std::int64_t>(nine)), ShapeError);
  CHECK_THROWS_AS(s.resize(9), ShapeError);
  CHECK_THROWS_AS(s.resize(-1), ShapeError);
}

TEST_CASE("numel refuses negative sizes and overflow", "[shape]") {
  constexpr auto big = std::numeric_limits<std::int64_t>::max();
  CHECK(numel(Shape{}) == 1);
  CHECK(numel(Shape{2, 0, 3}) == 0);
  CHECK(numel(Shape{2, 3, 4}) == 24);
  CHECK(numel(Shape{big, 1}) == big);
  CHECK_THROWS_AS(numel(Shape{big, 2}), ShapeError);
  CHECK_THROWS_AS(numel(Shape{1LL << 32, 1LL << 31}), ShapeError);
  CHECK_THROWS_AS(numel(Shape{-1}), ShapeError);
}

TEST_CASE("strides", "[shape]") {
  CHECK(contiguous_strides(Shape{2, 3, 4}) == Strides{12, 4, 1});
  CHECK(contiguous_strides(Shape{}) == Strides{});
  CHECK(contiguous_strides(Shape{2, 0, 4}) == Strides{4, 4, 1});
  CHECK(channels_last_strides(Shape{2, 3, 4, 5}) == Strides{60, 1, 15, 3});
  CHECK_THROWS_AS(channels_last_strides(Shape{2, 3, 4}), ShapeError);
  const auto view = [](const Shape& shape, const Strides& strides) { return View{nullptr, DType::f32, shape, strides}; };
  CHECK(view({2, 3}, {3, 1}).is_contiguous());
  CHECK_FALSE(view({2, 3}, {1, 2}).is_contiguous());
  CHECK(view({2, 1}, {1, 99}).is_contiguous());  // a size of 1 never steps
  CHECK(view({0, 3}, {5, 7}).is_contiguous());
  CHECK(view({2, 3, 4, 5}, {60, 1, 15, 3}).is_channels_last());
  CHECK_FALSE(view({2, 3, 4, 5}, {60, 20, 5, 1}).is_channels_last());
  CHECK(view({2, 1, 4, 5}, {20, 20, 5, 1}).is_channels_last());  // one channel: both
  CHECK(view({3, 2}, {2, 1}).numel() == 6);
}

TEST_CASE("dimensions count from the end too", "[shape]") {
  CHECK(normalize_dim(-1, 3, "op") == 2);
  CHECK(normalize_dim(0, 3, "op") == 0);
  for (const int bad : {3, -4}) CHECK_THROWS_AS(normalize_dim(bad, 3, "op"), ShapeError);
  CHECK_THROWS_AS(normalize_dim(0, 0, "op"), ShapeError);
}

TEST_CASE("broadcasting follows numpy", "[shape]") {
  CHECK(broadcast(Shape{2, 1, 4}, Shape{3, 1}, "op") == Shape{2, 3, 4});
  CHECK(broadcast(Shape{}, Shape{2, 3}, "op") == Shape{2, 3});
  CHECK(broadcast(Shape{1}, Shape{0}, "op") == Shape{0});
  CHECK_THROWS_AS(broadcast(Shape{2, 3}, Shape{2, 4}, "op"), ShapeError);
  CHECK_THROWS_AS(broadcast(Shape{2}, Shape{0}, "op"), ShapeError);
}

}  // namespace mien
