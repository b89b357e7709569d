// A linear layer is a 1x1 convolution of a picture of one pixel. Where its input is a flattened map, in whatever order, the weights are put into the order
// in which a channels_last map lies in memory, so that flattening moves nothing.
#include <algorithm>
#include <optional>

#include "mien/infer/passes_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::infer {
namespace {

bool only_moves(const Node& n) { return n.op == &op_reshape || n.op == &op_permute || n.op == &op_copy; }

// The map that `v` is a rearrangement of, and which element of an image (in the order c, h, w) each feature is.
struct Flattened {
  int map;
  std::vector<std::int64_t> element;
};
std::optional<Flattened> flattened(const Graph& g, int v) {
  std::vector<int> chain;
  int map = v;
  for (int n = g.producer(map); n >= 0 && only_moves(g.node(n)); n = g.producer(map)) {
    chain.push_back(n);
    map = g.node(n).in[0];
    if (g.value(map).shape.rank() == 4) {  // the nearest map: those before it may be in any order
      const int before = g.producer(map);
      if (before < 0 || !only_moves(g.node(before))) break;
    }
  }
  const Shape& shape = g.value(map).shape;
  if (chain.empty() || shape.rank() != 4 || shape[0] < 1 || g.value(v).shape[0] != shape[0] || g.value(map).dtype != DType::f32) return {};
  // The same moves on the numbers of the elements tell where each comes from.
  Tensor t = reshape(arange(numel(shape), {.dtype = DType::f64}), shape);
  for (auto n = chain.rbegin(); n != chain.rend(); ++n) {
    const Node& node = g.node(*n);
    if (node.op == &op_permute) t = permute(t, node.get<ShapeParams>().shape);
    if (node.op == &op_reshape) t = reshape(t, node.get<ShapeParams>().shape);
  }
  const std::int64_t features = t.size(1), image = numel(shape) / shape[0];
  Flattened f{map, {}};
  const auto values = t.to_vector();
  for (std::int64_t i = 0; i < features; ++i) f.element.push_back(static_cast<std::int64_t>(values[static_cast<std::size_t>(i)]));
  const bool whole = features == image && std::all_of(f.element.begin(), f.element.end(), [&](std::int64_t e) { return e < image; });
  return whole ? std::optional(f) : std::nullopt;
}

Tensor reordered(const Tensor& weight, const Flattened& f, const Shape& map) {
  const std::int64_t outputs = weight.size(0), c = map[1], pixels = map[2] * map[3];
  const Tensor out = Tensor::empty({outputs, c * pixels, 1, 1});
  const Tensor dense = contiguous(weight);
  const float* from = dense.data<float>();
  for (std::int64_t o = 0; o < outputs; ++o)
    for (std::int64_t i = 0; i < c * pixels; ++i) {
      const std::int64_t e = f.element[static_cast<std::size_t>(i)], at = e % pixels * c + e / pixels;  // (c, pixel) -> (pixel, c)
      out.data<float>()[o * c * pixels + at] = from[o * c * pixels + i];
    }
  return out;
}

}  // namespace

void linear_to_conv(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node linear = g.node(k);
    if (linear.op != &op_linear || g.value(linear.in[0]).dtype != DType::f32) continue;
    if (!std::all_of(linear.in.begin() + 1, linear.in.end(), [&](int v) { return g.value(v).is_constant(); })) continue;
    const Tensor weight = g.value(linear.in[1]).constant;
    const std::int64_t n = g.value(linear.in[0]).shape[0];
    std::vector<Node> fresh;
    const auto add = [&](const Op& op, const Params& params, std::vector<int> in) {
      fresh.push_back(g.make_node(op, params, std::move(in)));
      return fresh.back().out[0];
    };
    int x = linear.in[0];
    Tensor w = reshape(weight, {weight.size(0), weight.size(1), 1, 1});
    if (const auto f = flattened(g, x)) {
      w = reordered(weight, *f, g.value(f->map).shape);
      x = add(op_permute, ShapeParams{{0, 2, 3, 1}}, {f->map});
    }
    x = add(op_reshape, ShapeParams{{n, weight.size(1), 1, 1}}, {x});
    std::vector<int> in{x, g.add_constant(w)};
    if (linear.in.size() > 2) in.push_back(linear.in[2]);
    const int y = add(op_reshape, ShapeParams{{n, weight.size(0)}}, {add(op_conv2d, ConvParams{}, in)});
    g.replace_uses(linear.out[0], y);
    g.nodes.erase(g.nodes.begin() + k);
    g.nodes.insert(g.nodes.begin() + k, fresh.begin(), fresh.end());
  }
  remove_dead(g);
}

}  // namespace mien::infer
