#include "mien/kernels/cpu/packed_conv.h"
namespace mien::MIEN_LEVEL {
extern const KernelEntry packed_depthwise{nullptr, [](const KernelArgs&) -> const char* { return "depthwise"; }, nullptr};
}
