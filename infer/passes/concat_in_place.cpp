// A concat of channels without a copy: its parts are written where they belong in the wide map. Packed convolutions and max_pool2d write and read channel
// slices; what another op makes is copied into its slice.
#include <algorithm>

#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

bool takes_slices(const Node& n) { return n.op == &op_packed_conv2d || (n.op == &op_max_pool2d && n.out.size() == 1); }

// Only such calls make and read it, so that it may be a slice.
bool may_be_slice(const Graph& g, int v, int concat) {
  const int p = g.producer(v);
  if (p < 0 || !takes_slices(g.node(p)) || g.is_output(v) || g.value(v).inside >= 0) return false;
  if (std::count(g.node(concat).in.begin(), g.node(concat).in.end(), v) != 1) return false;
  const auto readers = g.users(v);
  return std::all_of(readers.begin(), readers.end(), [&](int n) { return n == concat || takes_slices(g.node(n)); });
}

}  // namespace

void concat_in_place(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node concat = g.node(k);
    if (concat.op != &op_concat || concat.get<DimParams>().dim != 1) continue;
    const Value& wide = g.value(concat.out[0]);
    if (wide.shape.rank() != 4 || !View{nullptr, wide.dtype, wide.shape, wide.strides}.is_channels_last()) continue;
    if (std::any_of(concat.in.begin(), concat.in.end(), [&](int v) { return g.value(v).is_constant(); })) continue;
    std::vector<Node> copies;
    std::int64_t channel = 0;
    const DType dtype = wide.dtype;
    for (const int v : concat.in) {
      int part = v;
      if (!may_be_slice(g, v, k)) {
        copies.push_back(g.make_node(op_copy, CopyParams{dtype, Layout::channels_last}, {v}));
        part = copies.back().out[0];
      }
      g.value(part).inside = concat.out[0];
      g.value(part).channel = channel;
      channel += g.value(part).shape[1];
    }
    g.nodes.erase(g.nodes.begin() + k);
    g.nodes.insert(g.nodes.begin() + k, copies.begin(), copies.end());
    k += static_cast<int>(copies.size()) - 1;
  }
}

}  // namespace mien::infer
