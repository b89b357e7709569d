#include "mien/metrics/verification.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "mien/metrics/sum_impl.h"
#include "mien/tensor/error.h"
#include "mien/tensor/generator.h"

namespace mien {
namespace {

void check_lengths(const char* op, std::size_t distances, std::size_t same) {
  if (distances != same) throw ValueError(op, "expects a label for each distance, got " + std::to_string(distances) + " distances and " + std::to_string(same) + " labels");
}

// The distances of pairs with faces, rising, by kind.
struct Sorted {
  std::vector<double> same, different;
};
Sorted sorted_by_kind(std::span<const double> distances, std::span<const char> same) {
  Sorted s;
  for (std::size_t i = 0; i < distances.size(); ++i)
    if (!std::isnan(distances[i])) (same[i] ? s.same : s.different).push_back(distances[i]);
  std::sort(s.same.begin(), s.same.end());
  std::sort(s.different.begin(), s.different.end());
  return s;
}
std::int64_t below(const std::vector<double>& sorted, double t) { return std::lower_bound(sorted.begin(), sorted.end(), t) - sorted.begin(); }
std::int64_t right_answers(const Sorted& s, double t) { return below(s.same, t) + static_cast<std::int64_t>(s.different.size()) - below(s.different, t); }

double best_of(const Sorted& s, std::span<const double> thresholds) {
  double best = thresholds[0];
  std::int64_t most = -1;
  for (const double t : thresholds)
    if (const auto right = right_answers(s, t); right > most) {
      most = right;
      best = t;
    }
  return best;
}

double at_far(const Sorted& s, double far) {
  // A share such as .001 of 3,000 must not become 2.9999.
  const auto allowed = static_cast<std::size_t>(std::floor(far * static_cast<double>(s.different.size()) * (1 + 1e-12)));
  return allowed < s.different.size() ? s.different[allowed] : std::numeric_limits<double>::infinity();
}
void check_far(const char* op, double far) {
  if (!(far >= 0 && far <= 1)) throw ValueError(op, "expects a rate of 0..1, got " + std::to_string(far));
}

std::vector<double> resample(const std::vector<double>& v, std::uint64_t seed, std::uint64_t stream) {
  std::vector<double> out(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) out[i] = v[static_cast<std::size_t>(philox_integer(seed, stream, i, static_cast<std::int64_t>(v.size())))];
  std::sort(out.begin(), out.end());
  return out;
}

Calibration calibrate(const char* op, std::span<const double> distances, std::span<const char> same, std::uint64_t seed, const std::function<double(const Sorted&)>& choose) {
  check_lengths(op, distances.size(), same.size());
  const Sorted s = sorted_by_kind(distances, same);
  if (s.same.empty() || s.different.empty())
    throw ValueError(op, "needs at least one same and one different pair with faces, got " + std::to_string(s.same.size()) + " and " + std::to_string(s.different.size()));
  constexpr std::uint64_t resamples = 1000;
  std::vector<double> chosen;
  for (std::uint64_t k = 0; k < resamples; ++k) chosen.push_back(choose({resample(s.same, seed, 2 * k), resample(s.different, seed, 2 * k + 1)}));
  std::sort(chosen.begin(), chosen.end());
  Calibration c;
  c.threshold = choose(s);
  c.threshold_low = chosen[resamples * 25 / 1000];
  c.threshold_high = chosen[resamples * 975 / 1000 - 1];
  const auto positives = static_cast<std::int64_t>(s.same.size()), negatives = static_cast<std::int64_t>(s.different.size());
  c.accuracy = wilson_rate(right_answers(s, c.threshold), positives + negatives);
  c.true_accept = wilson_rate(below(s.same, c.threshold), positives);
  c.false_accept = wilson_rate(below(s.different, c.threshold), negatives);
  return c;
}

// Of each pair: the fold or part that it is judged in (-1: none) and whether thresholds may be chosen on it.
struct Split {
  std::vector<int> part;
  std::vector<char> pool;
  int parts = 0;
};
Split split(std::span<const int> fold, const FoldOptions& o) {
  std::vector<int> asked = o.folds;
  if (asked.empty() && !fold.empty())
    for (int f = 0; f <= *std::max_element(fold.begin(), fold.end()); ++f) asked.push_back(f);
  Split s{std::vector<int>(fold.size(), -1), std::vector<char>(fold.size(), 1), o.inner > 0 ? o.inner : static_cast<int>(asked.size())};
  for (std::size_t i = 0; i < fold.size(); ++i) {
    const auto at = std::find(asked.begin(), asked.end(), fold[i]);
    if (at != asked.end()) s.part[i] = o.inner > 0 ? static_cast<int>(i % static_cast<std::size_t>(o.inner)) : static_cast<int>(at - asked.begin());
    else if (o.inner > 0) s.pool[i] = 0;
  }
  return s;
}

}  // namespace

std::vector<double> squared_distances(std::span<const float> rows, std::int64_t width, std::span<const std::array<std::int64_t, 2>> pairs) {
  if (width < 1 || rows.size() % static_cast<std::size_t>(width) != 0)
    throw ValueError("squared_distances", "expects rows of " + std::to_string(width) + " numbers, got " + std::to_string(rows.size()) + " numbers");
  const auto w = static_cast<std::size_t>(width), count = rows.size() / w;
  std::vector<double> unit(rows.begin(), rows.end()), squares(w);
  for (std::size_t r = 0; r < count; ++r) {
    const std::span<double> row(&unit[r * w], w);
    std::transform(row.begin(), row.end(), squares.begin(), [](double v) { return v * v; });
    const double length = std::sqrt(pairwise_sum(squares));
    for (double& v : row) v /= length;
  }
  std::vector<double> out;
  out.reserve(pairs.size());
  for (const auto& [a, b] : pairs) {
    if (std::min(a, b) < 0 || std::max(a, b) >= static_cast<std::int64_t>(count))
      throw ValueError("squared_distances", "a pair names the rows " + std::to_string(a) + " and " + std::to_string(b) + ", there are " + std::to_string(count));
    const double *p = &unit[static_cast<std::size_t>(a) * w], *q = &unit[static_cast<std::size_t>(b) * w];
    for (std::size_t k = 0; k < w; ++k) squares[k] = (p[k] - q[k]) * (p[k] - q[k]);
    out.push_back(pairwise_sum(squares));
  }
  return out;
}

std::vector<double> lfw_thresholds() {
  std::vector<double> grid(400);
  for (std::size_t k = 0; k < grid.size(); ++k) grid[k] = static_cast<double>(k) * .01;
  return grid;
}

double best_threshold(std::span<const double> distances, std::span<const char> same, std::span<const double> thresholds) {
  check_lengths("best_threshold", distances.size(), same.size());
  if (thresholds.empty()) throw ValueError("best_threshold", "expects at least one threshold, got none");
  return best_of(sorted_by_kind(distances, same), thresholds);
}

double threshold_at_far(std::span<const double> distances, std::span<const char> same, double far) {
  check_lengths("threshold_at_far", distances.size(), same.size());
  check_far("threshold_at_far", far);
  return at_far(sorted_by_kind(distances, same), far);
}

FoldAccuracy fold_accuracy(std::span<const double> distances, std::span<const char> same, std::span<const int> fold, const FoldOptions& options) {
  check_lengths("fold_accuracy", distances.size(), same.size());
  if (fold.size() != same.size()) throw ValueError("fold_accuracy", "expects a fold for each pair, got " + std::to_string(fold.size()) + " for " + std::to_string(same.size()));
  const Split s = split(fold, options);
  const auto grid = lfw_thresholds();
  FoldAccuracy out;
  out.part = s.part;
  for (int p = 0; p < s.parts; ++p) {
    std::vector<double> train_d;
    std::vector<char> train_same;
    double right = 0, judged = 0;
    for (std::size_t i = 0; i < fold.size(); ++i)
      if (s.part[i] != p && s.pool[i]) {
        train_d.push_back(distances[i]);
        train_same.push_back(same[i]);
      }
    if (train_d.empty())
      throw ValueError("fold_accuracy", "no pair is left to choose the threshold of fold " + std::to_string(p + 1) + " of " + std::to_string(s.parts) + " from", "Judge with FoldOptions::inner parts.");
    const double t = best_threshold(train_d, train_same, grid);
    for (std::size_t i = 0; i < fold.size(); ++i)
      if (s.part[i] == p) {
        judged += 1;
        right += !std::isnan(distances[i]) && (distances[i] < t) == (same[i] != 0) ? 1 : 0;
      }
    if (judged == 0) throw ValueError("fold_accuracy", "fold " + std::to_string(p + 1) + " of " + std::to_string(s.parts) + " has no pair");
    out.threshold.push_back(t);
    out.accuracy.push_back(right / judged);
  }
  if (s.parts == 0) throw ValueError("fold_accuracy", "there is no pair");
  const double n = static_cast<double>(s.parts);
  out.mean = pairwise_sum(out.accuracy) / n;
  std::vector<double> squares;
  for (const double a : out.accuracy) squares.push_back((a - out.mean) * (a - out.mean));
  out.deviation = std::sqrt(pairwise_sum(squares) / n);
  out.standard_error = out.deviation / std::sqrt(n);
  return out;
}

Rate wilson_rate(std::int64_t hits, std::int64_t total) {
  if (hits < 0 || hits > total) throw ValueError("wilson_rate", "expects 0 <= hits <= total, got " + std::to_string(hits) + " of " + std::to_string(total));
  if (total == 0) return {};
  constexpr double z = 1.959963984540054;  // 95 % of a normal distribution lie within
  const double n = static_cast<double>(total), p = static_cast<double>(hits) / n, scale = 1 + z * z / n;
  const double middle = (p + z * z / (2 * n)) / scale, half = z / scale * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {hits, total, p, hits == 0 ? 0 : middle - half, hits == total ? 1 : middle + half};
}

Calibration calibrate_accuracy(std::span<const double> distances, std::span<const char> same, std::uint64_t seed) {
  const auto grid = lfw_thresholds();
  return calibrate("calibrate_accuracy", distances, same, seed, [&](const Sorted& s) { return best_of(s, grid); });
}

Calibration calibrate_far(std::span<const double> distances, std::span<const char> same, double far, std::uint64_t seed) {
  check_far("calibrate_far", far);
  return calibrate("calibrate_far", distances, same, seed, [&](const Sorted& s) { return at_far(s, far); });
}

}  // namespace mien
