#include <cmath>
#include <cstring>
#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/kernels/parallel.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {

TEST_CASE("sums, means and extrema over any dimensions", "[ops][reduce]") {
  const Tensor x = reshape(arange(24, {.dtype = DType::f32}), {2, 3, 4});
  CHECK(sum(x).shape() == Shape{});
  CHECK(sum(x).item() == 276);
  CHECK(sum(x, {}, true).shape() == Shape{1, 1, 1});
  CHECK(sum(x, {0, 2}).to_vector() == Values{60, 92, 124});
  CHECK(sum(x, {-1}).to_vector() == Values{6, 22, 38, 54, 70, 86});
  CHECK(sum(x, {1}, true).shape() == Shape{2, 1, 4});
  CHECK(sum(x, {2, 2}).shape() == Shape{2, 3});  // named twice is named once
  CHECK(mean(x, {1, 2}).to_vector() == Values{5.5, 17.5});
  CHECK(max(x, {0}).to_vector() == Values{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23});
  CHECK(min(x, {1, 2}).to_vector() == Values{0, 12});
  CHECK(max(x).item() == 23);
  CHECK(argmax(x, 2).to_vector() == Values{3, 3, 3, 3, 3, 3});
  CHECK(argmin(x, 0, true).shape() == Shape{1, 3, 4});
  CHECK(argmax(x, 0).dtype() == DType::i64);
  CHECK(sum(permute(x, {2, 0, 1}), {0, 1}).to_vector() == Values{60, 92, 124});
  CHECK(sum(expand(f32({1, 2}), {5, 2}), {0}).to_vector() == Values{5, 10});
  CHECK(sum(Tensor::scalar(3.f)).item() == 3);
  CHECK(max(i64({3, 9, 2})).dtype() == DType::i64);
  CHECK(max(i64({3, 9, 2})).item_int() == 9);
}

TEST_CASE("every choice of dimensions agrees with a plain loop", "[ops][reduce]") {
  const std::vector<Tensor> sources = {rand({3, 5, 7, 19}), channels_last(rand({3, 5, 7, 19})), permute(rand({19, 7, 5, 3}), {3, 2, 1, 0}),
                                       expand(rand({3, 1, 7, 1}), {3, 5, 7, 19}), slice(rand({3, 5, 7, 38}), 3, 0, {}, 2)};
  for (const auto& x : sources) {
    const Values v = x.to_vector();
    for (unsigned chosen = 1; chosen < 16; ++chosen) {
      std::vector<std::int64_t> dims;
      Shape kept = x.shape();
      for (int d = 0; d < 4; ++d)
        if (chosen & (1u << d)) {
          dims.push_back(d);
          kept[d] = 1;
        }
      const Strides to = contiguous_strides(kept);
      Values total(static_cast<std::size_t>(numel(kept)), 0.0), largest(total.size(), -1e30);
      std::size_t i = 0;
      for (std::int64_t a = 0; a < 3; ++a)
        for (std::int64_t b = 0; b < 5; ++b)
          for (std::int64_t c = 0; c < 7; ++c)
            for (std::int64_t e = 0; e < 19; ++e, ++i) {
              const auto at = static_cast<std::size_t>((a % kept[0]) * to[0] + (b % kept[1]) * to[1] + (c % kept[2]) * to[2] + (e % kept[3]) * to[3]);
              total[at] += v[i];
              largest[at] = std::max(largest[at], v[i]);
            }
      INFO(to_string(x.strides()) << " dims " << chosen);
      check_close(sum(x, dims), total, 2e-6);
      check_close(sum(cast(x, DType::f64), dims, true), total, 1e-12);
      CHECK(max(x, dims).to_vector() == largest);
    }
  }
}

TEST_CASE("sums of integers and bools are i64", "[ops][reduce]") {
  CHECK(sum(greater(f32({1, -1, 2}), f32({0}))).dtype() == DType::i64);
  CHECK(sum(greater(f32({1, -1, 2}), f32({0}))).item_int() == 2);
  CHECK(sum(u8({200, 200}, {2})).item_int() == 400);
  const std::int32_t top = std::numeric_limits<std::int32_t>::max();
  CHECK(sum(i32({top, top}, {2})).item_int() == 2 * std::int64_t{top});
  CHECK_THROWS_AS(mean(i64({1, 2})), DTypeError);
}

TEST_CASE("reductions of nothing", "[ops][reduce]") {
  CHECK(sum(zeros({0})).item() == 0);
  CHECK(sum(zeros({0, 3}), {0}).to_vector() == Values{0, 0, 0});
  CHECK(sum(zeros({0, 3}), {1}).numel() == 0);
  CHECK(max(zeros({0, 3}), {1}).numel() == 0);
  CHECK(std::isnan(mean(zeros({0})).item()));
  CHECK(message_of<ShapeError>([] { max(zeros({0, 3}), {0}); }) == "max: has no value over an empty dimension, got f32[0, 3]");
  CHECK(message_of<ShapeError>([] { argmin(zeros({0, 3}), 0); }) == "argmin: has no value over an empty dimension, got f32[0, 3]");
  CHECK_THROWS_AS(sum(zeros({2}), {1}), ShapeError);
  CHECK_THROWS_AS(argmax(Tensor::scalar(1.f), 0), ShapeError);
}

TEST_CASE("extrema: the first index wins ties, NaN wins all", "[ops][reduce]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(argmax(f32({1, 3, 3}), 0).item_int() == 1);
  CHECK(argmin(f32({1, 3, 1}), 0).item_int() == 0);
  CHECK(argmax(f32({1, nan, 3}), 0).item_int() == 1);
  for (std::int64_t at : {0, 5, 20, 36}) {
    Tensor x = rand({37});
    x.at<float>({at}) = nan;
    CHECK(std::isnan(max(x).item()));
    CHECK(std::isnan(min(x).item()));
    CHECK(std::isnan(sum(x).item()));
  }
}

TEST_CASE("ties of max and min share the gradient", "[ops][reduce]") {
  Tensor x = f64({1, 5, 5, 5, 2, 2}, {2, 3});
  set_requires_grad(x);
  backward(sum(max(x, {1})));
  CHECK(grad(x).to_vector() == Values{0, .5, .5, 1, 0, 0});
  clear_grad(x);
  backward(min(x));
  CHECK(grad(x).to_vector() == Values{1, 0, 0, 0, 0, 0});
}

TEST_CASE("sum_to adds up what broadcasting repeated", "[ops][reduce]") {
  const Tensor x = ones({2, 3, 4});
  CHECK(sum_to(x, {2, 3, 4}).is_same(x));
  CHECK(sum_to(x, {4}).to_vector() == Values{6, 6, 6, 6});
  CHECK(sum_to(x, {3, 1}).to_vector() == Values{8, 8, 8});
  CHECK(sum_to(x, {1, 1, 1}).shape() == Shape{1, 1, 1});
  CHECK(sum_to(x, {}).item() == 24);
  CHECK(sum_to(ones({1, 1, 3}), {3}).shape() == Shape{3});
  CHECK(sum_to(ones({0, 3}), {1, 3}).to_vector() == Values{0, 0, 0});
}

TEST_CASE("norm is differentiable at the zero vector", "[ops][reduce]") {
  Tensor x = f64({3, 4});
  set_requires_grad(x);
  const Tensor n = norm(x);
  CHECK(n.item() == 5);
  backward(n);
  check_close(grad(x), {.6, .8}, 1e-15);
  Tensor z = zeros({2}, {.dtype = DType::f64});
  set_requires_grad(z);
  backward(norm(z));
  CHECK(grad(z).to_vector() == Values{0, 0});
  CHECK(std::isnan(norm(f64({std::nan(""), 1})).item()));
}

TEST_CASE("a large sum has the same bits for any number of threads and loses little", "[ops][reduce]") {
  const Tensor x = rand({1 << 20}), m = reshape(x, {1 << 10, 1 << 10});
  double exact = 0;
  for (const double v : x.to_vector()) exact += v;
  const int before = num_threads();
  set_num_threads(1);
  const double one = sum(x).item();
  const Values rows = sum(m, {1}).to_vector(), columns = sum(m, {0}).to_vector();
  CHECK(std::abs(one - exact) < 1e-5 * exact);
  for (const int threads : {2, 3, 8}) {
    set_num_threads(threads);
    CHECK(sum(x).item() == one);
    CHECK(sum(m, {1}).to_vector() == rows);
    CHECK(sum(m, {0}).to_vector() == columns);
  }
  set_num_threads(before);
}

}  // namespace mien::test
