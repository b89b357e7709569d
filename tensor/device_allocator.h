// Memory of a device, kept for reuse: asking a GPU for memory takes a thousand times longer than a kernel, and giving it back waits for the whole device.
//
// Blocks are cut from segments that belong to the queue (stream) they were made for. Work in one queue is ordered, so a block that was freed serves the next one
// there at once, although the kernel that reads it may still run. A block that another queue used too (record_stream) waits for what that queue had then.
// As PyTorch's CUDACachingAllocator, in small.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "mien/tensor/allocator.h"
#include "mien/tensor/device_backend.h"

namespace mien {

struct DeviceStats {
  std::int64_t reserved = 0;       // bytes taken from the device
  std::int64_t segments = 0;       // in how many pieces
  std::int64_t live = 0;           // bytes handed out
  std::int64_t peak = 0;           // the most that were handed out at once
  std::int64_t largest_free = 0;   // the largest piece kept for reuse
  double fragmentation = 0;        // 1 - largest_free / all that is kept; 0 when nothing is
  std::int64_t allocations = 0;
  std::int64_t retries = 0;        // the device had none left: unused segments went back, and it was asked once more
  std::int64_t out_of_memory = 0;  // even so
};

// Thread-safe. 256-byte aligned blocks.
class DeviceAllocator : public Allocator {
 public:
  // For the calling thread's queue. OutOfMemory says wanted, free, live, cached, peak and limit, in MiB. DeviceLost from when the device was found to be lost on.
  void* allocate(std::int64_t bytes) override = 0;
  virtual void* allocate_on(std::int64_t bytes, void* stream) = 0;
  // `block` is also read or written by work that is now in `stream`: freed, it waits for that.
  virtual void record_stream(void* block, void* stream) = 0;
  virtual DeviceStats device_stats() const = 0;
  // About the largest block that could be had now.
  virtual std::int64_t largest_available() const = 0;
  virtual std::string report() const = 0;
};

// `stream`: the calling thread's queue. `limit`: bytes taken from the device at most, 0 for none.
std::shared_ptr<DeviceAllocator> make_device_allocator(DeviceBackend& backend, int device, std::function<void*()> stream, std::int64_t limit = 0);
// Host memory for asynchronous copies, in powers of two; up to 256 MiB are kept.
std::shared_ptr<Allocator> make_pinned_allocator(DeviceBackend& backend);
// "8GiB", "512MiB", "1000000" (bytes); ValueError for anything else. What $MIEN_CUDA_MEMORY_LIMIT is read with.
std::int64_t parse_bytes(const std::string& text);

// The allocator of a device (device.cpp).
std::shared_ptr<DeviceAllocator> device_allocator(Device device);

}  // namespace mien
