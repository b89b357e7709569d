// Where a tensor lives. CUDA is optional when mien is built and explicit when it runs: there is no silent fall-back.
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
  // Throws DeviceError "built without CUDA" in a build without the toolkit.
  static Device cuda(int index = 0);
  // "auto", "cpu", "cuda" or "cuda:N"; ValueError for anything else, DeviceError for a device that is absent.
  static Device parse(const std::string& text);
  constexpr DeviceType type() const noexcept { return type_; }
  constexpr int index() const noexcept { return index_; }
  constexpr bool is_cpu() const noexcept { return type_ == DeviceType::cpu; }
  constexpr bool operator==(const Device&) const = default;

 private:
  DeviceType type_ = DeviceType::cpu;
  std::int8_t index_ = 0;
};

std::string to_string(Device device);
bool built_with_cuda() noexcept;

// An ordered queue of work on a device. On the CPU work is done when a call returns; a backend with queues puts its handle here.
struct Stream {
  Device device;
  void* handle = nullptr;
};

}  // namespace mien
