// The one exported symbol of this level.
#include "mien/kernels/cpu/table.h"

namespace mien::MIEN_LEVEL {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_CPU_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::MIEN_LEVEL

extern "C" {
extern constinit const mien::KernelTable MIEN_TABLE = [] {
  mien::KernelTable table;
#define MIEN_ADDRESS(name) table.name = &mien::MIEN_LEVEL::name##_entry;
  MIEN_CPU_KERNELS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
  return table;
}();
}
