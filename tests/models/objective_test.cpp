// What face-embedding nets are trained towards: each loss and each combination, its parts, its derivative, and what is refused.
#include <cmath>

#include "catch.h"
#include "mien/autograd/gradcheck.h"
#include "mien/models/facenet/objective.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"

namespace mien::test {
namespace {

const Tensor labels = Tensor::from<std::int64_t>({0, 0, 1, 1, 2, 2}, {6});
Tensor embeddings(DType dtype = DType::f32) {
  manual_seed(8);
  return randn({6, 5}, {.dtype = dtype});
}
double part(const EmbeddingObjective::Result& r, const std::string& name) {
  for (const auto& [n, v] : r.parts)
    if (n == name) return v;
  FAIL("no " << name);
  return 0;
}

}  // namespace

TEST_CASE("a softmax over people is cross-entropy of a dense layer", "[objective]") {
  EmbeddingObjective o({.size = 5, .classes = 3, .people = PeopleLoss::softmax});
  const Tensor e = embeddings();
  const auto r = o(e, labels, 0);
  const auto p = o.parameters();
  REQUIRE(p.size() == 2);
  CHECK(r.total.item() == Approx(cross_entropy(linear(e, p[0].value, p[1].value), labels).item()));
  CHECK(part(r, "loss") == r.total.item());
  CHECK(part(r, "accuracy") >= 0);
}

TEST_CASE("people, centers and triplets add up with their weights", "[objective]") {
  const Tensor e = embeddings();
  EmbeddingObjective o({.size = 5, .classes = 3, .people = PeopleLoss::cosface, .scale = 8, .margin = .1, .center_weight = .5, .triplets = TripletRule::batch_all, .triplet_weight = 2, .alpha = .3});
  const auto r = o(e, labels, 0);
  CHECK(part(r, "loss") == Approx(part(r, "people_loss") + .5 * part(r, "center_loss") + 2 * part(r, "triplet_loss")));
  CHECK(part(r, "triplet_loss") == Approx(batch_all_triplet_loss(normalize(e), labels, .3, true).loss.item()));
  CHECK(part(r, "center_loss") > 0);
}

TEST_CASE("every rule of triplets gives a loss or, when none is found, nothing to learn from", "[objective]") {
  for (const TripletRule rule : {TripletRule::batch_all, TripletRule::batch_hard, TripletRule::semi_hard, TripletRule::violating, TripletRule::hard}) {
    EmbeddingObjective o({.size = 5, .people = PeopleLoss::none, .triplets = rule, .alpha = 1});
    const auto r = o(embeddings(), labels, 3);
    REQUIRE(r.total.defined());
    CHECK(std::isfinite(r.total.item()));
    CHECK(r.total.item() > 0);
    CHECK(o(embeddings(), labels, 3).total.item() == r.total.item());
  }
  EmbeddingObjective mined({.size = 5, .people = PeopleLoss::none, .triplets = TripletRule::semi_hard});
  const auto none = mined(embeddings(), Tensor::from<std::int64_t>({0, 1, 2, 3, 4, 5}, {6}), 0);  // nobody twice
  CHECK(!none.total.defined());
  CHECK(part(none, "loss") == 0);
}

TEST_CASE("the derivative of every objective", "[objective]") {
  for (const PeopleLoss people : {PeopleLoss::softmax, PeopleLoss::arcface, PeopleLoss::cosface, PeopleLoss::sphereface, PeopleLoss::none}) {
    EmbeddingObjective o({.size = 5, .classes = people == PeopleLoss::none ? 0 : 3, .people = people, .scale = 8, .margin = people == PeopleLoss::sphereface ? 2. : .2, .label_smoothing = .1,
                     .center_weight = people == PeopleLoss::softmax ? .3 : 0, .triplets = people == PeopleLoss::cosface || people == PeopleLoss::none ? TripletRule::batch_all : TripletRule::none});
    o.to(DType::f64);
    o.eval();  // centers stay
    const auto report = gradcheck([&](std::span<const Tensor> in) { return o(in[0], labels, 0).total; }, {embeddings(DType::f64)});
    INFO(report.message);
    CHECK(report.ok);
  }
}

TEST_CASE("an objective refuses what makes no sense", "[objective]") {
  CHECK_THROWS_WITH(EmbeddingObjective({.size = 5, .people = PeopleLoss::none}), Catch::Matchers::Contains("people, triplets, or both"));
  CHECK_THROWS_WITH(EmbeddingObjective({.size = 5, .people = PeopleLoss::none, .center_weight = 1, .triplets = TripletRule::hard}), Catch::Matchers::Contains("centers need a loss over people"));
  CHECK_THROWS_AS(EmbeddingObjective({.size = 5, .classes = 0, .people = PeopleLoss::softmax}), ValueError);
  EmbeddingObjective o({.size = 5, .classes = 3, .people = PeopleLoss::softmax});
  CHECK_THROWS_AS(o(embeddings(), Tensor::from<std::int64_t>({0, 0, 1, 1, 2, 3}, {6}), 0), ValueError);
}

}  // namespace mien::test
