// Are two pictures of one person? Accuracy by the protocol of LFW, and the choice of a threshold for use.
//
//   const auto d = squared_distances(rows, 128, pairs);
//   const FoldAccuracy result = fold_accuracy(d, same, fold);
//   std::printf("%.4f +- %.4f\n", result.mean, result.deviation);
//
// Distances are squared L2 distances of normalised embeddings, 0..4; `distance < threshold` says "same". A distance of NaN stands for a pair with a
// picture without a face: a wrong answer whatever the threshold. `same`: nonzero = one person.
// Source: G. Huang et al., "Labeled Faces in the Wild", UMass 07-49 (2007), view 2; thresholds as in David Sandberg's facenet.
// Everything throws ValueError for arguments of different length. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mien {

// Rows of [N, width], row-major; each is normalised to length 1 in double. A pair with a row that holds a NaN (no face), or zeros only, gets NaN.
std::vector<double> squared_distances(std::span<const float> rows, std::int64_t width, std::span<const std::array<std::int64_t, 2>> pairs);

// 0, .01, ..., 3.99, each k * .01 (numpy's arange(0, 4, .01)).
std::vector<double> lfw_thresholds();
// The first of the thresholds with the most right answers.
double best_threshold(std::span<const double> distances, std::span<const char> same, std::span<const double> thresholds);
// The largest threshold at which at most a share `far` of the different pairs is taken for the same person (pairs with NaN left out):
// the distance of the first one that must not be. Infinity when every one may be.
double threshold_at_far(std::span<const double> distances, std::span<const char> same, double far);

struct FoldOptions {
  std::vector<int> folds;  // the folds that are judged, from 0; empty: all
  // 0: the threshold of a fold comes from all other folds of the file. K: the judged folds alone are dealt into K parts (pair i of the file goes to part
  // i % K), and the threshold of a part comes from the other parts. For nets trained on the people of the other folds: their distances are too small.
  int inner = 0;
};
struct FoldAccuracy {
  std::vector<double> accuracy, threshold;  // of each judged fold, or part
  std::vector<int> part;                    // of each pair: index into the two above, -1 where it was not judged
  // Deviation over the folds with divisor n (as numpy.std), and deviation / sqrt(n), which papers on LFW print.
  double mean = 0, deviation = 0, standard_error = 0;
};
// `fold`: of each pair, from 0. ValueError when a judged fold has no pair or nothing is left to choose its threshold from.
FoldAccuracy fold_accuracy(std::span<const double> distances, std::span<const char> same, std::span<const int> fold, const FoldOptions& options = {});

// A share with its 95 % interval by E. Wilson's score method (JASA 22, 1927), which stays within 0..1 and holds for small counts.
struct Rate {
  std::int64_t hits = 0, total = 0;
  double value = 0, low = 0, high = 1;
};
Rate wilson_rate(std::int64_t hits, std::int64_t total);

// A threshold for use, chosen on all pairs (pairs with NaN left out), and what it does on the same pairs.
struct Calibration {
  double threshold = 0;
  // The middle 95 % of the thresholds chosen on 1,000 resamples of the pairs (B. Efron's bootstrap; same and different pairs drawn apart, Philox
  // numbers of `seed`).
  double threshold_low = 0, threshold_high = 0;
  Rate accuracy, true_accept, false_accept;
};
Calibration calibrate_accuracy(std::span<const double> distances, std::span<const char> same, std::uint64_t seed = 0);
Calibration calibrate_far(std::span<const double> distances, std::span<const char> same, double far, std::uint64_t seed = 0);

}  // namespace mien
