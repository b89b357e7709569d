// Maps lie as channels_last everywhere: pictures are copied into that order once, at the input, and every op keeps its input's order. What forward gave in
// the usual order is given in it again.
#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {

void use_channels_last(Graph& g) {
  for (int& out : g.outputs) {
    const Value& v = g.value(out);
    if (v.shape.rank() != 4 || !View{nullptr, v.dtype, v.shape, v.strides}.is_contiguous()) continue;
    g.nodes.push_back(g.make_node(op_copy, CopyParams{v.dtype, Layout::contiguous}, {out}));
    out = g.nodes.back().out[0];
  }
  for (const int in : g.inputs) {
    const Value& v = g.value(in);
    if (v.shape.rank() != 4 || v.dtype != DType::f32 || View{nullptr, v.dtype, v.shape, v.strides}.is_channels_last()) continue;
    const Node copy = g.make_node(op_copy, CopyParams{v.dtype, Layout::channels_last}, {in});
    g.replace_uses(in, copy.out[0]);
    g.nodes.insert(g.nodes.begin(), copy);
  }
}

}  // namespace mien::infer
