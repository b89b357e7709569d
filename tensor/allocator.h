// Memory for tensors. Blocks are 64-byte aligned. All allocators are thread-safe.
#pragma once

#include <cstdint>
#include <memory>

#include "mien/tensor/device.h"

namespace mien {

struct AllocatorStats {
  std::int64_t live = 0;         // bytes handed out
  std::int64_t peak = 0;         // largest `live` so far
  std::int64_t cached = 0;       // bytes kept for reuse
  std::int64_t allocations = 0;  // calls of allocate()
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // At least `bytes` bytes, aligned to 64; never null. Throws OutOfMemory with wanted, live and limit.
  virtual void* allocate(std::int64_t bytes) = 0;
  virtual void deallocate(void* block, std::int64_t bytes) noexcept = 0;
  virtual AllocatorStats stats() const = 0;
  virtual void release_cached() noexcept {}
};

// Keeps freed memory for reuse: small blocks in size classes (powers of two with four steps between), blocks of 1 MiB and more cut out of regions of 64 MiB
// or more, which ask for huge pages. Hands out at most `limit` bytes at a time (0 = no limit). Up to `cache_limit` bytes are kept; by default 256 MiB of
// small blocks and all regions: a training step finds the memory of the step before. A region that is needed anew replaces those that nothing uses.
inline constexpr std::int64_t cache_within_peak = -1;
std::shared_ptr<Allocator> make_caching_allocator(std::int64_t cache_limit = cache_within_peak, std::int64_t limit = 0);
// Each block ends at a guard page and is filled with NaN bytes: an over-read is a SIGSEGV, a value never written is seen. Slow; for tests.
std::shared_ptr<Allocator> make_debug_allocator();
// Passes on to `inner`, but the k-th allocation (counted from 0) and, if `for_ever`, all after it, throw OutOfMemory. For tests.
std::shared_ptr<Allocator> make_failing_allocator(std::shared_ptr<Allocator> inner, std::int64_t k, bool for_ever = false);

// The allocator of new tensors. One for the process; set it before tensors are made by other threads.
std::shared_ptr<Allocator> cpu_allocator();
// Returns the one before. Blocks remember the allocator they came from.
std::shared_ptr<Allocator> set_cpu_allocator(std::shared_ptr<Allocator> allocator);

// The allocator of a device's memory (device_allocator.h), or cpu_allocator().
std::shared_ptr<Allocator> allocator_of(Device device);
// Copies bytes within a device or between it and the CPU, in the order of the calling thread's queue. Host memory may be reused, or holds the bytes, on return.
void copy_memory(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes);

}  // namespace mien
