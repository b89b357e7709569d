#include "mien/metrics/roc.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>

#include "mien/metrics/sum_impl.h"
#include "mien/tensor/error.h"

namespace mien {
namespace {

// After each point: how many positives and negatives have a score of at least its threshold.
struct Counts {
  std::vector<double> threshold, positives, negatives;
};

Counts count(const char* op, std::span<const double> scores, std::span<const char> positive, Ties ties) {
  if (scores.size() != positive.size())
    throw ValueError(op, "expects a label for each score, got " + std::to_string(scores.size()) + " scores and " + std::to_string(positive.size()) + " labels");
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (std::isnan(scores[i])) throw ValueError(op, "score " + std::to_string(i) + " is NaN", "Leave out what has no score.");
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  Counts c{{std::numeric_limits<double>::infinity()}, {0}, {0}};
  double yes = 0, no = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    (positive[order[k]] ? yes : no) += 1;
    if (ties == Ties::merge && k + 1 < order.size() && scores[order[k + 1]] == scores[order[k]]) continue;
    c.threshold.push_back(scores[order[k]]);
    c.positives.push_back(yes);
    c.negatives.push_back(no);
  }
  if (yes == 0 || no == 0)
    throw ValueError(op, "needs at least one positive and one negative, got " + std::to_string(static_cast<std::int64_t>(yes)) + " and " + std::to_string(static_cast<std::int64_t>(no)));
  return c;
}

}  // namespace

Roc roc_curve(std::span<const double> scores, std::span<const char> positive, Ties ties) {
  Counts c = count("roc_curve", scores, positive, ties);
  const double yes = c.positives.back(), no = c.negatives.back();
  for (double& v : c.positives) v /= yes;
  for (double& v : c.negatives) v /= no;
  return {std::move(c.threshold), std::move(c.negatives), std::move(c.positives)};
}

double auc(const Roc& roc) {
  std::vector<double> parts;
  for (std::size_t i = 1; i < roc.fpr.size(); ++i) parts.push_back((roc.fpr[i] - roc.fpr[i - 1]) * (roc.tpr[i] + roc.tpr[i - 1]) / 2);
  return pairwise_sum(parts);
}

double equal_error_rate(const Roc& roc, EerRule rule) {
  const auto gap = [&](std::size_t i) { return roc.fpr[i] - (1 - roc.tpr[i]); };  // rises from -1 to 1
  if (rule == EerRule::nearest_point) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < roc.fpr.size(); ++i)
      if (std::abs(gap(i)) < std::abs(gap(best))) best = i;
    return (roc.fpr[best] + 1 - roc.tpr[best]) / 2;
  }
  std::size_t i = 1;
  while (i + 1 < roc.fpr.size() && gap(i) < 0) ++i;
  return roc.fpr[i - 1] + (roc.fpr[i] - roc.fpr[i - 1]) * -gap(i - 1) / (gap(i) - gap(i - 1));
}

double tpr_at_fpr(const Roc& roc, double fpr) {
  if (!(fpr >= 0)) throw ValueError("tpr_at_fpr", "expects a rate of at least 0, got " + std::to_string(fpr));
  return roc.tpr[static_cast<std::size_t>(std::upper_bound(roc.fpr.begin(), roc.fpr.end(), fpr) - roc.fpr.begin()) - 1];
}

double average_precision(std::span<const double> scores, std::span<const char> positive) {
  const Counts c = count("average_precision", scores, positive, Ties::merge);
  double sum = 0;
  for (std::size_t i = 1; i < c.positives.size(); ++i) sum += (c.positives[i] - c.positives[i - 1]) * c.positives[i] / (c.positives[i] + c.negatives[i]);
  return sum / c.positives.back();
}

}  // namespace mien
