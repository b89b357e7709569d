// A device on host memory, for the host logic of a GPU: as much memory as the test gives it, queues whose work is done when the test says so, and a moment at which
// it is lost.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "mien/tensor/device_backend.h"

namespace mien::test {

class FakeDevice final : public DeviceBackend {
 public:
  explicit FakeDevice(std::int64_t memory = std::int64_t{1} << 30) : total_(memory) {}
  ~FakeDevice() override {
    for (const auto& [block, bytes] : blocks_) std::free(block);
  }

  int count(std::string& why) override {
    why = why_none;
    return why_none.empty() ? devices : 0;
  }
  std::string unsupported(int) override {
    if (!why_busy.empty()) throw DeviceError("device", why_busy);
    return {};
  }
  DeviceInfo info(int) override { return {"fake", 9, 0, 4, total_}; }
  DeviceMemory memory(int) override {
    const auto lock = call("memory");
    return {total_ - used_, total_};
  }
  void use(int) override {}

  void* allocate(int, std::int64_t bytes) override {
    const auto lock = call("allocate");
    ++allocations;
    if (used_ + bytes > total_) return nullptr;
    void* block = nullptr;
    if (posix_memalign(&block, 512, static_cast<std::size_t>(bytes)) != 0) return nullptr;
    used_ += bytes;
    blocks_[block] = bytes;
    return block;
  }
  void deallocate(int, void* block) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto it = blocks_.find(block);
    if (it == blocks_.end()) std::abort();  // freed twice, or never made here
    std::memset(block, 0xdd, static_cast<std::size_t>(it->second));
    used_ -= it->second;
    blocks_.erase(it);
    std::free(block);
  }
  void* allocate_host(std::int64_t bytes) override {
    const auto lock = call("allocate_host");
    return std::malloc(static_cast<std::size_t>(bytes));
  }
  void deallocate_host(void* block) noexcept override { std::free(block); }

  void* make_stream(int) override {
    const auto lock = call("make_stream");
    return reinterpret_cast<void*>(static_cast<std::uintptr_t>(++streams_));
  }
  void drop_stream(int, void*) noexcept override {}
  void synchronize(int, void* stream) override {
    const auto lock = call("synchronize " + number(stream));
    run(stream);
  }
  void copy(int, void* to, const void* from, std::int64_t bytes, CopyKind kind, void* stream) override {
    const auto lock = call(std::string(kind == CopyKind::to_device ? "to_device " : kind == CopyKind::to_host ? "to_host " : "on_device ") + number(stream));
    queues_[stream].push_back({to, from, bytes, nullptr, nullptr});
    if (!deferred) run(stream);
  }

  void* record(int, void* stream) override {
    const auto lock = call("record " + number(stream));
    void* event = reinterpret_cast<void*>(static_cast<std::uintptr_t>(++events_));
    open_[event] = stream;
    queues_[stream].push_back({nullptr, nullptr, 0, event, nullptr});
    return event;
  }
  bool passed(void* event) override {
    const auto lock = call("passed");
    ++queries;
    if (impatient && queries > 1000) open_.clear();  // whoever waits in a loop gets what it waits for
    return !open_.count(event);
  }
  void wait(int, void* stream, void* event) override {
    const auto lock = call("wait " + number(stream));
    if (open_.count(event)) queues_[stream].push_back({nullptr, nullptr, 0, nullptr, event});
  }
  // The mark stays in its queue, as CUDA's does, and whoever waits for it still does.
  void drop_event(void* event) noexcept override {
    const std::lock_guard lock(mutex_);
    if (!deferred) open_.erase(event);
  }
  void begin_range(const char*) noexcept override {}
  void end_range() noexcept override {}
  void begin_capture(int, void*) override { call("begin_capture"); }
  void* end_capture(int, void*) override {
    call("end_capture");
    return nullptr;
  }
  void launch(int, void*, void*) override { call("launch"); }
  void drop_graph(void*) noexcept override {}

  // All work that `stream` has got so far is done.
  void finish(void* stream) {
    const std::lock_guard lock(mutex_);
    run(stream);
  }
  std::int64_t used() const { return used_; }
  std::size_t open_events() const { return open_.size(); }
  std::vector<std::string> calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

  std::string why_none;       // not empty: this machine has no device
  std::string why_busy;       // not empty: nothing can run on it now
  int devices = 1;            // with one memory
  int allocations = 0, queries = 0;
  bool impatient = false;
  bool deferred = false;      // copies are done when their queue is waited for, no earlier
  std::atomic<std::int64_t> lost_at = -1;  // from this call on the device is lost
  std::int64_t calls_after_loss = 0;

 private:
  struct Work {  // a copy, a mark, or waiting for a mark
    void* to;
    const void* from;
    std::int64_t bytes;
    void *mark, *wait;
  };
  static std::string number(void* handle) { return std::to_string(reinterpret_cast<std::uintptr_t>(handle)); }
  std::unique_lock<std::mutex> call(std::string what) {
    std::unique_lock lock(mutex_);
    if (lost_at >= 0 && static_cast<std::int64_t>(calls_.size()) >= lost_at) {
      ++calls_after_loss;
      throw DeviceLost("fake", "the device is lost to this process", "Start the program anew.");
    }
    calls_.push_back(std::move(what));
    return lock;
  }
  void run(void* stream) {
    auto& queue = queues_[stream];
    while (!queue.empty()) {
      const Work w = queue.front();
      queue.pop_front();
      if (w.bytes > 0) std::memmove(w.to, w.from, static_cast<std::size_t>(w.bytes));
      if (w.mark) open_.erase(w.mark);
      if (const auto other = w.wait ? open_.find(w.wait) : open_.end(); other != open_.end()) run(other->second);
    }
  }

  mutable std::mutex mutex_;
  const std::int64_t total_;
  std::int64_t used_ = 0;
  std::uint64_t streams_ = 0, events_ = 0;
  std::map<void*, std::int64_t> blocks_;
  std::map<void*, void*> open_;  // events that have not passed, and their queues
  std::map<void*, std::deque<Work>> queues_;
  std::vector<std::string> calls_;
};

// The device of the tensor functions, while it lives.
struct Installed {
  explicit Installed(FakeDevice& device) : before(set_device_backend(&device)) {}
  ~Installed() { set_device_backend(before); }
  DeviceBackend* before;
};

}  // namespace mien::test
