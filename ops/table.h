// Every op, once. tests/ops/table_test.cpp checks that each row has a reference kernel (or is a view), and a gradient-check row if it has a derivative.
#pragma once

#define MIEN_OPS(X)                                                                                                                     \
  /* unary.h binary.h */ X(unary) X(unary_backward) X(binary) X(where)                                                                  \
  /* view.h */ X(reshape) X(permute) X(expand) X(slice)                                                                                 \
  /* copy.h */ X(copy) X(transfer)                                                                                                                  \
  /* factory.h */ X(random)                                                                                                             \
  /* shape.h */ X(concat) X(pad) X(slice_backward) X(index_select) X(index_add)                                                         \
  /* pick.h */ X(pick) X(pick_add)                                                                                                      \
  /* reduce.h */ X(reduce) X(arg_reduce)                                                                                                \
  /* matmul.h */ X(matmul) X(linear)                                                                                                    \
  /* conv.h */ X(conv2d) X(conv2d_grad_input) X(conv2d_grad_weight)                                                                     \
  /* packed_conv.h */ X(pack_conv_weights) X(packed_conv2d)                                                                             \
  /* conv_block.h */ X(conv_block) X(conv_block_backward)                                                                               \
  /* pool.h */ X(max_pool2d) X(max_pool2d_with_indices) X(max_pool2d_backward) X(avg_pool2d) X(avg_pool2d_backward)                                                \
  /* resize.h */ X(adaptive_avg_pool2d) X(adaptive_avg_pool2d_backward) X(resize_bilinear) X(resize_bilinear_backward) X(crop_resize_area) X(warp_affine) \
  /* residual.h */ X(residual)                                                                                                        \
  /* prelu.h */ X(prelu) X(prelu_backward)                                                                                              \
  /* softmax.h */ X(softmax) X(softmax_backward)                                                                                        \
  /* norm.h */ X(batch_norm) X(batch_norm_backward) X(channel_affine)                                                                   \
  /* norm_conv.h */ X(norm_conv) X(norm_conv_backward) X(norm_add) X(norm_add_backward)                                        \
  /* loss.h */ X(nll) X(nll_backward) X(topk_mask)                                                                                      \
  /* nms.h */ X(nms)                                                                                                                    \
  /* pnet.h */ X(pnet_candidates)                                                                                                       \
  /* conv_chain.h */ X(conv_chain)

namespace mien {
struct Op;
#define MIEN_DECLARE(name) extern const Op op_##name;
MIEN_OPS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien
