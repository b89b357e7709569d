// Packed convolutions that read the same value in the same way become one with several outputs: the input is read once and the columns are more.
#include <algorithm>

#include "mien/infer/passes_impl.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/shape.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

bool can_merge(const Graph& g, const Node& n) {
  return n.op == &op_packed_conv2d && !n.get<PackedConvOpParams>().residual && g.value(n.in[1]).shape.rank() != 2;  // depthwise: rank 2
}
bool are_siblings(const Graph& g, const Node& a, const Node& b) {
  const auto &p = a.get<PackedConvOpParams>(), &q = b.get<PackedConvOpParams>();
  return a.in[0] == b.in[0] && p.kernel == q.kernel && p.stride == q.stride && p.padding == q.padding && p.dilation == q.dilation &&
         p.activation == q.activation && p.y_dtype == q.y_dtype && g.value(a.in[1]).dtype == g.value(b.in[1]).dtype && g.value(a.in[1]).shape.rank() == g.value(b.in[1]).shape.rank() &&
         p.outputs + q.outputs <= max_packed_outputs;
}

}  // namespace

void merge_siblings(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    if (!can_merge(g, g.node(k))) continue;
    for (int other = k + 1; other < g.node_count(); ++other) {
      if (!can_merge(g, g.node(other)) || !are_siblings(g, g.node(k), g.node(other))) continue;
      Node merged = g.node(k);
      const Node second = g.node(other);
      auto params = merged.get<PackedConvOpParams>();
      const auto& q = second.get<PackedConvOpParams>();
      for (int i = 0; i < q.outputs; ++i) params.channels[static_cast<std::size_t>(params.outputs++)] = q.channels[static_cast<std::size_t>(i)];
      merged.params = params;
      const auto constant = [&](const Node& n, std::size_t i) { return g.value(n.in[i]).constant; };
      const Tensor weights[] = {constant(merged, 1), constant(second, 1)};
      std::vector<int> in{merged.in[0], g.add_constant(join_packed_weights(weights))};
      for (std::size_t i = 2; i < merged.in.size(); ++i) in.push_back(g.add_constant(concat({constant(merged, i), constant(second, i)}, 0)));
      const int before[] = {merged.in[1], second.in[1]};
      merged.in = in;
      merged.out.insert(merged.out.end(), second.out.begin(), second.out.end());
      g.node(k) = merged;
      g.nodes.erase(g.nodes.begin() + other--);
      for (const int weight : before) g.forget_unread(weight);
    }
  }
}

}  // namespace mien::infer
