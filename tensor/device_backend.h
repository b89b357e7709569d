// What mien asks of a kind of device besides kernels: memory, queues, copies. kernels/cuda/backend.cpp answers with the CUDA run-time; tests answer with host
// memory. Thread-safe. Nothing is loaded and no driver is asked before the first call.
#pragma once

#include <cstdint>
#include <string>

#include "mien/tensor/device.h"

namespace mien {

// The device failed on the way (a kernel read outside its memory, the GPU fell off the bus) and is of no use to this process any more: every later call says the
// same. Nothing there can be read back; what is on disk is intact. Exit code 69.
class DeviceLost : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::int64_t memory = 0;  // bytes
};

struct DeviceMemory {
  std::int64_t free = 0, total = 0;  // bytes, of all processes
};

enum class CopyKind : std::uint8_t { to_device, to_host, on_device };

// Any call may throw DeviceLost; those that are noexcept do what can still be done.
class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  // Devices that can be used. 0: `why` says what is missing (driver, device, a newer driver).
  virtual int count(std::string& why) = 0;
  // Empty when the kernels of this build run on the device, else why not. DeviceError or OutOfMemory when nothing can run there now: another process holds the
  // device, its memory is full.
  virtual std::string unsupported(int device) = 0;
  virtual DeviceInfo info(int device) = 0;
  virtual DeviceMemory memory(int device) = 0;

  virtual void use(int device) = 0;  // what the calling thread launches next goes there

  // Null when there is no memory left; DeviceError for anything else. 256-byte aligned.
  virtual void* allocate(int device, std::int64_t bytes) = 0;
  virtual void deallocate(int device, void* block) noexcept = 0;
  // Host memory that copies may read and write while the caller goes on. Null when there is none.
  virtual void* allocate_host(std::int64_t bytes) = 0;
  virtual void deallocate_host(void* block) noexcept = 0;

  virtual void* make_stream(int device) = 0;
  virtual void drop_stream(int device, void* stream) noexcept = 0;
  virtual void synchronize(int device, void* stream) = 0;
  // Asynchronous for pinned host memory; pageable memory has been read when a copy to the device returns.
  virtual void copy(int device, void* to, const void* from, std::int64_t bytes, CopyKind kind, void* stream) = 0;

  // A mark in a queue: passed when all work before it is done.
  virtual void* record(int device, void* stream) = 0;
  virtual bool passed(void* event) = 0;
  virtual void wait(int device, void* stream, void* event) = 0;  // the queue waits, the caller does not
  virtual void drop_event(void* event) noexcept = 0;

  // Named stretches of host time that a profiler shows (nvtx).
  virtual void begin_range(const char* name) noexcept = 0;
  virtual void end_range() noexcept = 0;

  // A graph is what was put into the queue between begin and end; it runs whole, with one call.
  virtual void begin_capture(int device, void* stream) = 0;
  virtual void* end_capture(int device, void* stream) = 0;  // null when something in between could not be captured
  virtual void launch(int device, void* graph, void* stream) = 0;
  virtual void drop_graph(void* graph) noexcept = 0;
};

// What this thread puts into its queue on `later` from now on waits for what is in its queue on `earlier`; the caller does not. Nothing unless both are GPUs.
void order_after(Device later, Device earlier);

// While it lives, a profiler shows what this thread launches under `name` (nvtx). Nothing on the CPU.
class ProfileRange {
 public:
  ProfileRange(Device device, const char* name) noexcept;
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  bool open_;
};

// The one in use: CUDA's, or a test's. Null in a build without CUDA.
DeviceBackend* device_backend() noexcept;
// For tests: replaces it; returns the one before. No tensor may live on a device meanwhile.
DeviceBackend* set_device_backend(DeviceBackend* backend) noexcept;

}  // namespace mien
