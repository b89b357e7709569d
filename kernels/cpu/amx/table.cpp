// The one exported symbol of level amx.
#include "mien/kernels/cpu/table.h"

#define MIEN_TILE_KERNELS(X) X(conv2d) X(conv2d_grad_input) X(conv2d_grad_input_add) X(conv2d_grad_weight) X(packed_conv2d) X(matmul) X(linear)

namespace mien::MIEN_LEVEL {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_TILE_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::MIEN_LEVEL

extern "C" {
extern constinit const mien::KernelTable MIEN_TABLE = [] {
  mien::KernelTable table;
#define MIEN_ADDRESS(name) table.name = &mien::MIEN_LEVEL::name##_entry;
  MIEN_TILE_KERNELS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
  return table;
}();
}
