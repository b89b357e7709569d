#include "mien/optim/loss_scaler.h"

#include <limits>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/ops/autocast.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/tensor/tensor.h"

namespace mien::test {

TEST_CASE("a scaled loss gives the gradients of the plain one, and the factor moves", "[optim]") {
  Tensor w = Tensor::from({1.f, -2.f, 3.f}, {3});
  set_requires_grad(w);
  const std::vector<NamedTensor> parameters{{"w", w}};
  LossScaler scaler({.start = 1024, .interval = 2});
  for (int step = 0; step < 3; ++step) {
    backward(scaler.scale(sum(square(w))));
    CHECK(scaler.unscale(parameters));
    CHECK(grad(w).to_vector() == std::vector<double>{2, -4, 6});
    clear_grad(w);
  }
  CHECK(scaler.factor() == 2048);  // after two good steps
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const double before = scaler.factor();
    set_grad(w, Tensor::from({1.f, bad, 1.f}, {3}));
    CHECK(!scaler.unscale(parameters));
    CHECK(scaler.factor() == before / 2);
    clear_grad(w);
  }
  CHECK(scaler.unscale(parameters));  // no gradient at all
  CHECK_THROWS_AS(LossScaler({.start = 0}), ValueError);
  CHECK_THROWS_AS(LossScaler({.growth = 1}), ValueError);
  CHECK_THROWS_AS(LossScaler({.backoff = 1}), ValueError);
}

TEST_CASE("Autocast leaves the CPU as it is", "[ops]") {
  const Tensor a = ones({2, 3}), b = ones({3, 2});
  CHECK(autocast_dtype() == DType::f32);
  {
    const Autocast guard(DType::bf16);
    CHECK(autocast_dtype() == DType::bf16);
    CHECK(matmul(a, b).dtype() == DType::f32);
  }
  CHECK(autocast_dtype() == DType::f32);
  CHECK_THROWS_AS(Autocast(DType::f64), ValueError);
}

}  // namespace mien::test
