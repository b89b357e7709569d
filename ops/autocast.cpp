#include "mien/ops/autocast.h"

#include "mien/ops/copy.h"

namespace mien {
namespace {
thread_local DType wanted = DType::f32;
}

Autocast::Autocast(DType dtype) : before_(wanted) {
  if (dtype != DType::bf16 && dtype != DType::f16 && dtype != DType::f32) throw ValueError("Autocast", std::string("expects bf16, f16 or f32, got ") + name(dtype));
  wanted = dtype;
}
Autocast::~Autocast() { wanted = before_; }

DType autocast_dtype() noexcept { return wanted; }

Tensor autocast(const Tensor& x) {
  return wanted != DType::f32 && x.defined() && x.dtype() == DType::f32 && !x.device().is_cpu() ? cast(x, wanted) : x;
}

}  // namespace mien
