// The one exported symbol of level amx.
#include "mien/kernels/cpu/table.h"

namespace mien::MIEN_LEVEL {
extern const KernelEntry conv2d_entry, conv2d_grad_input_entry, conv2d_grad_weight_entry, matmul_entry, linear_entry, packed_conv2d_entry;
}  // namespace mien::MIEN_LEVEL

extern "C" {
extern constinit const mien::CpuTable MIEN_TABLE = {
    .conv2d = &mien::MIEN_LEVEL::conv2d_entry,
    .conv2d_grad_input = &mien::MIEN_LEVEL::conv2d_grad_input_entry,
    .conv2d_grad_weight = &mien::MIEN_LEVEL::conv2d_grad_weight_entry,
    .packed_conv2d = &mien::MIEN_LEVEL::packed_conv2d_entry,
    .matmul = &mien::MIEN_LEVEL::matmul_entry,
    .linear = &mien::MIEN_LEVEL::linear_entry,
};
}
