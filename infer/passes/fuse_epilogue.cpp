// What follows a packed convolution and reads nothing else goes into it: a residual is added, then ReLU or PReLU taken, while the sums are in registers.
#include <algorithm>

#include "mien/autograd/autograd.h"
#include "mien/infer/passes_impl.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::infer {
namespace {

// The packed convolution whose only reader is node k by way of value v; -1 when there is none. A reshape of its one-pixel output may lie between.
int conv_before(const Graph& g, int v, int k) {
  int p = g.producer(v);
  if (p < 0 || g.only_user(v) != k) return -1;
  if (g.node(p).op == &op_reshape) {
    const int x = g.node(p).in[0];
    const Shape &from = g.value(x).shape, &to = g.value(v).shape;
    if (g.only_user(x) != p || from.rank() != 4 || from[2] * from[3] != 1 || to.rank() < 2 || to[0] != from[0] || to[1] != from[1]) return -1;
    p = g.producer(x);
  }
  return p >= 0 && g.node(p).op == &op_packed_conv2d && g.node(p).get<PackedConvOpParams>().activation == Activation::none ? p : -1;
}

bool fuse_activation(Graph& g, int k) {
  const Node n = g.node(k);
  const auto kind = n.op == &op_unary ? n.get<UnaryParams>().kind : UnaryKind::neg;
  const bool relu = kind == UnaryKind::relu, leaky = kind == UnaryKind::leaky_relu, prelu = n.op == &op_prelu && g.value(n.in[1]).is_constant();
  if (!relu && !leaky && !prelu) return false;
  const int p = conv_before(g, n.in[0], k);
  if (p < 0) return false;
  auto params = g.node(p).get<PackedConvOpParams>();
  params.activation = relu ? Activation::relu : Activation::prelu;
  if (!relu) {
    const Tensor slope = full({params.channels[0]}, leaky ? n.get<UnaryParams>().a : 0);
    if (prelu) {
      const NoGrad guard;
      copy_into(slope, expand(g.value(n.in[1]).constant, slope.shape()));
    }
    const int value = g.add_constant(slope);
    Node& conv = g.node(p);
    conv.in.insert(conv.in.begin() + 3, value);
  }
  g.node(p).params = params;
  g.replace_uses(n.out[0], n.in[0]);
  g.nodes.erase(g.nodes.begin() + k);
  return true;
}

bool fuse_residual(Graph& g, int k) {
  const Node n = g.node(k);
  if (n.op != &op_binary || n.get<BinaryParams>().kind != BinaryKind::add) return false;
  for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
    const int y = n.in[side], other = n.in[1 - side];
    const int p = g.producer(y);
    if (p < 0 || g.node(p).op != &op_packed_conv2d || conv_before(g, y, k) != p) continue;
    const Value& r = g.value(other);
    if (r.is_constant() || !(r.shape == g.value(y).shape) || other == y || r.dtype != DType::f32) continue;
    auto params = g.node(p).get<PackedConvOpParams>();
    if (params.residual || params.outputs > 1) continue;
    params.residual = true;
    Node conv = g.node(p);
    conv.params = params;
    // The convolution moves to the sum's place, where both are known.
    const DType dtype = g.value(conv.in[0]).dtype;
    int residual = other;
    std::vector<Node> fresh;
    if (dtype != r.dtype || !View{nullptr, r.dtype, r.shape, r.strides}.is_channels_last()) {
      fresh.push_back(g.make_node(op_copy, CopyParams{dtype, Layout::channels_last}, {other}));
      residual = fresh.back().out[0];
    }
    conv.in.push_back(residual);
    fresh.push_back(conv);
    g.nodes.erase(g.nodes.begin() + k);
    g.nodes.insert(g.nodes.begin() + k, fresh.begin(), fresh.end());
    g.nodes.erase(g.nodes.begin() + p);
    g.replace_uses(n.out[0], y);
    return true;
  }
  return false;
}

}  // namespace

void fuse_epilogue(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k)
    if (fuse_activation(g, k) || fuse_residual(g, k)) k = -1;  // positions moved: from the start
  share_equal(g);
}

}  // namespace mien::infer
