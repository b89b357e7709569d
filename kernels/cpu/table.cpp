// The one exported symbol of this level.
#include "mien/kernels/cpu/table.h"

namespace mien::MIEN_LEVEL {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_CPU_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::MIEN_LEVEL

extern "C" {
extern constinit const mien::CpuTable MIEN_TABLE = {
#define MIEN_ADDRESS(name) &mien::MIEN_LEVEL::name##_entry,
    MIEN_CPU_KERNELS(MIEN_ADDRESS)
#undef MIEN_ADDRESS
};
}
