#include "mien/kernels/precision.h"

#include <atomic>

namespace mien {
namespace {
std::atomic<Precision> chosen{Precision::f32};
}

const char* name(Precision precision) noexcept {
  static constexpr const char* names[] = {"f32", "bf16x3", "bf16"};
  return names[static_cast<int>(precision)];
}
void set_matmul_precision(Precision precision) noexcept { chosen.store(precision, std::memory_order_relaxed); }
Precision matmul_precision() noexcept { return chosen.load(std::memory_order_relaxed); }

}  // namespace mien
