// Orders of a data set in which every batch holds P people with K pictures each: what triplet losses need.
//
//   const PkSampler sampler(labels, {.people = 15, .pictures = 6});
//   Loader loader({.size = sampler.size(), .batch = sampler.batch(), .seed = 1, .workers = 2, .sampler = sampler}, make);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace mien {

struct PkOptions {
  std::int64_t people = 0, pictures = 0;  // P and K
  std::int64_t batches = 0;               // per epoch; 0: qualifying people / P, so that each comes at most once an epoch
  bool singles = false;                   // take people with one picture too (it is then repeated K times)
};

// A value: copying is cheap, the rows are shared. Thread-safe after construction.
class PkSampler {
 public:
  // labels[i] is the person of row i; any numbers. ValueError names the counts when fewer than P people qualify or K < 2 or P < 1.
  PkSampler(std::span<const std::int64_t> labels, const PkOptions& options);

  // The rows of an epoch, a function of (seed, epoch) alone: batches of P * K rows, the K of one person side by side, no person twice in a batch. People
  // come in a shuffled order, when all have had their turn (fewer than P are left) in another one. Each person gives K different pictures; one with fewer
  // than K gives all of them, then again from the first.
  std::vector<std::int64_t> operator()(std::uint64_t seed, std::uint64_t epoch) const;

  std::int64_t batch() const noexcept { return options_.people * options_.pictures; }
  std::int64_t batches() const noexcept { return options_.batches; }
  std::int64_t size() const noexcept { return batch() * batches(); }                                        // rows of an epoch
  std::int64_t people() const noexcept { return static_cast<std::int64_t>(rows_->size()); }                 // that qualify

 private:
  PkOptions options_;
  std::shared_ptr<const std::vector<std::vector<std::int64_t>>> rows_;  // of each qualifying person, by rising label
};

}  // namespace mien
