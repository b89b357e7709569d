// Fold accuracy and thresholds; the expected values of the folds were computed with numpy.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "catch.h"
#include "mien/metrics/verification.h"
#include "mien/tensor/error.h"

namespace mien::test {
namespace {

using Doubles = std::vector<double>;

// Five folds of 24 pairs, two of them without a face.
struct Sample {
  Doubles distances;
  std::vector<char> same;
  std::vector<int> fold;
};
Sample sample() {
  Sample s;
  for (int i = 0; i < 120; ++i) {
    s.same.push_back(i % 12 < 6);
    s.distances.push_back((i * 29 + 3) % 83 * .03 + (i % 12 < 6 ? 0 : .9));
    s.fold.push_back(i / 12 / 2);
  }
  s.distances[17] = s.distances[40] = NAN;
  return s;
}

}  // namespace

TEST_CASE("fold accuracy: all folds, one fold, inner parts") {
  const Sample s = sample();
  const FoldAccuracy all = fold_accuracy(s.distances, s.same, s.fold);
  CHECK(all.accuracy == Doubles{0.625, 0.6666666666666666, 0.7083333333333334, 0.7083333333333334, 0.5833333333333334});
  CHECK(all.threshold == Doubles{1.35, 2.05, 1.35, 2.05, 1.09});
  CHECK(all.mean == .6583333333333334);
  CHECK(all.deviation == .04859126579037751);
  CHECK(all.standard_error == all.deviation / std::sqrt(5.0));
  CHECK(all.part == s.fold);
  const FoldAccuracy last = fold_accuracy(s.distances, s.same, s.fold, {.folds = {4}});
  CHECK(last.accuracy == Doubles{0.5833333333333334});
  CHECK(last.threshold == Doubles{1.09});
  CHECK(last.deviation == 0);
  CHECK(std::count(last.part.begin(), last.part.end(), -1) == 96);
  const FoldAccuracy inner = fold_accuracy(s.distances, s.same, s.fold, {.folds = {3, 4}, .inner = 4});
  CHECK(inner.accuracy == Doubles{0.5833333333333334, 0.5, 0.6666666666666666, 0.5});
  CHECK(inner.threshold == Doubles{1.35, 69 * .01, 2.43, 1.48});
  CHECK(inner.mean == .5625);
  CHECK(inner.deviation == .06909634979907082);
}

TEST_CASE("a pair without a face is wrong whatever the threshold") {
  const std::vector<char> same{1, 0, 1, 0};
  const std::vector<int> fold{0, 0, 1, 1};
  CHECK(fold_accuracy(Doubles{.1, 3, .1, 3}, same, fold).mean == 1);
  CHECK(fold_accuracy(Doubles{NAN, NAN, .1, 3}, same, fold).accuracy == Doubles{0, .5});  // nothing to learn from the first: threshold 0
}

TEST_CASE("thresholds: the first of the best, strictly below") {
  CHECK(lfw_thresholds().size() == 400);
  CHECK(lfw_thresholds()[69] == 0.6900000000000001);
  const std::vector<char> same{1, 1, 0};
  CHECK(best_threshold(Doubles{.5, .25, .75}, same, lfw_thresholds()) == .51);  // .5 < .5 does not hold
  CHECK(best_threshold({}, {}, lfw_thresholds()) == 0);
  const std::vector<char> different(10, 0);
  Doubles d(10);
  std::iota(d.begin(), d.end(), 1.0);
  CHECK(threshold_at_far(d, different, 0) == 1);
  CHECK(threshold_at_far(d, different, .09) == 1);
  CHECK(threshold_at_far(d, different, .1) == 2);
  CHECK(threshold_at_far(d, different, .3) == 4);
  CHECK(threshold_at_far(d, different, 1) == std::numeric_limits<double>::infinity());
}

TEST_CASE("distances are those of normalised rows; a row without a face gives NaN") {
  const std::vector<float> rows{3, 0, 0, .5f, -2, 0, NAN, NAN, 0, 0};
  const std::array<std::int64_t, 2> pairs[] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {4, 0}};
  const auto d = squared_distances(rows, 2, pairs);
  CHECK(d[0] == 0);
  CHECK(d[1] == 2);
  CHECK(d[2] == 4);
  CHECK(std::isnan(d[3]));
  CHECK(std::isnan(d[4]));
}

TEST_CASE("Wilson intervals") {
  const Rate half = wilson_rate(50, 100);  // .404, .596: the usual textbook pair
  CHECK(half.value == .5);
  CHECK(half.low == Approx(.403832).epsilon(1e-5));
  CHECK(half.high == Approx(.596168).epsilon(1e-5));
  CHECK(wilson_rate(0, 100).low == 0);
  CHECK(wilson_rate(0, 100).high == Approx(.036995).epsilon(1e-4));
  CHECK(wilson_rate(100, 100).high == 1);
  CHECK(wilson_rate(0, 0).high == 1);
}

TEST_CASE("calibration states what its threshold does, the same for each run") {
  const Sample s = sample();
  const Calibration best = calibrate_accuracy(s.distances, s.same, 7), again = calibrate_accuracy(s.distances, s.same, 7);
  CHECK(best.threshold == best_threshold(s.distances, s.same, lfw_thresholds()));
  CHECK(best.threshold_low <= best.threshold);
  CHECK(best.threshold <= best.threshold_high);
  CHECK(best.threshold_low == again.threshold_low);
  CHECK(best.threshold_high == again.threshold_high);
  CHECK(best.accuracy.total == 118);
  CHECK(best.accuracy.hits == best.true_accept.hits + best.false_accept.total - best.false_accept.hits);
  const Calibration strict = calibrate_far(s.distances, s.same, .05);
  CHECK(strict.threshold == threshold_at_far(s.distances, s.same, .05));
  CHECK(strict.false_accept.hits == 3);
  CHECK(strict.false_accept.value <= .05);
  CHECK(strict.true_accept.value < best.true_accept.value);
}

TEST_CASE("verification refuses what can't be judged") {
  const Doubles d{1, 2};
  const std::vector<char> same{1, 0};
  const std::vector<int> fold{0, 0};
  CHECK(message_of<ValueError>([&] { fold_accuracy(d, same, fold); }) ==
        "fold_accuracy: no pair is left to choose the threshold of fold 1 of 1 from. Judge with FoldOptions::inner parts.");
  CHECK(message_of<ValueError>([&] { fold_accuracy(d, same, fold, {.folds = {3}}); }) == "fold_accuracy: fold 1 of 1 has no pair");
  CHECK(message_of<ValueError>([&] { fold_accuracy(d, same, std::vector<int>{0}); }) == "fold_accuracy: expects a fold for each pair, got 1 for 2");
  CHECK(message_of<ValueError>([&] { fold_accuracy({}, {}, {}); }) == "fold_accuracy: there is no pair");
  CHECK(message_of<ValueError>([&] { best_threshold(d, std::vector<char>{1}, lfw_thresholds()); }) == "best_threshold: expects a label for each distance, got 2 distances and 1 labels");
  CHECK(message_of<ValueError>([&] { calibrate_far(d, std::vector<char>{1, 1}, .1); }) == "calibrate_far: needs at least one same and one different pair with faces, got 2 and 0");
  CHECK(message_of<ValueError>([&] { threshold_at_far(d, same, 2); }).starts_with("threshold_at_far: expects a rate of 0..1"));
  const std::array<std::int64_t, 2> pair[] = {{0, 5}};
  CHECK(message_of<ValueError>([&] { squared_distances(std::vector<float>{1, 2, 3}, 2, {}); }) == "squared_distances: expects rows of 2 numbers, got 3 numbers");
  CHECK(message_of<ValueError>([&] { squared_distances(std::vector<float>{1, 2}, 2, pair); }) == "squared_distances: a pair names the rows 0 and 5, there are 1");
}

}  // namespace mien::test
