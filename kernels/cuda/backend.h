// The CUDA run-time as a DeviceBackend.
#pragma once

#include "mien/tensor/device_backend.h"

extern "C" mien::DeviceBackend* mien_cuda_backend();
