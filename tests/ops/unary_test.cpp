#include <cmath>
#include <functional>
#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {
namespace {

struct Row {
  const char* name;
  Tensor (*op)(const Tensor&);
  double (*expected)(double);
  double low, high;
};
const Row rows[] = {
    {"neg", neg, [](double x) { return -x; }, -3, 3},
    {"exp", exp, [](double x) { return std::exp(x); }, -5, 5},
    {"log", log, [](double x) { return std::log(x); }, .01, 10},
    {"sqrt", sqrt, [](double x) { return std::sqrt(x); }, 0, 10},
    {"rsqrt", rsqrt, [](double x) { return 1 / std::sqrt(x); }, .1, 10},
    {"reciprocal", reciprocal, [](double x) { return 1 / x; }, .1, 10},
    {"abs", abs, [](double x) { return std::fabs(x); }, -3, 3},
    {"square", square, [](double x) { return x * x; }, -3, 3},
    {"sin", sin, [](double x) { return std::sin(x); }, -6, 6},
    {"cos", cos, [](double x) { return std::cos(x); }, -6, 6},
    {"tanh", tanh, [](double x) { return std::tanh(x); }, -6, 6},
    {"sigmoid", sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -20, 20},
    {"relu", relu, [](double x) { return x > 0 ? x : 0; }, -3, 3},
    {"leaky_relu", [](const Tensor& x) { return leaky_relu(x, .2); }, [](double x) { return x > 0 ? x : .2 * x; }, -3, 3},
    {"softplus", softplus, [](double x) { return x > 20 ? x : std::log1p(std::exp(x)); }, -30, 30},
    {"silu", silu, [](double x) { return x / (1 + std::exp(-x)); }, -6, 6},
    {"clamp", [](const Tensor& x) { return clamp(x, -1, 2); }, [](double x) { return std::fmin(std::fmax(x, -1), 2); }, -3, 3},
    {"affine", [](const Tensor& x) { return affine(x, 3, -1); }, [](double x) { return 3 * x - 1; }, -3, 3},
    {"pow", [](const Tensor& x) { return pow(x, 1.5); }, [](double x) { return std::pow(x, 1.5); }, 0, 4},
    {"sign", sign, [](double x) { return static_cast<double>(x > 0) - static_cast<double>(x < 0); }, -3, 3},
};

}  // namespace

TEST_CASE("element-wise functions of one tensor give what the C library gives", "[ops][unary]") {
  Generator g(3);
  for (const auto& r : rows)
    for (const DType dtype : {DType::f32, DType::f64}) {
      INFO(r.name << " " << name(dtype));
      const double tolerance = dtype == DType::f32 ? 2e-6 : 1e-14;
      const auto check = [&](const Tensor& x) {
        Values expected;
        for (const double v : x.to_vector()) expected.push_back(r.expected(v));
        const Tensor y = r.op(x);
        CHECK(y.dtype() == dtype);
        CHECK(y.shape() == x.shape());
        check_close(y, expected, tolerance);
      };
      check(uniform({1037}, r.low, r.high, {.dtype = dtype, .generator = &g}));
      check(uniform({}, r.low, r.high, {.dtype = dtype, .generator = &g}));
      check(transpose(uniform({7, 19}, r.low, r.high, {.dtype = dtype, .generator = &g}), 0, 1));
      check(expand(uniform({7, 1}, r.low, r.high, {.dtype = dtype, .generator = &g}), {2, 7, 5}));
      check(zeros({0, 4}, {.dtype = dtype}));
    }
}

TEST_CASE("one-tensor functions at their edges", "[ops][unary]") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const Tensor& x : {f32({nan, -inf, inf}), cast(f32({nan, -inf, inf}), DType::f64)}) {
    const Values r = relu(x).to_vector(), s = sigmoid(x).to_vector(), t = tanh(x).to_vector(), c = clamp(x, -1, 1).to_vector();
    CHECK(std::isnan(r[0]));
    CHECK(r[1] == 0);
    CHECK(std::isinf(r[2]));
    CHECK(std::isnan(s[0]));
    CHECK((s[1] == 0 && s[2] == 1));
    CHECK((t[1] == -1 && t[2] == 1));
    CHECK(std::isnan(c[0]));
    CHECK((c[1] == -1 && c[2] == 1));
  }
  CHECK(softplus(f32({200.f, -200.f})).to_vector() == Values{200, 0});
}

TEST_CASE("derivatives where a function has a corner", "[ops][unary]") {
  const auto slope_at_zero = [](const std::function<Tensor(const Tensor&)>& f) {
    Tensor x = f32({0.f});
    set_requires_grad(x);
    backward(f(x));
    return grad(x).item();
  };
  CHECK(slope_at_zero(relu) == 0);
  CHECK(slope_at_zero(abs) == 0);
  CHECK(slope_at_zero(sign) == 0);
  CHECK(slope_at_zero([](const Tensor& x) { return clamp(x, 0, 1); }) == 1);  // inside, borders included
}

TEST_CASE("one-tensor functions save only what their derivative reads", "[ops][unary]") {
  const auto survives = [](const std::function<Tensor(const Tensor&)>& f, bool overwrite_input) {
    Tensor w = f64({.5, -1.5});
    set_requires_grad(w);
    const Tensor x = w * 1.0, y = f(x);
    Tensor expected = clone(x.detach());
    set_requires_grad(expected);
    backward(sum(f(expected)));
    fill((overwrite_input ? x : y).detach(), 9);
    try {
      backward(sum(y));
    } catch (const ValueError&) {
      return false;
    }
    CHECK(grad(w).to_vector() == grad(expected).to_vector());
    return true;
  };
  using F = std::function<Tensor(const Tensor&)>;
  for (const F& f : std::initializer_list<F>{exp, tanh, sigmoid, relu, reciprocal, [](const Tensor& x) { return leaky_relu(x, .1); }}) {
    CHECK(survives(f, true));
    CHECK_FALSE(survives(f, false));
  }
  for (const F& f : std::initializer_list<F>{square, sin, cos, abs, softplus, [](const Tensor& x) { return leaky_relu(x, -.1); }}) {
    CHECK_FALSE(survives(f, true));
    CHECK(survives(f, false));
  }
  for (const F& f : std::initializer_list<F>{neg, sign, [](const Tensor& x) { return affine(x, 2, 1); }}) {
    CHECK(survives(f, true));
    CHECK(survives(f, false));
  }
  CHECK_FALSE(survives(silu, true));
  CHECK_FALSE(survives(silu, false));
}

TEST_CASE("one-tensor functions keep the memory order", "[ops][unary]") {
  const Tensor x = channels_last(rand({2, 3, 4, 5}));
  CHECK(relu(x).is_channels_last());
  CHECK(relu(contiguous(x)).is_contiguous());
}

TEST_CASE("one-tensor functions refuse what they can't take", "[ops][unary]") {
  CHECK(message_of<DTypeError>([] { exp(i64({1, 2})); }) == "exp: expects f32 or f64, got i64[2]. Cast with mien::cast(x, DType::f32).");
  CHECK_THROWS_AS(clamp(f32({1.f}), 2, 1), ValueError);
  CHECK_THROWS_AS(relu(Tensor()), ValueError);
}

}  // namespace mien::test
