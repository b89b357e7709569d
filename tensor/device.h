// Where a tensor lives. CUDA is optional when mien is built and explicit when it runs: there is no silent fall-back.
//
//   const Device gpu = Device::cuda();            // DeviceError with the reason when there is none
//   Tensor y = conv2d(to(x, gpu), to(w, gpu));    // ops run where their operands are, and return before the GPU is done
//   double sum = y.item();                        // reading values waits for it
//
// Work on a GPU goes through a queue (Stream). Every device has one main queue, used by all threads that ask for no other, so what one call wrote the next
// one sees. Thread safety: everything here may be called from any thread.
#pragma once

#include <cstdint>
#include <string>

#include "mien/tensor/error.h"

namespace mien {

enum class DeviceType : std::uint8_t { cpu, cuda };

class Device {
 public:
  constexpr Device() = default;
  static constexpr Device cpu() { return {}; }
  // DeviceError says why it can't be had: built without CUDA, no driver, no such device, a GPU older than this build's kernels.
  static Device cuda(int index = 0);
  // "auto" (the first GPU if one can be used, else the CPU), "cpu", "cuda" or "cuda:N"; ValueError for anything else, DeviceError for a device that is absent.
  static Device parse(const std::string& text);
  constexpr DeviceType type() const noexcept { return type_; }
  constexpr int index() const noexcept { return index_; }
  constexpr bool is_cpu() const noexcept { return type_ == DeviceType::cpu; }
  constexpr bool operator==(const Device&) const = default;

 private:
  constexpr Device(DeviceType type, int index) : type_(type), index_(static_cast<std::int8_t>(index)) {}
  DeviceType type_ = DeviceType::cpu;
  std::int8_t index_ = 0;
};

std::string to_string(Device device);    // "cpu", "cuda:0"
std::string describe(Device device);     // "cuda:0 NVIDIA H100 80GB HBM3, compute capability 9.0, 79 GiB"
bool built_with_cuda() noexcept;
int cuda_device_count() noexcept;        // 0 where none can be used
std::string why_no_cuda();               // empty when one can be used

// An ordered queue of work on a device. On the CPU work is done when a call returns.
struct Stream {
  Device device;
  void* handle = nullptr;
};
// The calling thread's queue on a device: the device's main one unless a StreamGuard lives.
Stream current_stream(Device device);
// What the calling thread launches next goes to this device. (run_kernel does it.)
void make_current(Device device);
// Waits until everything in the calling thread's queue is done. Errors of the device's earlier work are thrown here (and by any read of values).
void synchronize(Device device);

// Another queue for this thread while it lives. Memory made meanwhile belongs to that queue: whoever uses it from another one waits first (synchronize).
class StreamGuard {
 public:
  explicit StreamGuard(Stream stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  Stream before_;
};

}  // namespace mien
