// Faults that a test plans for the emulated GPU.
#pragma once

#include <cuda_runtime_api.h>

namespace mien_emulator {

// The next call of this function of the run-time, or the one after `passing` others, does nothing but fail; "launch" is that of a kernel.
void fail_next(const char* function, cudaError_t status, int passing = 0);
int graphs_alive();  // made and not destroyed

}  // namespace mien_emulator
