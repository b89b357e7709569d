// Calls that join what other passes take apart anew. conv_block (convolution, PReLU, pooling in one) is made for few input channels: with more of them the
// packed convolution is faster, with PReLU inside and the pooling behind it. residual becomes scale, sum and ReLU, which go into the convolution before it.
#include "mien/infer/passes_impl.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

constexpr std::int64_t few_channels = 8;

std::vector<Node> parts_of_block(Graph& g, const Node& block) {
  if (!g.value(block.in[1]).is_constant() || g.value(block.in[1]).shape[1] <= few_channels) return {};
  const auto& p = block.get<ConvBlockParams>();
  std::vector<Node> parts{g.make_node(op_conv2d, ConvParams{}, {block.in[0], block.in[1], block.in[2]})};
  parts.push_back(g.make_node(op_prelu, {}, {parts.back().out[0], block.in[3]}));
  if (p.kernel != Pair{1, 1} || p.stride != Pair{1, 1})
    parts.push_back(g.make_node(op_max_pool2d, PoolParams{.kernel = p.kernel, .stride = p.stride, .ceil_mode = p.ceil_mode}, {parts.back().out[0]}));
  return parts;
}

std::vector<Node> parts_of_residual(Graph& g, const Node& n) {
  const auto& p = n.get<ResidualParams>();
  std::vector<Node> parts;
  int h = n.in[1];
  if (p.scale != 1) {
    parts.push_back(g.make_node(op_unary, UnaryParams{.kind = UnaryKind::affine, .a = p.scale}, {h}));
    h = parts.back().out[0];
  }
  parts.push_back(g.make_node(op_binary, BinaryParams{BinaryKind::add}, {h, n.in[0]}));
  if (p.relu) parts.push_back(g.make_node(op_unary, UnaryParams{.kind = UnaryKind::relu}, {parts.back().out[0]}));
  return parts;
}

}  // namespace

void expand_blocks(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node n = g.node(k);
    const std::vector<Node> parts = n.op == &op_conv_block ? parts_of_block(g, n) : n.op == &op_residual ? parts_of_residual(g, n) : std::vector<Node>{};
    if (parts.empty()) continue;
    g.replace_uses(n.out[0], parts.back().out[0]);
    g.nodes.erase(g.nodes.begin() + k);
    g.nodes.insert(g.nodes.begin() + k, parts.begin(), parts.end());
  }
}

}  // namespace mien::infer
