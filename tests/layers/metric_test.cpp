#include "mien/layers/metric.h"

#include "mien/autograd/autograd.h"
#include "mien/autograd/gradcheck.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/normalize.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/optim/optimizer.h"
#include "ops/values.h"

namespace mien::test {

TEST_CASE("the layer Normalize", "[layers][metric]") {
  const Normalize l1({.p = 1}), l2;
  check_close(l1(f32({3, -4, 0}, {1, 3})), {3 / 7., -4 / 7., 0}, 1e-6);
  check_close(l2(f32({3, -4, 0}, {1, 3})), {.6, -.8, 0}, 1e-6);
  CHECK(l2.label() == "Normalize(L2, dim 1)");
}

TEST_CASE("class centers move after the loss was taken, by the chosen rule", "[layers][metric]") {
  const Tensor f = f64({2, 4, 6, 8}, {2, 2}), both = i64({1, 1});
  CenterLoss facenet({.classes = 3, .features = 2, .alfa = .75}), averaged({.classes = 3, .features = 2, .alfa = .5, .rule = CenterRule::averaged});
  facenet.to(DType::f64);
  averaged.to(DType::f64);
  CHECK(facenet(f, both).item() == Approx((4 + 16 + 36 + 64) / 4.));
  check_close(facenet.centers, {0, 0, .25 * 8, .25 * 12, 0, 0}, 1e-12);                  // -.25 * ((0 - 2) + (0 - 6)): two rows, twice the step
  CHECK(facenet(f, both).item() == Approx((0 + 1 + 16 + 25) / 4.));                     // to (2, 3)
  averaged(f, both);
  check_close(averaged.centers, {0, 0, .5 * 8 / 3, .5 * 12 / 3, 0, 0}, 1e-12);
  const Values before = averaged.centers.to_vector();
  averaged.eval();
  averaged(f, both);
  CHECK(averaged.centers.to_vector() == before);

  CHECK(facenet.parameters().empty());  // not for the optimizer
  CHECK(facenet.state_dict().size() == 1);
  CHECK(facenet.state_dict()[0].name == "centers");
  CHECK(facenet.label() == "CenterLoss(3 x 2)");
  const auto report = gradcheck([&](std::span<const Tensor> in) { return averaged(in[0], both); }, {f});
  INFO(report.message);
  CHECK(report.ok);

  CHECK(message_of<ShapeError>([&] { facenet(zeros({2, 3}), both); }) == "CenterLoss: expects features [N, 2] and labels [N], got f32[2, 3], i64[2]");
  CHECK(message_of<DTypeError>([&] { facenet(zeros({2, 2}), both); }) == "CenterLoss: features are f32[2, 2], the centers f64[3, 2]. Use to(dtype) on the layer.");
  CHECK(message_of<ShapeError>([&] { facenet(f, i64({0, 3})); }) == "index_select: expects indices from 0 to below 3, got 3 at place 1");
  CHECK(message_of<ValueError>([] { CenterLoss({.classes = 0, .features = 2, .alfa = .5}); }) ==
        "CenterLoss: expects classes, features >= 1 and 0 <= alfa <= 1, got 0 classes, 2 features, alfa 0.5");
}

TEST_CASE("a margin head gives the scaled cosine, with a target the harder logits", "[layers][metric]") {
  MarginHead head({.in = 2, .classes = 3, .margin = Margin::cosface(.4, 10)});
  const NoGrad guard;
  copy_into(head.weight, f32({2, 0, 0, 5, -1, 0}, {3, 2}));
  const Tensor e = f32({3, 4}, {1, 2});
  check_close(head(e), {6, 8, -6}, 1e-6);
  check_close(head(e, i64({1})), {6, 4, -6}, 1e-6);
  CHECK(head.parameters().size() == 1);
  CHECK(head.label() == "MarginHead(2 -> 3, s 10, m 1 0 0.4)");
  CHECK(message_of<ShapeError>([&] { head(zeros({2, 5})); }) == "MarginHead: expects embeddings [N, 2], got f32[2, 5] (weight f32[3, 2])");
  CHECK(message_of<ValueError>([&] { head(e, i64({3})); }) == "pick: expects indices from 0 to below 3, got 3 for row 0");
  CHECK(message_of<ValueError>([] { MarginHead({.in = 0, .classes = 3}); }) == "MarginHead: expects in, classes >= 1, got 0 -> 3");
}

TEST_CASE("each margin head passes the gradient check in embeddings and weights", "[layers][metric][gradcheck]") {
  Generator g(2);
  for (const Margin m : {Margin::arcface(), Margin::cosface(), Margin::sphereface(4, 8), Margin{16, 1, .3, .2}}) {
    MarginHead head({.in = 4, .classes = 5, .margin = m});
    const auto report = gradcheck(
        [&](std::span<const Tensor> in) {
          head.weight = in[1];
          return cross_entropy(head(in[0], i64({0, 4, 4})), i64({0, 4, 4}), {.reduction = Reduction::none});
        },
        {uniform({3, 4}, -1, 1, {.dtype = DType::f64, .generator = &g}), uniform({5, 4}, -1, 1, {.dtype = DType::f64, .generator = &g})});
    INFO(head.label() << " " << report.message);
    CHECK(report.ok);
  }
}

TEST_CASE("with a margin, classes end up further apart than the margin asks", "[layers][metric]") {
  // 12 points of 4 classes in the plane, free to move: after training each is nearer to its class than to any other by more than the margin.
  Generator g(4);
  Tensor points = uniform({12, 2}, -1, 1, {.generator = &g});
  set_requires_grad(points);
  std::vector<std::int64_t> y;
  for (std::int64_t i = 0; i < 12; ++i) y.push_back(i % 4);
  const Tensor target = Tensor::from(y, {12});
  MarginHead head({.in = 2, .classes = 4, .margin = Margin::arcface(.5, 16)});
  copy_into(head.weight, f32({1, 0, 0, 1, -1, 0, 0, -1}, {4, 2}));
  head.require_grad();
  Sgd optimizer({.lr = .05, .momentum = .9});
  optimizer.add_group(head.parameters());
  optimizer.add_group({{"points", points}});
  for (int step = 0; step < 200; ++step) {
    backward(cross_entropy(head(points, target), target));
    optimizer.step();
    optimizer.zero_grad();
  }
  const Values v = head(points.detach()).detach().to_vector();
  for (std::size_t i = 0; i < 12; ++i) {
    const auto angle = [&](std::size_t c) { return std::acos(std::clamp(v[i * 4 + c] / 16, -1.0, 1.0)); };
    for (std::size_t c = 0; c < 4; ++c)
      if (c != i % 4) CHECK(angle(i % 4) + .5 < angle(c));
  }
}

}  // namespace mien::test
