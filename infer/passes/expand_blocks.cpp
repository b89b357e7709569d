// conv_block (convolution, PReLU, pooling in one) is made for few input channels. With more of them the packed convolution is faster, with PReLU inside and
// the pooling behind it.
#include "mien/infer/passes_impl.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

constexpr std::int64_t few_channels = 8;

}  // namespace

void expand_blocks(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node block = g.node(k);
    if (block.op != &op_conv_block || !g.value(block.in[1]).is_constant() || g.value(block.in[1]).shape[1] <= few_channels) continue;
    const auto& p = block.get<ConvBlockParams>();
    std::vector<Node> fresh{g.make_node(op_conv2d, ConvParams{}, {block.in[0], block.in[1], block.in[2]})};
    fresh.push_back(g.make_node(op_prelu, {}, {fresh.back().out[0], block.in[3]}));
    if (p.kernel != Pair{1, 1} || p.stride != Pair{1, 1})
      fresh.push_back(g.make_node(op_max_pool2d, PoolParams{.kernel = p.kernel, .stride = p.stride, .ceil_mode = p.ceil_mode}, {fresh.back().out[0]}));
    g.replace_uses(block.out[0], fresh.back().out[0]);
    g.nodes.erase(g.nodes.begin() + k);
    g.nodes.insert(g.nodes.begin() + k, fresh.begin(), fresh.end());
  }
}

}  // namespace mien::infer
