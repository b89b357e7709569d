// Whether this build's kernels run on the calling thread's device.
#pragma once

#include <cuda_runtime.h>

namespace mien::cuda {
cudaError_t probe();
}
