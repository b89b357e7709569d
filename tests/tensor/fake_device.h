// A device on host memory, for the host logic of a GPU: as much memory as the test gives it, queues whose work is done when the test says so.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "mien/tensor/device_backend.h"

namespace mien::test {

class FakeDevice final : public DeviceBackend {
 public:
  explicit FakeDevice(std::int64_t memory = std::int64_t{1} << 30) : total_(memory) {}
  ~FakeDevice() override {
    for (const auto& [block, bytes] : blocks_) std::free(block);
  }

  int count(std::string&) override { return 1; }
  std::string unsupported(int) override { return {}; }
  DeviceInfo info(int) override { return {"fake", 9, 0, 4, total_}; }
  DeviceMemory memory(int) override { return {total_ - used_, total_}; }
  void use(int) override {}

  void* allocate(int, std::int64_t bytes) override {
    const std::lock_guard lock(mutex_);
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
  void* allocate_host(std::int64_t bytes) override { return std::malloc(static_cast<std::size_t>(bytes)); }
  void deallocate_host(void* block) noexcept override { std::free(block); }

  void* make_stream(int) override { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(++streams_)); }
  void drop_stream(int, void*) noexcept override {}
  void synchronize(int, void* stream) override { finish(stream); }
  void copy(int, void* to, const void* from, std::int64_t bytes, CopyKind, void*) override { std::memmove(to, from, static_cast<std::size_t>(bytes)); }

  void* record(int, void* stream) override {
    const std::lock_guard lock(mutex_);
    void* event = reinterpret_cast<void*>(static_cast<std::uintptr_t>(++events_));
    open_[event] = stream;
    return event;
  }
  bool passed(void* event) override {
    const std::lock_guard lock(mutex_);
    ++queries;
    if (impatient && queries > 1000) open_.clear();  // whoever waits in a loop gets what it waits for
    return !open_.count(event);
  }
  void wait(int, void*, void*) override {}
  void drop_event(void* event) noexcept override {
    const std::lock_guard lock(mutex_);
    open_.erase(event);
  }
  void begin_range(const char*) noexcept override {}
  void end_range() noexcept override {}
  void begin_capture(int, void*) override {}
  void* end_capture(int, void*) override { return nullptr; }
  void launch(int, void*, void*) override {}
  void drop_graph(void*) noexcept override {}

  // All work that `stream` has got so far is done.
  void finish(void* stream) {
    const std::lock_guard lock(mutex_);
    for (auto it = open_.begin(); it != open_.end();) it = it->second == stream ? open_.erase(it) : std::next(it);
  }
  std::int64_t used() const { return used_; }
  std::size_t open_events() const { return open_.size(); }
  int allocations = 0, queries = 0;
  bool impatient = false;

 private:
  std::mutex mutex_;
  const std::int64_t total_;
  std::int64_t used_ = 0;
  std::uint64_t streams_ = 0, events_ = 0;
  std::map<void*, std::int64_t> blocks_;
  std::map<void*, void*> open_;  // events that have not passed, and their queues
};

}  // namespace mien::test
