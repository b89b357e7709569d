// Every kernel's name, once, and what a level exports: one entry for each, null where it has none.
#pragma once

#include "mien/kernels/kernel.h"

#define MIEN_KERNELS(X)                                                                                                                                \
  X(conv2d) X(conv2d_grad_input) X(conv2d_grad_input_add) X(conv2d_grad_weight) X(pack_conv_weights) X(packed_conv2d) X(conv_block) X(conv_block_backward) X(max_pool2d)        \
  X(max_pool2d_backward) X(avg_pool2d) X(avg_pool2d_backward) X(adaptive_avg_pool2d) X(adaptive_avg_pool2d_backward) X(crop_resize_area)               \
  X(warp_affine) X(resize_bilinear) X(resize_bilinear_backward) X(unary) X(unary_backward) X(binary) X(where) X(copy) X(transfer) X(fill) X(reduce) X(arg_reduce)  \
  X(prelu) X(prelu_backward) X(matmul) X(linear) X(softmax) X(softmax_backward) X(batch_norm) X(batch_norm_backward) X(channel_affine) X(nll)          \
  X(nll_backward) X(concat) X(index_select) X(index_add) X(pad) X(slice_backward) X(random) X(topk_mask) X(nms) X(sgd) X(adam) X(adagrad) X(pick)      \
  X(pick_add) X(center_update) X(pnet_candidates) X(conv_chain) X(residual) X(norm_conv) X(norm_conv_backward) X(norm_add) X(norm_add_backward)

namespace mien {
struct KernelTable {
#define MIEN_MEMBER(name) const KernelEntry* name = nullptr;
  MIEN_KERNELS(MIEN_MEMBER)
#undef MIEN_MEMBER
};
}  // namespace mien
