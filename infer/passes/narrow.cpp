// bf16: a convolution whose output is cast right away writes bf16 itself. A concat before a cast concatenates what was cast, and a max pooling pools it: the
// largest of rounded values is the largest value rounded.
#include <algorithm>

#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

bool is_cast(const Graph& g, const Node& n) { return n.op == &op_copy && g.value(n.in[0]).dtype == DType::f32 && g.value(n.out[0]).dtype == DType::bf16; }

std::vector<int> casts_of(const Graph& g, int v) {
  std::vector<int> found;
  for (const int n : g.users(v))
    if (is_cast(g, g.node(n))) found.push_back(n);
  return found;
}

// Replaces the casts of v by `narrow`, and what else reads v by a cast of `narrow` back to f32.
void redirect(Graph& g, int v, int narrow, int at) {
  auto casts = casts_of(g, v);
  std::sort(casts.rbegin(), casts.rend());
  for (const int n : casts) {
    g.replace_uses(g.node(n).out[0], narrow);
    g.nodes.erase(g.nodes.begin() + n);
  }
  if (g.users(v).empty() && !g.is_output(v)) return;
  const Node back = g.make_node(op_copy, CopyParams{DType::f32, Layout::channels_last}, {narrow});
  g.replace_uses(v, back.out[0]);
  g.nodes.insert(g.nodes.begin() + at + 1, back);
}

}  // namespace

void narrow(Graph& g) {
  for (int k = g.node_count() - 1; k >= 0; --k) {
    const Node n = g.node(k);
    if (n.op == &op_concat && n.get<DimParams>().dim == 1 && !casts_of(g, n.out[0]).empty()) {
      std::vector<Node> fresh;
      Node concat = n;
      for (int& v : concat.in) {
        fresh.push_back(g.make_node(op_copy, CopyParams{DType::bf16, Layout::channels_last}, {v}));
        v = fresh.back().out[0];
      }
      fresh.push_back(g.make_node(op_concat, concat.params, concat.in));
      const int wide = fresh.back().out[0];
      g.nodes.erase(g.nodes.begin() + k);
      g.nodes.insert(g.nodes.begin() + k, fresh.begin(), fresh.end());
      k += static_cast<int>(fresh.size()) - 1;
      redirect(g, n.out[0], wide, k);
    } else if (n.op == &op_max_pool2d && n.out.size() == 1 && !casts_of(g, n.out[0]).empty()) {
      const Node cast = g.make_node(op_copy, CopyParams{DType::bf16, Layout::channels_last}, {n.in[0]});
      Node pool = g.make_node(op_max_pool2d, n.params, cast.out);
      pool.out.resize(1);
      g.node(k) = pool;
      g.nodes.insert(g.nodes.begin() + k++, cast);
      redirect(g, n.out[0], pool.out[0], k);
    } else if (n.op == &op_packed_conv2d && g.value(n.in[0]).dtype == DType::bf16) {
      // All outputs of siblings have one dtype.
      auto params = n.get<PackedConvOpParams>();
      if (params.y_dtype == DType::bf16 || std::none_of(n.out.begin(), n.out.end(), [&](int v) { return !casts_of(g, v).empty(); })) continue;
      params.y_dtype = DType::bf16;
      const Node half = g.make_node(op_packed_conv2d, params, n.in);
      g.node(k) = half;
      for (std::size_t i = 0; i < n.out.size(); ++i) redirect(g, n.out[i], half.out[i], k);
    }
  }
  share_equal(g);
}

}  // namespace mien::infer
