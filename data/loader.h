// Batches in a seeded order, made ahead by worker threads. Order and bits depend on (seed, epoch) alone: not on the number of workers.
//
//   Loader loader({.size = n, .batch = 256, .seed = 1, .workers = 2}, [&](std::span<const std::int64_t> rows, std::uint64_t epoch) {
//     return Batch{select(images, rows), select(labels, rows)};      // called in worker threads: must not touch shared mutable state
//   });
//   loader.start(epoch, first_batch);
//   while (auto batch = loader.next()) train(*batch);
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

using Batch = std::vector<Tensor>;

// In place, Fisher-Yates on Philox integers of (seed, stream).
void shuffle(std::span<std::int64_t> rows, std::uint64_t seed, std::uint64_t stream);
// 0..n-1 shuffled by (seed, epoch).
std::vector<std::int64_t> permutation(std::int64_t n, std::uint64_t seed, std::uint64_t epoch);

struct LoaderOptions {
  std::int64_t size = 0, batch = 1;
  std::uint64_t seed = 0;
  int workers = 0;         // 0: made in next() by the caller
  bool shuffle = true;
  bool drop_last = true;   // a last batch that is not full is left out
  int ahead = 4;           // batches kept ready
  // The order of an epoch instead of `shuffle`, from (seed, epoch) alone so that a run can be resumed: `size` rows (ValueError otherwise), which may repeat,
  // leave rows out, and lie anywhere in the data set. See data/sampler.h.
  std::function<std::vector<std::int64_t>(std::uint64_t seed, std::uint64_t epoch)> sampler = {};
};

class Loader {
 public:
  using Make = std::function<Batch(std::span<const std::int64_t> rows, std::uint64_t epoch)>;
  Loader(LoaderOptions options, Make make);  // ValueError for sizes that give no batch
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  std::int64_t batches() const noexcept;  // per epoch
  // Begins an epoch at batch `first` (for resuming). Stops the one before.
  void start(std::uint64_t epoch, std::int64_t first = 0);
  // The next batch in order; empty at the end of the epoch. An exception of `make` comes out here.
  std::optional<Batch> next();

 private:
  Batch build(std::int64_t index) const;
  void work();
  void stop();

  const LoaderOptions options_;
  const Make make_;
  std::vector<std::int64_t> order_;
  std::uint64_t epoch_ = 0;
  std::int64_t next_ = 0;     // the batch that next() returns
  std::int64_t claimed_ = 0;  // the next batch that a worker takes
  bool stopping_ = false;
  std::map<std::int64_t, Batch> ready_;
  std::map<std::int64_t, std::exception_ptr> failed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
};

}  // namespace mien
