// The gradient checker itself: it must pass what is right and fail what is wrong.
#include "../ops/values.h"
#include "mien/autograd/gradcheck.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

using In = std::span<const Tensor>;

Tensor random_input(const Shape& shape) {
  Generator g(4);
  return uniform(shape, .5, 2, {.dtype = DType::f64, .generator = &g});
}

// x squared with a hand-made node. The first derivative is right; the second is forgotten when `forgets`.
class SquareNode final : public Node {
 public:
  SquareNode(const Tensor& x, bool forgets) : x_(x), forgets_(forgets) { inputs = {edge_of(x)}; }
  const char* name() const noexcept override { return "hand_made_square"; }
  std::vector<Tensor> backward(std::span<const Tensor> grads, std::span<const Tensor>) override {
    return {grads[0] * 2.0 * (forgets_ ? x_.detach() : x_)};
  }
  void release() noexcept override {}

 private:
  Tensor x_;
  bool forgets_;
};
Tensor hand_made_square(const Tensor& x, bool forgets) {
  Tensor y;
  {
    const NoGrad off;
    y = square(x);
  }
  if (grad_enabled() && requires_grad(x)) set_edge(y, std::make_shared<SquareNode>(x, forgets), 0);
  return y;
}

}  // namespace

TEST_CASE("gradcheck passes right derivatives", "[autograd][gradcheck]") {
  const auto f = [](In in) { return matmul(sigmoid(in[0]), in[1]); };
  const auto report = gradcheck(f, {random_input({3, 4}), random_input({4, 2})});
  CHECK(report.ok);
  CHECK(report.worst < 1e-8);
  CHECK(report.message.find("ok") != std::string::npos);
  CHECK(gradcheck(f, {transpose(random_input({4, 3}), 0, 1), expand(random_input({4, 1}), {4, 2})}).ok);
  CHECK(gradcheck(f, {random_input({30, 40}), random_input({40, 20})}, {.directions = 5}).ok);
  CHECK(gradgradcheck(f, {random_input({3, 4}), random_input({4, 2})}).ok);
  CHECK(gradgradcheck(f, {random_input({6, 5}), random_input({5, 4})}, {.directions = 3}).ok);
}

TEST_CASE("gradcheck finds wrong derivatives and says where", "[autograd][gradcheck]") {
  const auto half = [](In in) { return in[0] * in[0].detach(); };  // gives x, should be 2 x
  const auto report = gradcheck(half, {f64({1, .1})});
  CHECK_FALSE(report.ok);
  CHECK(report.worst > .1);
  CHECK(report.message.find("input 0 (f64[2]) element 0 -> output 0 element 0: analytic 1, numeric ") != std::string::npos);
  CHECK_FALSE(gradcheck(half, {f64({1, 3})}, {.directions = 1}).ok);
  const auto one_of_two = [](In in) { return in[0] * in[1].detach(); };
  CHECK(gradcheck(one_of_two, {f64({1, 3}), f64({2, 2})}).message.find("input 1") != std::string::npos);
  const auto tiny = [](In in) { return in[0] + in[0].detach() * 1e-5; };
  CHECK_FALSE(gradcheck(tiny, {f64({1, 3})}).ok);
  CHECK(gradcheck(tiny, {f64({1, 3})}, {.tolerance = 1e-4}).ok);
}

TEST_CASE("gradcheck calls NaN wrong", "[autograd][gradcheck]") {
  CHECK_FALSE(gradcheck([](In in) { return sqrt(in[0]); }, {f64({0, 1})}).ok);
}

TEST_CASE("gradgradcheck finds a forgotten second derivative", "[autograd][gradcheck]") {
  const auto right = [](In in) { return hand_made_square(in[0], false); };
  const auto wrong = [](In in) { return hand_made_square(in[0], true); };
  CHECK(gradcheck(wrong, {f64({1, 3})}).ok);
  CHECK(gradgradcheck(right, {f64({1, 3})}).ok);
  const auto report = gradgradcheck(wrong, {f64({1, 3})});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("gradgradcheck: FAILED") == 0);
}

TEST_CASE("gradcheck passes other inputs through and refuses f32", "[autograd][gradcheck]") {
  const auto f = [](In in) { return where(in[1], in[0], square(in[0])); };
  CHECK(gradcheck(f, {f64({1, 3}), boolean({true, false}, {2})}).ok);
  CHECK(message_of<DTypeError>([&] { gradcheck(f, {f32({1, 3}), boolean({true, false}, {2})}); }).find("input 0 is f32[2]") != std::string::npos);
  CHECK_THROWS_AS(gradcheck(f, {boolean({true}, {1}), boolean({true}, {1})}), ValueError);
  CHECK_THROWS_AS(gradcheck([](In in) { return cast(in[0], DType::f32); }, {f64({1})}), DTypeError);
}

TEST_CASE("gradcheck leaves its inputs alone", "[autograd][gradcheck]") {
  const Tensor x = f64({1, 2});
  gradcheck([](In in) { return exp(in[0]); }, {x});
  CHECK(x.to_vector() == Values{1, 2});
  CHECK_FALSE(requires_grad(x));
  CHECK_FALSE(grad(x).defined());
  const NoGrad off;
  CHECK(gradcheck([](In in) { return exp(in[0]); }, {x}).ok);  // whatever the caller's mode
}

TEST_CASE("gradcheck takes empty tensors and functions that don't depend on an input", "[autograd][gradcheck]") {
  CHECK(gradcheck([](In in) { return exp(in[0]); }, {zeros({0, 2}, {.dtype = DType::f64})}).ok);
  CHECK(gradcheck([](In in) { return sum(in[0]) + 1.0; }, {zeros({0}, {.dtype = DType::f64})}).ok);
  CHECK(gradcheck([](In in) { return exp(in[0]); }, {f64({1}), f64({2})}).ok);
}

}  // namespace mien::test
