#include "mien/data/loader.h"

#include <numeric>

#include "mien/kernels/parallel.h"
#include "mien/tensor/generator.h"

namespace mien {

void shuffle(std::span<std::int64_t> rows, std::uint64_t seed, std::uint64_t stream) {
  for (std::size_t i = rows.size(); i-- > 1;) {
    const std::int64_t j = philox_integer(seed, stream, i, static_cast<std::int64_t>(i) + 1);
    std::swap(rows[i], rows[static_cast<std::size_t>(j)]);
  }
}

std::vector<std::int64_t> permutation(std::int64_t n, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  // Streams of shuffles lie apart from those of random ops, which count up from 0.
  shuffle(order, seed, (std::uint64_t{1} << 48) + epoch);
  return order;
}

Loader::Loader(LoaderOptions options, Make make) : options_(options), make_(std::move(make)) {
  if (options_.batch < 1 || options_.size < 1 || (options_.drop_last && options_.size < options_.batch))
    throw ValueError("loader", "no batch can be made of " + std::to_string(options_.size) + " samples with a batch size of " + std::to_string(options_.batch),
                     "Use a smaller batch, or drop_last = false.");
  if (options_.workers < 0 || options_.ahead < 1)  // nobody would ever make the batch that next() waits for
    throw ValueError("loader", "expects workers >= 0 and ahead >= 1, got " + std::to_string(options_.workers) + " and " + std::to_string(options_.ahead));
}

Loader::~Loader() { stop(); }

std::int64_t Loader::batches() const noexcept {
  return options_.drop_last ? options_.size / options_.batch : (options_.size + options_.batch - 1) / options_.batch;
}

void Loader::start(std::uint64_t epoch, std::int64_t first) {
  stop();
  epoch_ = epoch;
  if (options_.sampler) {
    next_ = batches();  // nothing is left of the epoch before if the sampler throws
    auto order = options_.sampler(options_.seed, epoch);
    if (static_cast<std::int64_t>(order.size()) != options_.size)
      throw ValueError("loader", "expects " + std::to_string(options_.size) + " rows of the sampler, got " + std::to_string(order.size()) + " for epoch " + std::to_string(epoch),
                       "Set size to the number of rows the sampler gives.");
    order_ = std::move(order);
  } else if (options_.shuffle) {
    order_ = permutation(options_.size, options_.seed, epoch);
  } else {
    order_.resize(static_cast<std::size_t>(options_.size));
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
  }
  next_ = claimed_ = first;
  stopping_ = false;
  for (int i = 0; i < options_.workers; ++i) threads_.emplace_back([this] { work(); });
}

Batch Loader::build(std::int64_t index) const {
  const std::int64_t begin = index * options_.batch, end = std::min(begin + options_.batch, options_.size);
  return make_(std::span(order_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), epoch_);
}

std::optional<Batch> Loader::next() {
  if (next_ >= batches()) return std::nullopt;
  if (options_.workers == 0) return build(next_++);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_.contains(next_) || failed_.contains(next_); });
  if (const auto f = failed_.find(next_); f != failed_.end()) {
    const std::exception_ptr error = f->second;
    lock.unlock();
    stop();
    std::rethrow_exception(error);
  }
  auto node = ready_.extract(next_++);
  changed_.notify_all();
  return std::move(node.mapped());
}

void Loader::work() {
  const SerialGuard guard;  // the training beside it has the CPUs
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || claimed_ >= batches() || claimed_ < next_ + options_.ahead; });
    if (stopping_ || claimed_ >= batches()) return;
    const std::int64_t index = claimed_++;
    lock.unlock();
    Batch batch;
    std::exception_ptr error;
    try {
      batch = build(index);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) {
      failed_[index] = error;
    } else {
      ready_[index] = std::move(batch);
    }
    changed_.notify_all();
  }
}

void Loader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& t : threads_) t.join();
  threads_.clear();
  ready_.clear();
  failed_.clear();
}

}  // namespace mien
