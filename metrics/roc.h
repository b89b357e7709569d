// Curves of a yes/no decision by a score: ROC, its area, equal error rate, average precision.
//
//   const Roc roc = roc_curve(scores, positive);            // scores: the higher, the more likely positive (minus a distance, say)
//   std::printf("AUC %.4f, TPR at FPR 1%% %.4f\n", auc(roc), tpr_at_fpr(roc, .01));
//
// Everything throws ValueError for scores and labels of different length, a score that is NaN, and a set without both classes.
// Source: T. Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27 (2006). Thread safety: pure functions.
#pragma once

#include <span>
#include <vector>

namespace mien {

// Point i: what is positive at `score >= threshold[i]`. It starts at (0, 0) with threshold +infinity and ends at (1, 1).
struct Roc {
  std::vector<double> threshold, fpr, tpr;
};

// `merge`: one point for each distinct score, so that the curve does not depend on the order of equal ones. `in_order`: one point for each sample,
// equal scores in the order given (what LFW scripts with a cumulative sum do). Without equal scores both are the same.
enum class Ties { merge, in_order };
// `positive`: nonzero = positive.
Roc roc_curve(std::span<const double> scores, std::span<const char> positive, Ties ties = Ties::merge);

// Area by trapezoids. Of a merged curve: the Mann-Whitney statistic, the share of (positive, negative) pairs in the right order, ties counting 1/2.
double auc(const Roc& roc);

// Where the false positive rate equals the false negative rate. `interpolated`: on the straight line between the two points around the crossing
// (brentq on the interpolated curve gives this). `nearest_point`: (FPR + FNR) / 2 at the first point where they differ least.
enum class EerRule { interpolated, nearest_point };
double equal_error_rate(const Roc& roc, EerRule rule = EerRule::interpolated);

// TPR at the last point whose FPR is at most `fpr`; no interpolation: a threshold exists that reaches it.
double tpr_at_fpr(const Roc& roc, double fpr);

// Sum over the distinct scores, falling, of (recall - recall before) * precision; no interpolation.
double average_precision(std::span<const double> scores, std::span<const char> positive);

}  // namespace mien
