#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {
namespace {

Tensor counting(const Shape& shape) { return reshape(arange(numel(shape), {.dtype = DType::f32}), shape); }
bool shares(const Tensor& a, const Tensor& b) { return a.storage() == b.storage(); }

}  // namespace

TEST_CASE("reshape is a view where the strides allow it and a copy elsewhere", "[ops][view]") {
  const Tensor x = counting({2, 6});
  const Values order = x.to_vector();
  CHECK(shares(reshape(x, {3, 4}), x));
  CHECK(reshape(x, {3, 4}).to_vector() == order);
  CHECK(reshape(x, {-1}).shape() == Shape{12});
  CHECK(reshape(x, {2, -1, 3}).shape() == Shape{2, 2, 3});
  CHECK(reshape(x, {1, 12, 1}).to_vector() == order);

  const Tensor t = transpose(x, 0, 1);
  CHECK_FALSE(shares(reshape(t, {12}), x));
  CHECK(reshape(t, {12}).to_vector() == t.to_vector());
  CHECK(shares(reshape(t, {3, 2, 2}), x));  // 6 splits, 2 stays
  CHECK(reshape(t, {3, 2, 2}).to_vector() == t.to_vector());

  const Tensor cut = slice(counting({4, 10}), 1, 2, 8);  // rows of 6 with gaps
  CHECK(shares(reshape(cut, {2, 2, 3, 2}), cut));
  CHECK(reshape(cut, {2, 2, 3, 2}).to_vector() == cut.to_vector());
  CHECK_FALSE(shares(reshape(cut, {24}), cut));
  CHECK(reshape(cut, {24}).to_vector() == cut.to_vector());

  const Tensor wide = expand(counting({3}), {4, 3});
  CHECK(shares(reshape(wide, {2, 2, 3, 1}), wide));
  CHECK(reshape(wide, {12}).to_vector() == wide.to_vector());
}

TEST_CASE("reshape of every small stride pattern keeps the logical order", "[ops][view]") {
  const std::vector<Tensor> sources = {counting({2, 3, 4}), permute(counting({4, 3, 2}), {2, 1, 0}), permute(counting({3, 2, 4}), {1, 0, 2}),
                                       expand(counting({2, 1, 4}), {2, 3, 4}), slice(counting({2, 3, 9}), 2, 1, {}, 2),
                                       unsqueeze(counting({2, 3, 4}), 1), channels_last(counting({1, 2, 3, 4}))};
  const std::vector<Shape> targets = {{24}, {2, 12}, {6, 4}, {4, 6}, {2, 3, 4}, {2, 3, 2, 2}, {1, 2, 1, 3, 4, 1}, {3, 8}, {8, 3}, {2, 2, 6}, {12, 2}};
  for (const auto& x : sources)
    for (const auto& to : targets) {
      INFO(describe(x) << " strides " << to_string(x.strides()) << " -> " << to_string(to));
      CHECK(reshape(x, to).to_vector() == x.to_vector());
      CHECK(reshape(x, to).shape() == to);
    }
}

TEST_CASE("reshape of empty tensors and scalars", "[ops][view]") {
  CHECK(reshape(zeros({0, 3}), {3, 0, 5}).shape() == Shape{3, 0, 5});
  CHECK(reshape(zeros({0, 3}), {-1, 3}).shape() == Shape{0, 3});
  CHECK(reshape(f32({7}), {}).item() == 7);
  CHECK(reshape(Tensor::scalar(7.f), {1, -1}).shape() == Shape{1, 1});
}

TEST_CASE("reshape refuses what doesn't fit", "[ops][view]") {
  const Tensor x = zeros({2, 3});
  CHECK(message_of<ShapeError>([&] { reshape(x, {4, 2}); }) == "reshape: expects a shape of 6 elements, got [4, 2] for f32[2, 3]");
  CHECK_THROWS_AS(reshape(x, {-1, -1}), ShapeError);
  CHECK_THROWS_AS(reshape(x, {-2, -3}), ShapeError);
  CHECK_THROWS_AS(reshape(x, {-1, 4}), ShapeError);
  CHECK_THROWS_AS(reshape(zeros({0}), {0, -1}), ShapeError);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_AS(reshape(x, {huge, 3, -1}), ShapeError);
  CHECK_THROWS_AS(reshape(x, {huge, huge}), ShapeError);
}

TEST_CASE("flatten, squeeze, unsqueeze", "[ops][view]") {
  const Tensor x = zeros({2, 1, 3, 4});
  CHECK(flatten(x).shape() == Shape{24});
  CHECK(flatten(x, 1).shape() == Shape{2, 12});
  CHECK(flatten(x, 2, 3).shape() == Shape{2, 1, 12});
  CHECK(flatten(zeros({0, 3}), 0).shape() == Shape{0});
  CHECK(squeeze(x, 1).shape() == Shape{2, 3, 4});
  CHECK(squeeze(x, -3).shape() == Shape{2, 3, 4});
  CHECK(unsqueeze(x, 0).shape() == Shape{1, 2, 1, 3, 4});
  CHECK(unsqueeze(x, -1).shape() == Shape{2, 1, 3, 4, 1});
  CHECK(unsqueeze(Tensor::scalar(1.f), 0).shape() == Shape{1});
  CHECK_THROWS_AS(squeeze(x, 0), ShapeError);
  CHECK_THROWS_AS(squeeze(x, 4), ShapeError);
  CHECK_THROWS_AS(flatten(x, 2, 1), ShapeError);
}

TEST_CASE("permute and transpose", "[ops][view]") {
  const Tensor x = counting({2, 3, 4}), p = permute(x, {2, 0, 1});
  CHECK(shares(p, x));
  CHECK(p.shape() == Shape{4, 2, 3});
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 2; ++j)
      for (std::int64_t k = 0; k < 3; ++k) CHECK(p.at<float>({i, j, k}) == x.at<float>({j, k, i}));
  CHECK(permute(x, {-1, 0, 1}).shape() == Shape{4, 2, 3});
  CHECK(transpose(x, 0, -1).shape() == Shape{4, 3, 2});
  CHECK(permute(Tensor::scalar(1.f), {}).shape() == Shape{});
  CHECK_THROWS_AS(permute(x, {0, 1}), ShapeError);
  CHECK_THROWS_AS(permute(x, {0, 1, 1}), ShapeError);
  CHECK_THROWS_AS(permute(x, {0, 1, 3}), ShapeError);
  CHECK_THROWS_AS(transpose(x, 0, 3), ShapeError);
}

TEST_CASE("expand repeats without a copy", "[ops][view]") {
  const Tensor x = f32({1, 2}, {2, 1}), y = expand(x, {3, 2, 2});
  CHECK(shares(y, x));
  CHECK(y.to_vector() == Values{1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2});
  CHECK(expand(x, {2, 0}).numel() == 0);
  CHECK(expand(Tensor::scalar(3.f), {2}).to_vector() == Values{3, 3});
  CHECK_THROWS_AS(expand(x, {3, 1}), ShapeError);
  CHECK_THROWS_AS(expand(x, {2}), ShapeError);
  CHECK_THROWS_AS(expand(x, {2, -1}), ShapeError);
}

TEST_CASE("slice counts as Python does", "[ops][view]") {
  const Tensor x = counting({10});
  CHECK(shares(slice(x, 0, 2, 5), x));
  CHECK(slice(x, 0, 2, 5).to_vector() == Values{2, 3, 4});
  CHECK(slice(x, 0, -3).to_vector() == Values{7, 8, 9});
  CHECK(slice(x, 0, 0, -7).to_vector() == Values{0, 1, 2});
  CHECK(slice(x, 0, 1, {}, 4).to_vector() == Values{1, 5, 9});
  CHECK(slice(x, 0, 1, 9, 4).to_vector() == Values{1, 5});
  CHECK(slice(x, 0, 5, 100).numel() == 5);
  CHECK(slice(x, 0, 20).numel() == 0);
  CHECK(slice(x, 0, 5, 3).numel() == 0);
  CHECK(slice(x, 0, -100, 1).to_vector() == Values{0});
  CHECK(slice(x, 0, 3, {}, std::numeric_limits<std::int64_t>::max()).to_vector() == Values{3});
  CHECK(slice(counting({3, 4}), -1, 1, 3).to_vector() == Values{1, 2, 5, 6, 9, 10});
  CHECK(slice(slice(x, 0, 1, {}, 2), 0, 1, {}, 2).to_vector() == Values{3, 7});
  CHECK(slice(zeros({0, 2}), 0, 0, 5).shape() == Shape{0, 2});
  CHECK_THROWS_AS(slice(x, 0, 0, 5, 0), ValueError);
  CHECK_THROWS_AS(slice(x, 1, 0), ShapeError);
  CHECK_THROWS_AS(slice(Tensor::scalar(1.f), 0, 0), ShapeError);
}

TEST_CASE("views are differentiable and writing through them is seen by the version", "[ops][view]") {
  Tensor w = f64({1, 2, 3, 4}, {2, 2});
  set_requires_grad(w);
  const Tensor t = transpose(w, 0, 1);
  CHECK(requires_grad(t));
  CHECK(shares(t, w));
  backward(reshape(slice(t, 0, 1), {2}), f64({10, 20}));
  CHECK(grad(w).to_vector() == Values{0, 10, 0, 20});

  const Tensor x = f64({1, 2});
  const std::uint32_t before = x.version();
  fill(slice(x, 0, 1), 7);
  CHECK(x.to_vector() == Values{1, 7});
  CHECK(x.version() == before + 1);
}

}  // namespace mien::test
