// Training needs to know which pixel won a maximum, inference doesn't: the second output of max_pool2d goes, and so does that of max_pool2d_with_indices if nobody
// reads it.
#include "mien/infer/passes_impl.h"
#include "mien/ops/table.h"

namespace mien::infer {

void drop_indices(Graph& g) {
  for (auto& n : g.nodes) {
    if ((n.op != &op_max_pool2d && n.op != &op_max_pool2d_with_indices) || n.out.size() != 2 || !g.users(n.out[1]).empty() || g.is_output(n.out[1])) continue;
    n.op = &op_max_pool2d;
    n.out.pop_back();
  }
}

}  // namespace mien::infer
