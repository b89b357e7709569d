// The table of what NVIDIA's libraries do.
#include "mien/kernels/cuda/table.h"

namespace mien::cuda_library {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_CUDA_LIBRARY_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::cuda_library

extern "C" {
extern constinit const mien::KernelTable mien_cuda_library = [] {
  mien::KernelTable table;
#define MIEN_ADDRESS(name) table.name = &mien::cuda_library::name##_entry;
  MIEN_CUDA_LIBRARY_KERNELS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
  return table;
}();
}
