#include "mien/ops/autocast.h"

#include "mien/kernels/kernel.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"

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
  if (!x.defined()) return x;
  if (x.device().is_cpu()) return parameter_dtype(x) == x.dtype() ? x : cast(x, parameter_dtype(x));
  return wanted != DType::f32 && x.dtype() == DType::f32 ? cast(x, wanted) : x;
}
Tensor autocast_map(const Tensor& x, bool tiles) {
  if (!x.defined() || !x.device().is_cpu()) return autocast(x);
  return wanted == DType::bf16 && tiles && x.dtype() == DType::f32 && max_cpu_level() == Level::amx ? cast(x, DType::bf16) : x;
}

}  // namespace mien
