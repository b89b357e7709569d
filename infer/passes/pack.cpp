// conv2d becomes packed_conv2d, its weights packed here and now. In bf16 the picture is cast before every convolution that reads it so; the pass `narrow`
// then moves the casts into the convolutions before.
#include <algorithm>

#include "mien/infer/passes_impl.h"
#include "mien/kernels/winograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

bool can_pack(const Graph& g, const Node& n) {
  if (n.op != &op_conv2d || g.value(n.in[0]).dtype != DType::f32) return false;
  for (std::size_t i = 1; i < n.in.size(); ++i)
    if (!g.value(n.in[i]).is_constant()) return false;
  const Shape& w = g.value(n.in[1]).shape;
  const std::int64_t groups = n.get<ConvParams>().groups;
  return groups == 1 || (groups == w[0] && w[1] == 1);
}

bool by_winograd(const Shape& w, const Shape& y, const ConvParams& p) {
  return w[2] == 3 && w[3] == 3 && p.groups == 1 && p.stride == Pair{1, 1} && p.dilation == Pair{1, 1} && winograd::pays(w[1], w[0], y[2], y[3]);
}

// The picture of few channels in the usual order that `v` is a copy of, -1 for none: packed_conv2d reads it as it is.
int plain_picture(const Graph& g, int v) {
  const int copy = g.producer(v);
  if (copy < 0 || g.node(copy).op != &op_copy) return -1;
  const Value& x = g.value(g.node(copy).in[0]);
  const bool plain = x.dtype == DType::f32 && x.shape.rank() == 4 && x.shape[1] <= 4 && View{nullptr, x.dtype, x.shape, x.strides}.is_contiguous();
  return plain ? g.node(copy).in[0] : -1;
}

}  // namespace

void pack_convs(Graph& g, const Options& options) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node conv = g.node(k);
    if (!can_pack(g, conv)) continue;
    const auto& p = conv.get<ConvParams>();
    const Tensor w = g.value(conv.in[1]).constant;
    const bool half = options.dtype == DType::bf16 && p.groups == 1;  // depthwise has no packed form in bf16
    PackedConvOpParams packed;
    static_cast<ConvParams&>(packed) = p;
    packed.kernel = {w.size(2), w.size(3)};
    packed.channels[0] = w.size(0);
    int x = conv.in[0];
    const Value& v = g.value(x);
    if (const int plain = plain_picture(g, x); plain >= 0 && !half && p.groups == 1) {
      x = plain;
    } else if (half || !View{nullptr, v.dtype, v.shape, v.strides}.is_channels_last()) {
      g.nodes.insert(g.nodes.begin() + k, g.make_node(op_copy, CopyParams{half ? DType::bf16 : DType::f32, Layout::channels_last}, {x}));
      x = g.node(k++).out[0];
    }
    const bool winograd = !half && options.device.is_cpu() && by_winograd(w.shape(), g.value(conv.out[0]).shape, p);
    const int weight = g.add_constant(winograd ? pack_winograd_weights(w) : pack_conv_weights(w, p.groups, half ? DType::bf16 : DType::f32));
    const int bias = conv.in.size() > 2 ? conv.in[2] : g.add_constant(zeros({w.size(0)}));
    const Node made = g.make_node(op_packed_conv2d, packed, {x, weight, bias});
    g.node(k) = made;
    g.replace_uses(conv.out[0], made.out[0]);
    g.forget_unread(conv.in[1]);
  }
  share_equal(g);
}

}  // namespace mien::infer
