#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "mien/kernels/parallel.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "values.h"

namespace mien::test {
namespace {

double mean_of(const Values& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s / static_cast<double>(v.size());
}
double deviation_of(const Values& v) {
  const double m = mean_of(v);
  double s = 0;
  for (const double x : v) s += (x - m) * (x - m);
  return std::sqrt(s / static_cast<double>(v.size()));
}

}  // namespace

TEST_CASE("constant tensors of every dtype", "[ops][factory]") {
  for (const DType d : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8, DType::boolean}) {
    CHECK(zeros({2, 2}, {.dtype = d}).to_vector() == Values{0, 0, 0, 0});
    CHECK(ones({3}, {.dtype = d}).to_vector() == Values{1, 1, 1});
    CHECK(ones({3}, {.dtype = d}).dtype() == d);
  }
  CHECK(full({2}, 2.5).to_vector() == Values{2.5, 2.5});
  CHECK(full({}, 4).item() == 4);
  CHECK(zeros({0, 3}).shape() == Shape{0, 3});
  CHECK(zeros({1, 2, 3, 4}, {.layout = Layout::channels_last}).is_channels_last());
  const Tensor like = channels_last(rand({1, 2, 3, 4}));
  CHECK(zeros_like(like).is_channels_last());
  CHECK(ones_like(cast(like, DType::f64)).dtype() == DType::f64);
  CHECK_THROWS_AS(zeros({-1}), ShapeError);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_AS(zeros({huge, 2}), ShapeError);
  CHECK_THROWS_AS(zeros({huge}), ShapeError);
}

TEST_CASE("arange", "[ops][factory]") {
  CHECK(arange(4).dtype() == DType::i64);
  CHECK(arange(4).to_vector() == Values{0, 1, 2, 3});
  CHECK(arange(3, {.dtype = DType::f32}).dtype() == DType::f32);
  CHECK(arange(0).numel() == 0);
  CHECK_THROWS_AS(arange(-1), ValueError);
}

TEST_CASE("random tensors have their distribution", "[ops][factory]") {
  Generator g(11);
  for (const DType d : {DType::f32, DType::f64}) {
    const FactoryOptions o{.dtype = d, .generator = &g};
    const Values u = uniform({100000}, -1, 3, o).to_vector();
    CHECK(*std::min_element(u.begin(), u.end()) >= -1);
    CHECK(*std::max_element(u.begin(), u.end()) < 3);
    CHECK(std::abs(mean_of(u) - 1) < .02);
    CHECK(std::abs(deviation_of(u) - 4 / std::sqrt(12.0)) < .02);
    const Values n = normal({100000}, 2, .5, o).to_vector();
    CHECK(std::abs(mean_of(n) - 2) < .01);
    CHECK(std::abs(deviation_of(n) - .5) < .01);
    const Values m = dropout_mask({100000}, .25, o).to_vector();
    CHECK(std::abs(mean_of(m) - 1) < .02);
    const double kept = d == DType::f32 ? static_cast<double>(static_cast<float>(1 / .75)) : 1 / .75;
    CHECK(std::all_of(m.begin(), m.end(), [&](double v) { return v == 0 || v == kept; }));
  }
  const Values dice = randint(-2, 3, {50000}, {.dtype = DType::i64, .generator = &g}).to_vector();
  std::set<double> faces(dice.begin(), dice.end());
  CHECK(faces == std::set<double>{-2, -1, 0, 1, 2});
  CHECK(std::abs(mean_of(dice)) < .03);
  CHECK(randint(0, 5, {3}, {.dtype = DType::i32, .generator = &g}).dtype() == DType::i32);
}

TEST_CASE("random bits follow from seed and stream alone", "[ops][factory]") {
  Generator a(5), b(5);
  const Values first = randn({1000}, {.generator = &a}).to_vector(), second = randn({1000}, {.generator = &a}).to_vector();
  CHECK(first != second);
  CHECK(randn({1000}, {.generator = &b}).to_vector() == first);
  b.restore(5, 1);
  const int before = num_threads();
  set_num_threads(1);
  CHECK(randn({10, 100}, {.generator = &b}).to_vector() == second);  // neither threads nor shape matter
  set_num_threads(before);
  b.restore(5, 0);
  a.restore(5, 0);
  CHECK(rand({2, 3, 4, 5}, {.generator = &a}).to_vector() == rand({2, 3, 4, 5}, {.layout = Layout::channels_last, .generator = &b}).to_vector());
  manual_seed(9);
  const Values x = rand({4}).to_vector();
  manual_seed(9);
  CHECK(rand({4}).to_vector() == x);
}

TEST_CASE("factories refuse ranges that make no sense", "[ops][factory]") {
  CHECK_THROWS_AS(uniform({2}, 1, 0), ValueError);
  CHECK_THROWS_AS(normal({2}, 0, -1), ValueError);
  CHECK_THROWS_AS(normal({2}, 0, std::nan("")), ValueError);
  CHECK_THROWS_AS(randint(3, 3, {2}), ValueError);
  CHECK_THROWS_AS(dropout_mask({2}, 1), ValueError);
  CHECK_THROWS_AS(dropout_mask({2}, -.1), ValueError);
  CHECK_THROWS_AS(rand({2}, {.dtype = DType::i64}), DTypeError);
}

}  // namespace mien::test
