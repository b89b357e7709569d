#include "mien/kernels/parallel.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {
namespace {

// [M, K] x [K, N] in doubles.
Values product(const Tensor& a, const Tensor& b) {
  const Values va = a.to_vector(), vb = b.to_vector();
  const auto m = static_cast<std::size_t>(a.size(0)), k = static_cast<std::size_t>(a.size(1)), n = static_cast<std::size_t>(b.size(1));
  Values y(m * n, 0.0);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t l = 0; l < k; ++l)
      for (std::size_t j = 0; j < n; ++j) y[i * n + j] += va[i * k + l] * vb[l * n + j];
  return y;
}

}  // namespace

TEST_CASE("matrix products of many sizes and strides", "[ops][matmul]") {
  Generator g(2);
  const std::int64_t sizes[][3] = {{1, 1, 1}, {2, 3, 4}, {1, 100, 1}, {17, 1, 19}, {33, 65, 31}, {64, 64, 64}, {100, 7, 130}, {5, 0, 3}, {0, 4, 3}, {3, 4, 0}};
  for (const auto& [m, k, n] : sizes)
    for (const DType d : {DType::f32, DType::f64}) {
      const FactoryOptions o{.dtype = d, .generator = &g};
      const std::vector<Tensor> as = {uniform({m, k}, -1, 1, o), transpose(uniform({k, m}, -1, 1, o), 0, 1), slice(uniform({m, 2 * k}, -1, 1, o), 1, 0, {}, 2),
                                      expand(uniform({1, k}, -1, 1, o), {m, k})};
      const std::vector<Tensor> bs = {uniform({k, n}, -1, 1, o), transpose(uniform({n, k}, -1, 1, o), 0, 1), expand(uniform({k, 1}, -1, 1, o), {k, n})};
      for (const auto& a : as)
        for (const auto& b : bs) {
          INFO(describe(a) << to_string(a.strides()) << " x " << describe(b) << to_string(b.strides()));
          check_close(matmul(a, b), product(a, b), d == DType::f32 ? 1e-5 : 1e-13);
        }
    }
}

TEST_CASE("small integers multiply exactly", "[ops][matmul]") {
  const Tensor a = cast(randint(-8, 9, {37, 53}), DType::f32), b = cast(randint(-8, 9, {53, 41}), DType::f32);
  CHECK(matmul(a, b).to_vector() == product(a, b));
  CHECK(linear(a, transpose(b, 0, 1)).to_vector() == product(a, b));
}

TEST_CASE("leading dimensions broadcast", "[ops][matmul]") {
  const Tensor a = rand({2, 1, 3, 4}), b = rand({5, 4, 2}), y = matmul(a, b);
  CHECK(y.shape() == Shape{2, 5, 3, 2});
  for (std::int64_t i = 0; i < 2; ++i)
    for (std::int64_t j = 0; j < 5; ++j) {
      const auto part = [](const Tensor& t, std::int64_t at) { return squeeze(slice(t, 0, at, at + 1), 0); };
      check_close(part(part(y, i), j), product(part(part(a, i), 0), part(b, j)), 1e-6);
    }
  CHECK(matmul(rand({3, 4}), rand({6, 4, 2})).shape() == Shape{6, 3, 2});
  CHECK(matmul(rand({0, 3, 4}), rand({4, 2})).shape() == Shape{0, 3, 2});
}

TEST_CASE("linear takes any leading dimensions", "[ops][matmul]") {
  const Tensor w = f32({1, 0, 2, 0, 1, -1}, {2, 3}), b = f32({10, 20});
  CHECK(linear(f32({1, 2, 3}, {1, 3}), w, b).to_vector() == Values{17, 19});
  CHECK(linear(f32({1, 2, 3}), w).to_vector() == Values{7, -1});
  CHECK(linear(zeros({4, 5, 3}), w, b).shape() == Shape{4, 5, 2});
  CHECK(linear(zeros({4, 0, 3}), w, b).shape() == Shape{4, 0, 2});
  CHECK(linear(zeros({4, 0}), zeros({2, 0}), b).to_vector() == Values{10, 20, 10, 20, 10, 20, 10, 20});
  const Tensor x = rand({3, 7}), v = rand({5, 7});
  check_close(linear(x, v), product(x, transpose(v, 0, 1)), 1e-6);
}

TEST_CASE("a row of linear has the same bits in every batch", "[ops][matmul]") {
  Generator g(5);
  const FactoryOptions o{.generator = &g};
  for (const std::int64_t k : {40, 700}) {  // in every way that matmul.cpp has
    const Tensor x = uniform({500, k}, -1, 1, o), bias = uniform({50}, -1, 1, o), w = uniform({50, k}, -1, 1, o);
    for (const Tensor& weight : {w, transpose(contiguous(transpose(w, 0, 1)), 0, 1)})
      for (const Tensor& b : {bias, Tensor()}) {
        const Tensor all = linear(x, weight, b);
        for (const std::int64_t m : {1, 3, 33, 64, 65, 130}) {
          INFO(m << " rows of " << k << to_string(weight.strides()) << (b.defined() ? " with" : " without") << " a bias");
          CHECK(linear(slice(x, 0, 0, m), weight, b).to_vector() == slice(all, 0, 0, m).to_vector());
        }
      }
  }
}

TEST_CASE("products have the same bits for any number of threads", "[ops][matmul]") {
  const Tensor a = rand({150, 300}), b = rand({300, 170});
  const int before = num_threads();
  set_num_threads(1);
  const Values one = matmul(a, b).to_vector();
  set_num_threads(3);
  CHECK(matmul(a, b).to_vector() == one);
  set_num_threads(before);
}

TEST_CASE("matmul and linear refuse what doesn't fit", "[ops][matmul]") {
  CHECK(message_of<ShapeError>([] { matmul(zeros({2, 3}), zeros({4, 2})); }) ==
        "matmul: columns of the first (3) and rows of the second (4) differ: f32[2, 3], f32[4, 2]");
  CHECK_THROWS_AS(matmul(zeros({3}), zeros({3, 2})), ShapeError);
  CHECK_THROWS_AS(matmul(zeros({2, 3, 4}), zeros({3, 4, 2})), ShapeError);
  CHECK_THROWS_AS(matmul(zeros({2, 3}), zeros({3, 2}, {.dtype = DType::f64})), DTypeError);
  CHECK_THROWS_AS(matmul(i64({1}, {1, 1}), i64({1}, {1, 1})), DTypeError);
  CHECK(message_of<ShapeError>([] { linear(zeros({2, 3}), zeros({5, 4})); }) ==
        "linear: weight expects 4 inputs, the input has 3 (f32[2, 3], f32[5, 4])");
  CHECK_THROWS_AS(linear(zeros({2, 3}), zeros({5, 3}), zeros({4})), ShapeError);
  CHECK_THROWS_AS(linear(zeros({2, 3}), zeros({3})), ShapeError);
  CHECK_THROWS_AS(linear(Tensor::scalar(1.f), zeros({5, 1})), ShapeError);
}

}  // namespace mien::test
