// The CUDA kernels. Every op has an entry in table mien_cuda: an own kernel, or a composition of own kernels and library calls. mien_cuda_library holds the
// few that cuDNN and cuBLASLt do, tried first; they decline what those libraries don't take, and everything on a machine that lacks them.
//
// Entries only put work into the queue args.stream and return; nothing is read back. All but those that say so give the same bits every time: sums are trees
// over fixed pieces, never atomics on floats. Shapes of more than 2^31 elements are taken wherever indices are 64 bits, and declined elsewhere.
#pragma once

#include "mien/kernels/table.h"

// What NVIDIA's libraries do.
#define MIEN_CUDA_LIBRARY_KERNELS(X) X(conv2d) X(conv2d_grad_input) X(conv2d_grad_weight) X(matmul) X(linear)

extern "C" {
extern const mien::KernelTable mien_cuda;
extern const mien::KernelTable mien_cuda_library;
}
