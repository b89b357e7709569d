#include "mien/ops/table.h"

#include "mien/ops/op.h"

namespace mien {

std::span<const Op* const> all_ops() {
  static constexpr const Op* ops[] = {
#define MIEN_ADDRESS(name) &op_##name,
      MIEN_OPS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
  };
  return ops;
}

}  // namespace mien
