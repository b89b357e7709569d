// Two reshapes to the same shape, or two copies of one kind, of the same value are one. A reshape of a reshape looks at the first value.
#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::infer {
namespace {

bool are_equal(const Graph& g, const Node& a, const Node& b) {
  if (a.op != b.op || a.in[0] != b.in[0]) return false;
  if (a.op == &op_reshape || a.op == &op_permute) return a.get<ShapeParams>().shape == b.get<ShapeParams>().shape;
  if (a.op != &op_copy) return false;
  const Value &x = g.value(a.out[0]), &y = g.value(b.out[0]);
  return a.get<CopyParams>().dtype == b.get<CopyParams>().dtype && a.get<CopyParams>().layout == b.get<CopyParams>().layout && x.inside < 0 && y.inside < 0 &&
         !g.is_output(a.out[0]) && !g.is_output(b.out[0]);
}

}  // namespace

void share_equal(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    if (g.node(k).op == &op_reshape)
      if (const int p = g.producer(g.node(k).in[0]); p >= 0 && g.node(p).op == &op_reshape) {
        const Shape &whole = g.value(g.node(p).in[0]).shape, &to = g.value(g.node(k).out[0]).shape, &between = g.value(g.node(k).in[0]).shape;
        if (whole.rank() > 0 && to.rank() > 0 && between.rank() > 0 && whole[0] == to[0] && between[0] == to[0])
          g.node(k).in[0] = g.node(p).in[0];  // the batch stays in front
      }
    for (int other = 0; other < k; ++other)
      if (are_equal(g, g.node(k), g.node(other))) {
        g.replace_uses(g.node(k).out[0], g.node(other).out[0]);
        g.nodes.erase(g.nodes.begin() + k--);
        break;
      }
  }
  remove_dead(g);
}

}  // namespace mien::infer
