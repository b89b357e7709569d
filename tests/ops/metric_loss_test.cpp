// Losses of embeddings by hand: golden values, borders (zero vectors, equal rows, |cos| = 1, no triplet), and what they refuse.
#include "mien/ops/metric_loss.h"

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/margin.h"
#include "mien/ops/normalize.h"
#include "mien/ops/pick.h"
#include "mien/ops/reduce.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {
namespace {

Values gradient(Tensor x, const std::function<Tensor(const Tensor&)>& f) {
  set_requires_grad(x);
  backward(sum(f(x)));
  return grad(x).to_vector();
}

}  // namespace

TEST_CASE("normalize divides by the length", "[ops][metric]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = cast(f64({3, -4, 0}, {1, 3}), dtype);
    check_close(normalize(x, 1), {3 / 7., -4 / 7., 0}, 1e-6);
    check_close(normalize(x), {.6, -.8, 0}, 1e-6);
    check_close(normalize(transpose(x, 0, 1), 2, 0), {.6, -.8, 0}, 1e-6);
    for (const int p : {1, 2}) {
      check_close(normalize(zeros({2, 3}, {.dtype = dtype}), p), {0, 0, 0, 0, 0, 0}, 0);
      check_close(cast(Tensor::from(gradient(zeros({1, 3}, {.dtype = dtype}), [&](const Tensor& z) { return normalize(z, p, 1, .5); }), {3}), DType::f64), {2, 2, 2}, 1e-6);
      for (const double g : gradient(zeros({1, 3}, {.dtype = dtype}), [&](const Tensor& z) { return normalize(z, p); })) CHECK(std::isfinite(g));
    }
  }
  CHECK(message_of<ValueError>([] { normalize(zeros({1, 3}), 3); }) == "normalize: expects p 1 or 2, got 3");
  CHECK(message_of<ValueError>([] { normalize(zeros({1, 3}), 2, 1, 0); }) == "normalize: expects eps > 0, got 0.000000");
  CHECK(message_of<DTypeError>([] { normalize(i64({1, 2}, {1, 2})); }) == "normalize: expects f32 or f64, got i64[1, 2]. Cast with mien::cast(x, DType::f32).");
}

TEST_CASE("the norm of order p", "[ops][metric]") {
  const Tensor x = f64({3, -4, 0, 0}, {2, 2});
  check_close(norm(x, 1, {1}), {7, 0}, 1e-12);
  check_close(norm(x, 3, {1}), {std::cbrt(91), 0}, 1e-12);
  check_close(norm(x, 2, {0}, true), {3, 4}, 1e-12);
  for (const double p : {1.0, 2.0, 3.0})
    CHECK(gradient(zeros({2, 2}, {.dtype = DType::f64}), [p](const Tensor& z) { return norm(z, p, {1}); }) == Values{0, 0, 0, 0});
  CHECK(message_of<ValueError>([&] { norm(x, .5); }) == "norm: expects p >= 1, got 0.500000");
}

TEST_CASE("two losses of triplets, two results", "[ops][metric]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor a = cast(f64({0, 0}, {1, 2}), dtype), p = cast(f64({1, 0}, {1, 2}), dtype), n = cast(f64({0, 1.5}, {1, 2}), dtype);
    CHECK(facenet_triplet_loss(a, p, n).item() == 0);
    CHECK(facenet_triplet_loss(a, p, n, 2).item() == Approx(.75).epsilon(1e-6));
    CHECK(triplet_margin_loss(a, p, n).item() == Approx(.5).epsilon(1e-5));
  }
  const Tensor x = f32({0, 0, 1, 0}, {2, 2}), far = f32({0, 9, 0, 1}, {2, 2});
  CHECK(facenet_triplet_loss(x, x, far).item() == 0);
  CHECK(facenet_triplet_loss(x, far, x).item() == Approx((81.2 + 2.2) / 2));  // zeros count in the mean
  CHECK(message_of<ShapeError>([&] { facenet_triplet_loss(x, x, f32({1, 2})); }) ==
        "facenet_triplet_loss: expects vectors [..., D] of one shape, got f32[2, 2], f32[2, 2], f32[2]");
  CHECK(message_of<ShapeError>([&] { triplet_margin_loss(x, zeros({3, 2}), x); }) ==
        "triplet_margin_loss: expects vectors [..., D] of one shape, got f32[2, 2], f32[3, 2], f32[2, 2]");
  CHECK(message_of<ValueError>([&] { triplet_margin_loss(x, x, x, {.p = 0}); }) == "norm: expects p >= 1, got 0.000000");
}

TEST_CASE("losses of pairs", "[ops][metric]") {
  const Tensor a = f64({0, 0, 0, 0, 0, 0}, {3, 2}), b = f64({3, 4, 3, 4, .3, .4}, {3, 2});
  check_close(contrastive_loss(a, b, boolean({true, false, false}, {3}), 1, Reduction::none), {12.5, 0, .125}, 1e-12);
  const Tensor e = f64({1, 0, 1, 0, 1, 0}, {3, 2}), f = f64({0, 1, 1, 1, -1, 0}, {3, 2});
  check_close(cosine_embedding_loss(e, f, i64({1, -1, -1}), 0, Reduction::none), {1, std::sqrt(.5), 0}, 1e-9);
  for (const double g : gradient(zeros({1, 2}, {.dtype = DType::f64}), [](const Tensor& z) { return cosine_embedding_loss(z, f64({1, 2}, {1, 2}), i64({1})); })) CHECK(std::isfinite(g));
  CHECK(gradient(zeros({1, 2}), [](const Tensor& z) { return contrastive_loss(z, zeros({1, 2}), boolean({false}, {1})); }) == Values{0, 0});
  CHECK(message_of<ShapeError>([&] { contrastive_loss(a, b, boolean({true}, {1})); }) == "contrastive_loss: expects [N, D], [N, D] and [N], got f64[3, 2], f64[3, 2], bool[1]");
  CHECK(message_of<DTypeError>([&] { contrastive_loss(a, b, i64({1, 0, 0})); }) == "contrastive_loss: `same` must be bool, got i64[3]. Make it with a comparison such as mien::equal.");
  CHECK(message_of<ValueError>([&] { cosine_embedding_loss(a, b, i64({1, 0, 1})); }) == "cosine_embedding_loss: expects targets 1 and -1, got 0");
}

TEST_CASE("pairwise distances are symmetric, never negative, and exactly zero for equal rows", "[ops][metric]") {
  Generator g(5);
  for (const DType dtype : {DType::f32, DType::f64})
    for (const std::int64_t n : {1, 2, 7, 33, 90}) {
      const Tensor x = uniform({n, 37}, 100, 101, {.dtype = dtype, .generator = &g});  // far from the origin
      if (n > 1) copy_into(slice(x, 0, n - 1), slice(x, 0, 0, 1));
      const Tensor d = pairwise_squared_distances(x);
      const Values v = d.to_vector(), e = x.to_vector();
      const auto size = static_cast<std::size_t>(n);
      double worst = 0, asymmetry = 0;
      for (std::size_t i = 0; i < size; ++i)
        for (std::size_t j = 0; j < size; ++j) {
          double exact = 0;
          for (std::size_t k = 0; k < 37; ++k) exact += (e[i * 37 + k] - e[j * 37 + k]) * (e[i * 37 + k] - e[j * 37 + k]);
          worst = std::max(worst, std::abs(v[i * size + j] - exact));
          asymmetry = std::max(asymmetry, std::abs(v[i * size + j] - v[j * size + i]));
          CHECK(v[i * size + j] >= 0);
          if (exact == 0) CHECK(v[i * size + j] == 0);
        }
      INFO(n << " rows: error " << worst << ", asymmetry " << asymmetry);
      CHECK(worst <= (dtype == DType::f32 ? 1e-5 : 1e-12));
      CHECK(asymmetry <= (dtype == DType::f32 ? 1e-5 : 1e-13));
      for (const double slope : gradient(clone(x), [](const Tensor& z) { return pairwise_distances(z); })) CHECK(std::isfinite(slope));
    }
  CHECK(pairwise_squared_distances(zeros({0, 3})).shape() == Shape{0, 0});
  CHECK(message_of<ShapeError>([] { pairwise_distances(zeros({3})); }) == "pairwise_squared_distances: the input expects 2 dimensions, got f32[3]");
}

TEST_CASE("batch-all divides by the active triplets, batch-hard by all anchors", "[ops][metric]") {
  // On a line: 0 and 1 are one person, 3 and 3.5 two others.
  const Tensor x = f64({0, 1, 3, 3.5}, {4, 1}), y = i64({7, 7, 8, 9});
  const auto all = batch_all_triplet_loss(x, y, 1.5);  // 1 - d + 1.5 for d = 3, 3.5, 2, 2.5: one is .5, the others are 0 or less
  CHECK(all.loss.item() == Approx(.5));
  CHECK(all.fraction_positive == Approx(.25));
  const auto none = batch_all_triplet_loss(x, y, .1);
  CHECK(none.loss.item() == 0);
  CHECK(none.fraction_positive == 0);
  CHECK(batch_all_triplet_loss(x, i64({1, 1, 1, 1}), 1).loss.item() == 0);
  // Anchors 0, 1: 1 - 3 + 1.5 < 0, 1 - 2 + 1.5 = .5; 3 and 3.5 have no positive: 0 - .5 + 1.5 = 1 each.
  CHECK(batch_hard_triplet_loss(x, y, 1.5).item() == Approx((0 + .5 + 1 + 1) / 4));
  CHECK(message_of<ShapeError>([&] { batch_all_triplet_loss(x, i64({1, 2}), 1); }) == "batch_all_triplet_loss: expects one label per row, got f64[4, 1], i64[2]");
  CHECK(message_of<DTypeError>([&] { batch_hard_triplet_loss(x, i32({1, 1, 2, 2}, {4}), 1); }) ==
        "batch_hard_triplet_loss: labels must be i64, got i32[4]. Cast with mien::cast(labels, DType::i64).");
  CHECK(message_of<ShapeError>([&] { mine_triplets(x, y, MiningRule::hard); }) ==
        "mine_triplets: expects square distances [N, N], got f64[4, 1]. Make them with pairwise_squared_distances.");
  const Triplets t = mine_triplets(pairwise_distances(x), i64({1, 2, 3, 4}), MiningRule::violating);  // nobody twice
  CHECK(t.anchor.shape() == Shape{0});
  CHECK(t.negative.dtype() == DType::i64);
}

TEST_CASE("a margin changes the target's logit only", "[ops][metric]") {
  Generator g(3);
  const std::vector<std::int64_t> classes{3, 0, 9, 9};
  const Tensor target = Tensor::from(classes, {4});
  for (const Margin m : {Margin::arcface(), Margin::cosface(), Margin::sphereface(), Margin{30, 1, .3, .2}}) {
    const Tensor logits = uniform({4, 10}, -m.scale, m.scale, {.generator = &g});
    const Values before = logits.to_vector(), after = margin_logits(logits, target, m).to_vector();
    for (std::size_t i = 0; i < 40; ++i) {
      const bool is_target = static_cast<std::int64_t>(i % 10) == classes[i / 10];
      if (is_target) CHECK(after[i] < before[i]);
      else CHECK(after[i] == before[i]);
    }
  }
  // theta = 60 degrees: cos(theta + .5), and beyond pi - .5 the straight line.
  check_close(margin_logits(f64({.5}, {1, 1}), i64({0}), Margin::arcface(.5, 1)), {std::cos(std::acos(.5) + .5)}, 1e-12);
  check_close(margin_logits(f64({-.95}, {1, 1}), i64({0}), Margin::arcface(.5, 1)), {-.95 - .5 * std::sin(.5)}, 1e-12);
  check_close(margin_logits(f64({.5}, {1, 1}), i64({0}), Margin::cosface(.35, 1)), {.15}, 1e-12);
  check_close(margin_logits(f64({.5}, {1, 1}), i64({0}), Margin::sphereface(4, 1)), {-std::cos(4 * std::acos(.5)) - 2}, 1e-12);
  CHECK(message_of<ValueError>([] { margin_logits(zeros({1, 3}), i64({3}), Margin::arcface()); }) == "pick: expects indices from 0 to below 3, got 3 for row 0");
  CHECK(message_of<ShapeError>([] { margin_logits(zeros({2, 3}), i64({1}), Margin::arcface()); }) == "pick: expects one index per row, got f32[2, 3], i64[1]");
  CHECK(message_of<ValueError>([] { margin_logits(zeros({1, 3}), i64({0}), {.m1 = .5}); }) ==
        "margin_logits: expects scale > 0, m1 >= 1, 0 <= m2 < pi and m3 >= 0, got scale 64.000000, m1 0.500000, m2 0.000000, m3 0.000000");
}

TEST_CASE("the derivative of a margin is finite where the cosine is 1 or -1", "[ops][metric]") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const Margin m : {Margin::arcface(.5, 1), Margin::cosface(.35, 1), Margin::sphereface(4, 1), Margin{1, 1.5, .2, .1}})
      for (const double cosine : {1.0, -1.0, 1 + 1e-7, -1 - 1e-7, 1 - 1e-7, 1 - 1e-14}) {
        const Tensor x = cast(f64({cosine, 0}, {1, 2}), dtype);
        for (const double v : margin_logits(x, i64({0}), m).to_vector()) CHECK(std::isfinite(v));
        for (const double v : gradient(x, [&](const Tensor& z) { return margin_logits(z, i64({0}), m); })) CHECK(std::abs(v) < 1e5);
      }
}

TEST_CASE("pick refuses what does not fit", "[ops][error]") {
  CHECK(message_of<ShapeError>([] { pick(zeros({3}), i64({1, 2, 3})); }) == "pick: the input expects 2 dimensions, got f32[3]");
  CHECK(message_of<DTypeError>([] { pick(zeros({1, 3}), i32({1}, {1})); }) == "pick: the index must be i64, got i32[1]. Cast with mien::cast(index, DType::i64).");
  CHECK(message_of<ShapeError>([] { pick_add(zeros({2, 3}), i64({1, 2}), zeros({3})); }) == "pick_add: expects one value per row, got f32[2, 3], i64[2], f32[3]");
  CHECK(message_of<DTypeError>([] { pick_add(zeros({1, 3}), i64({1}), zeros({1}, {.dtype = DType::f64})); }) ==
        "pick_add: expects values of the input's dtype, got f32[1, 3], i64[1], f64[1]");
  CHECK(message_of<ValueError>([] { pick_add(zeros({1, 3}), i64({-1}), zeros({1})); }) == "pick_add: expects indices from 0 to below 3, got -1 for row 0");
}

}  // namespace mien::test
