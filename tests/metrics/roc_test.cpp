// ROC and average precision: known curves, ties, values computed with numpy.
#include <algorithm>
#include <cmath>
#include <limits>

#include "catch.h"
#include "mien/metrics/roc.h"
#include "mien/metrics/sum_impl.h"
#include "mien/tensor/error.h"

namespace mien::test {
namespace {

using Doubles = std::vector<double>;

// 200 scores with many ties, and labels that lean on them.
struct Sample {
  Doubles scores;
  std::vector<char> positive;
};
Sample sample() {
  Sample s;
  for (int i = 0; i < 200; ++i) {
    const int v = (i * 37 + 11) % 101;
    s.scores.push_back(v / 10.0);
    s.positive.push_back(((i * 53 + 7) % 97 + 3 * v > 190) != (i % 9 == 0));
  }
  return s;
}

}  // namespace

TEST_CASE("ROC of four samples") {
  const Doubles scores{.1, .4, .35, .8};
  const std::vector<char> positive{0, 0, 1, 1};
  const Roc roc = roc_curve(scores, positive);
  CHECK(roc.threshold == Doubles{std::numeric_limits<double>::infinity(), .8, .4, .35, .1});
  CHECK(roc.fpr == Doubles{0, 0, .5, .5, 1});
  CHECK(roc.tpr == Doubles{0, .5, .5, 1, 1});
  CHECK(auc(roc) == .75);
  CHECK(average_precision(scores, positive) == Approx(.8333333333333333).epsilon(1e-15));
  CHECK(equal_error_rate(roc) == .5);
  CHECK(tpr_at_fpr(roc, 0) == .5);
  CHECK(tpr_at_fpr(roc, .49) == .5);
  CHECK(tpr_at_fpr(roc, .5) == 1);
}

TEST_CASE("ROC of a perfect, a useless and a wrong score") {
  const std::vector<char> positive{1, 1, 0, 0, 0};
  const Roc best = roc_curve(Doubles{5, 4, 3, 2, 1}, positive), flat = roc_curve(Doubles(5, 7.0), positive), worst = roc_curve(Doubles{1, 2, 3, 4, 5}, positive);
  CHECK(auc(best) == 1);
  CHECK(equal_error_rate(best) == 0);
  CHECK(equal_error_rate(best, EerRule::nearest_point) == 0);
  CHECK(tpr_at_fpr(best, 0) == 1);
  CHECK(auc(flat) == .5);
  CHECK(flat.fpr == Doubles{0, 1});
  CHECK(equal_error_rate(flat) == .5);
  CHECK(auc(worst) == 0);
  CHECK(equal_error_rate(worst) == 1);
}

TEST_CASE("ROC of 200 samples with ties agrees with numpy") {
  const Sample s = sample();
  const Roc merged = roc_curve(s.scores, s.positive), ordered = roc_curve(s.scores, s.positive, Ties::in_order);
  CHECK(merged.fpr.size() == 102);
  CHECK(ordered.fpr.size() == 201);
  CHECK(auc(merged) == Approx(.8710275689223058).epsilon(1e-14));
  CHECK(auc(ordered) == .871077694235589);
  CHECK(average_precision(s.scores, s.positive) == Approx(.8691453140658078).epsilon(1e-14));
  CHECK(equal_error_rate(merged) == Approx(.1789473684210526).epsilon(1e-14));
  CHECK(equal_error_rate(ordered, EerRule::nearest_point) == .17994987468671686);
  CHECK(tpr_at_fpr(merged, .1) == .6857142857142857);
  CHECK(tpr_at_fpr(ordered, .1) == .6857142857142857);
}

TEST_CASE("a merged ROC does not depend on the order, and its area is the Mann-Whitney statistic") {
  Sample s = sample();
  double wins = 0, pairs = 0;
  for (std::size_t i = 0; i < s.scores.size(); ++i)
    for (std::size_t j = 0; j < s.scores.size(); ++j)
      if (s.positive[i] && !s.positive[j]) {
        wins += s.scores[i] > s.scores[j] ? 1 : s.scores[i] == s.scores[j] ? .5 : 0;
        pairs += 1;
      }
  const Roc roc = roc_curve(s.scores, s.positive);
  CHECK(auc(roc) == Approx(wins / pairs).epsilon(1e-14));
  std::reverse(s.scores.begin(), s.scores.end());
  std::reverse(s.positive.begin(), s.positive.end());
  const Roc turned = roc_curve(s.scores, s.positive);
  CHECK(turned.fpr == roc.fpr);
  CHECK(turned.tpr == roc.tpr);
}

TEST_CASE("ROC refuses what has no curve") {
  CHECK(message_of<ValueError>([] { roc_curve(Doubles{1, 2}, std::vector<char>{1}); }) == "roc_curve: expects a label for each score, got 2 scores and 1 labels");
  CHECK(message_of<ValueError>([] { roc_curve(Doubles{1, NAN}, std::vector<char>{1, 0}); }) == "roc_curve: score 1 is NaN. Leave out what has no score.");
  CHECK(message_of<ValueError>([] { roc_curve(Doubles{1, 2}, std::vector<char>{1, 1}); }) == "roc_curve: needs at least one positive and one negative, got 2 and 0");
  CHECK(message_of<ValueError>([] { average_precision({}, {}); }) == "average_precision: needs at least one positive and one negative, got 0 and 0");
  const Roc roc = roc_curve(Doubles{1, 2}, std::vector<char>{1, 0});
  CHECK(message_of<ValueError>([&] { tpr_at_fpr(roc, -1); }).starts_with("tpr_at_fpr: expects a rate of at least 0"));
}

TEST_CASE("sums have numpy's bits") {
  Doubles v;
  for (int i = 0; i < 1000; ++i) v.push_back(1.0 / (i + 1));
  CHECK(pairwise_sum(v) == 7.485470860550345);
  CHECK(pairwise_sum(std::span(v).first(7)) == 2.5928571428571425);
  CHECK(pairwise_sum(std::span(v).first(130)) == 5.4485913382659765);
  CHECK(pairwise_sum({}) == 0);
}

}  // namespace mien::test
