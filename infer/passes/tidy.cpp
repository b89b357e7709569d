// What every plan needs whether anything is fused or not: outputs with memory of their own, no calls whose result no one reads.
#include <algorithm>

#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {

void separate_outputs(Graph& g) {
  for (int& out : g.outputs) {
    int root = out;
    for (int n = g.producer(root); n >= 0 && is_view(g.node(n)); n = g.producer(root)) root = g.node(n).in[0];
    if (std::find(g.inputs.begin(), g.inputs.end(), root) == g.inputs.end()) continue;
    const Value& v = g.value(out);
    const View view{nullptr, v.dtype, v.shape, v.strides};
    const Layout layout = view.is_channels_last() && !view.is_contiguous() ? Layout::channels_last : Layout::contiguous;
    g.nodes.push_back(g.make_node(op_copy, CopyParams{v.dtype, layout}, {out}));
    out = g.nodes.back().out[0];
  }
}

void remove_dead(Graph& g) {
  std::vector<bool> wanted(g.values.size());
  const auto want = [&](int v) { wanted[static_cast<std::size_t>(v)] = true; };
  const auto is_wanted = [&](int v) {
    for (; v >= 0; v = g.value(v).inside)
      if (wanted[static_cast<std::size_t>(v)]) return true;
    return false;
  };
  for (const int v : g.outputs) want(v);
  for (int n = g.node_count() - 1; n >= 0; --n) {
    Node& node = g.node(n);
    if (std::none_of(node.out.begin(), node.out.end(), is_wanted)) {
      g.nodes.erase(g.nodes.begin() + n);
      continue;
    }
    for (const int v : node.in) want(v);
  }
}

}  // namespace mien::infer
