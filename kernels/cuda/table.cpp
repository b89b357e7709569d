// The table of own kernels.
#include "mien/kernels/cuda/table.h"

namespace mien::cuda {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::cuda

extern "C" {
extern constinit const mien::KernelTable mien_cuda = [] {
  mien::KernelTable table;
#define MIEN_ADDRESS(name) table.name = &mien::cuda::name##_entry;
  MIEN_KERNELS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
  return table;
}();
}
