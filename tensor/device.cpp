#include "mien/tensor/device.h"

namespace mien {

bool built_with_cuda() noexcept { return false; }

Device Device::cuda(int) {
  throw DeviceError("device", "cuda was asked for, but this library was built without CUDA",
                    "Use Device::cpu() (--device cpu), or build with the CUDA backend.");
}

Device Device::parse(const std::string& text) {
  if (text == "auto" || text == "cpu") return cpu();
  if (text == "cuda") return cuda();
  if (text.rfind("cuda:", 0) == 0 && text.size() > 5 && text.find_first_not_of("0123456789", 5) == std::string::npos && text.size() < 8)
    return cuda(std::stoi(text.substr(5)));
  throw ValueError("device", "expected auto, cpu, cuda or cuda:N, got '" + text + "'");
}

std::string to_string(Device device) {
  return device.is_cpu() ? "cpu" : "cuda:" + std::to_string(device.index());
}

}  // namespace mien
