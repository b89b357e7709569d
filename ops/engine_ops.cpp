// What the autograd engine needs of the ops.
#include <algorithm>
#include <cmath>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {
bool all_finite(const Tensor& t) {
  const auto values = t.to_vector();
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}
void add_into(const Tensor& sum, const Tensor& g) { apply_in_place("add_into", op_binary.kernels, {sum, g}, {sum}, BinaryParams{BinaryKind::add}); }
}  // namespace

const EngineOps engine_ops{add, add_into, ones_like, clone, all_finite};

}  // namespace mien
