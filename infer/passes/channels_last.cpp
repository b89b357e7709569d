// Maps lie as channels_last everywhere: pictures are copied into that order once, at the input, and every op keeps its input's order. What forward gave in
// the usual order is given in it again.
#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

// Strides of a map of one pixel don't tell its order. Where other sizes may come, those of larger inputs decide.
Graph larger(const Graph& g) {
  Graph grown = g;
  for (const int in : grown.inputs)
    if (Shape& s = grown.value(in).shape; s.rank() == 4) s[2] += 16, s[3] += 16;
  std::vector<Shape> shapes;
  for (const int in : grown.inputs) shapes.push_back(grown.value(in).shape);
  try {
    const Sizes sizes = size_graph(g, shapes);
    for (std::size_t v = 0; v < grown.values.size(); ++v) grown.values[v].shape = sizes.values[v].shape, grown.values[v].strides = sizes.values[v].strides;
    return grown;
  } catch (const ShapeError&) {  // this net takes one size
    return g;
  }
}

}  // namespace

void use_channels_last(Graph& g, bool any_size) {
  const Graph traced = any_size ? larger(g) : g;
  for (int& out : g.outputs) {
    const Value& v = traced.value(out);
    if (v.shape.rank() != 4 || !View{nullptr, v.dtype, v.shape, v.strides}.is_contiguous()) continue;
    g.nodes.push_back(g.make_node(op_copy, CopyParams{v.dtype, Layout::contiguous}, {out}));
    out = g.nodes.back().out[0];
  }
  for (const int in : g.inputs) {
    const Value& v = g.value(in);
    if (v.shape.rank() != 4 || v.dtype != DType::f32 || View{nullptr, v.dtype, v.shape, v.strides}.is_channels_last()) continue;
    const Node copy = g.make_node(op_copy, CopyParams{DType::f32, Layout::channels_last}, {in});  // moves all values: `v` is gone
    g.replace_uses(in, copy.out[0]);
    g.nodes.insert(g.nodes.begin(), copy);
    // A net that asks for this order by itself has it now.
    for (const int n : g.users(copy.out[0])) {
      const Node& own = g.node(n);
      if (own.op == &op_copy && own.get<CopyParams>().dtype == DType::f32 && own.get<CopyParams>().layout == Layout::channels_last && !g.is_output(own.out[0]))
        g.replace_uses(own.out[0], copy.out[0]);
    }
  }
  remove_dead(g);
}

}  // namespace mien::infer
