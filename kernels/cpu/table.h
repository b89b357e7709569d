// The fast CPU kernels. The sources of this folder are compiled once per level into namespaces mien::base, mien::avx2 and mien::avx512
// (MIEN_LEVEL), and each level exports exactly one symbol: its table. Folder amx/ is a level of its own, with the kernels that multiply on tiles only:
// the other entries of its table are null.
//
// Note [One symbol a level]: a template instantiated in two levels is a weak symbol, and the linker keeps only one of them, compiled for
// whatever level came first. So each level's objects are joined with `ld -r` and everything but the table is made local (objcopy
// --keep-global-symbol). tests/scripts/level_symbols.sh checks it.
#pragma once

#include "mien/kernels/table.h"

// Every op that has a fast CPU kernel. A new one: a row here, `extern const KernelEntry NAME_entry` in kernels/cpu/FAMILY.cpp, and `&KernelTable::NAME` in its op.
#define MIEN_CPU_KERNELS(X)  \
  X(conv2d)                  \
  X(conv2d_grad_input)       \
  X(conv2d_grad_input_add)   \
  X(conv2d_grad_weight)      \
  X(packed_conv2d)           \
  X(conv_block)              \
  X(conv_block_backward)     \
  X(matmul)                  \
  X(linear)                  \
  X(max_pool2d)              \
  X(max_pool2d_backward)     \
  X(adaptive_avg_pool2d)     \
  X(crop_resize_area)        \
  X(warp_affine)             \
  X(avg_pool2d)              \
  X(avg_pool2d_backward)     \
  X(pnet_candidates)         \
  X(conv_chain)              \
  X(nms)                     \
  X(unary)                   \
  X(unary_backward)          \
  X(binary)                  \
  X(residual)                \
  X(copy)                    \
  X(concat)                  \
  X(prelu)                   \
  X(prelu_backward)          \
  X(batch_norm)              \
  X(batch_norm_backward)     \
  X(channel_affine)          \
  X(norm_conv)               \
  X(norm_conv_backward)      \
  X(norm_add)                \
  X(norm_add_backward)       \
  X(softmax)                 \
  X(softmax_backward)        \
  X(reduce)                  \
  X(sgd)                     \
  X(adam)

extern "C" {
extern const mien::KernelTable mien_cpu_base;
#if defined(__x86_64__)
extern const mien::KernelTable mien_cpu_avx2;
extern const mien::KernelTable mien_cpu_avx512;
extern const mien::KernelTable mien_cpu_amx;
#endif
}
