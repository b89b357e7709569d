#include "mien/data/prefetch.h"

#include <cstring>
#include <utility>

#include "mien/kernels/parallel.h"
#include "mien/tensor/device_allocator.h"

namespace mien {

class DevicePrefetcher::Ahead {
 public:
  Ahead(Loader& loader, Device device)
      : loader_(loader), device_(device), backend_(*device_backend()), queue_(backend_.make_stream(device.index())), pinned_(make_pinned_allocator(backend_)) {}
  ~Ahead() {
    stop();
    backend_.drop_stream(device_.index(), queue_);
  }
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;

  void start() {
    thread_ = std::thread([this] { work(); });
  }
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
    if (ready_ && ready_->copied) backend_.drop_event(ready_->copied);
    ready_.reset();
    error_ = nullptr;
    stopping_ = ended_ = false;
  }

  std::optional<StagedBatch> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_ || error_ || ended_; });
    if (!ready_) {
      if (error_) std::rethrow_exception(error_);
      return std::nullopt;
    }
    Ready taken = std::move(*ready_);
    ready_.reset();
    lock.unlock();
    changed_.notify_all();
    if (taken.copied) {
      void* user = current_stream(device_).handle;
      backend_.wait(device_.index(), user, taken.copied);
      backend_.drop_event(taken.copied);
      // The blocks belong to the copies' queue: freed, they wait for what the user's queue does with them.
      for (const auto& t : taken.batch.there)
        if (t.numel() > 0) device_allocator(device_)->record_stream(t.raw_data(), user);
    }
    return std::move(taken.batch);
  }

 private:
  struct Ready {
    StagedBatch batch;
    void* copied = nullptr;  // passed when the batch is on the device
  };
  // Pinned blocks that copies in the queue still read: they go back when those are done.
  class Pins {
   public:
    explicit Pins(Ahead& a) : ahead_(a) {}
    ~Pins() {
      if (blocks_.empty()) return;
      try {
        ahead_.backend_.synchronize(ahead_.device_.index(), ahead_.queue_);
      } catch (...) {  // the device is lost: no copy reads any more. Whoever uses it next is told
      }
      for (const auto& [block, bytes] : blocks_) ahead_.pinned_->deallocate(block, bytes);
    }
    Pins(const Pins&) = delete;
    Pins& operator=(const Pins&) = delete;
    void* take(std::int64_t bytes) {
      blocks_.reserve(blocks_.size() + 1);
      void* block = ahead_.pinned_->allocate(bytes);
      blocks_.emplace_back(block, bytes);
      return block;
    }

   private:
    Ahead& ahead_;
    std::vector<std::pair<void*, std::int64_t>> blocks_;
  };

  void work() {
    const SerialGuard guard;  // a loader without workers makes its batches here; the training beside it has the CPUs
    try {
      make_current(device_);
      while (true) {
        auto batch = loader_.next();
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !ready_; });
        ended_ = !batch;
        if (stopping_ || ended_) break;
        lock.unlock();
        Pins pins(*this);
        Ready made = bring(std::move(*batch), pins);
        lock.lock();
        ready_ = std::move(made);
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    changed_.notify_all();
  }

  Ready bring(Batch batch, Pins& pins) {
    Ready r{{std::move(batch), {}}, nullptr};
    const StreamGuard own({device_, queue_});
    try {
      for (const auto& t : r.batch.host) {
        if (!t.is_contiguous() && !t.is_channels_last()) {
          r.batch.there.clear();
          return r;
        }
        const Tensor there = Tensor::empty(t.shape(), t.dtype(), t.is_contiguous() ? Layout::contiguous : Layout::channels_last, device_);
        r.batch.there.push_back(there);
        const std::int64_t bytes = t.numel() * item_size(t.dtype());
        if (bytes == 0) continue;
        void* pinned = pins.take(bytes);
        std::memcpy(pinned, t.raw_data(), static_cast<std::size_t>(bytes));
        backend_.copy(device_.index(), there.raw_data(), pinned, bytes, CopyKind::to_device, queue_);
      }
    } catch (const OutOfMemory&) {
      r.batch.there.clear();
      return r;
    }
    r.copied = backend_.record(device_.index(), queue_);
    return r;
  }

  Loader& loader_;
  const Device device_;
  DeviceBackend& backend_;
  void* queue_;
  std::shared_ptr<Allocator> pinned_;
  std::optional<Ready> ready_;
  std::exception_ptr error_;
  bool stopping_ = false, ended_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
};

DevicePrefetcher::DevicePrefetcher(Loader& loader, Device device) : loader_(loader), ahead_(device.is_cpu() ? nullptr : std::make_unique<Ahead>(loader, device)) {}
DevicePrefetcher::~DevicePrefetcher() = default;

void DevicePrefetcher::start(std::uint64_t epoch, std::int64_t first) {
  if (ahead_) ahead_->stop();
  loader_.start(epoch, first);
  if (ahead_) ahead_->start();
}

std::optional<StagedBatch> DevicePrefetcher::next() {
  if (ahead_) return ahead_->next();
  auto batch = loader_.next();
  if (!batch) return std::nullopt;
  return StagedBatch{*batch, *batch};
}

}  // namespace mien
