// Which images run together, and through which part of the net.
//
// Note [By image first, by group later]
// Early maps are large and their weights few: an image runs alone through that part, so that its maps stay in the second-level cache. Late weights are many
// and the maps small: there a group of images runs call by call, so that the weights come through the cache once a group. (Inception-ResNet-v1 at 160x160:
// 8 MB of weights and maps of 1.5 MB before the first reduction, 90 MB of weights and maps of 60 KB and less after it.)
#include <algorithm>
#include <limits>

#include "mien/infer/plan_impl.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::infer {
namespace {

constexpr std::int64_t largest_group = 16;
constexpr std::int64_t cache_bytes = std::int64_t{3} << 19;  // 1.5 MiB: what a second-level cache of 1 to 2 MiB holds beside the code's own needs

bool keeps_images(const Graph& g, const Node& n) {
  const Op& op = *n.op;
  const auto batch = [&](int v) { return g.value(v).shape.rank() > 0 ? g.value(v).shape[0] : -1; };
  if (&op == &op_unary || &op == &op_copy || &op == &op_conv2d || &op == &op_conv_block || &op == &op_prelu || &op == &op_channel_affine ||
      &op == &op_linear || &op == &op_max_pool2d || &op == &op_avg_pool2d || &op == &op_adaptive_avg_pool2d || &op == &op_resize_bilinear)
    return std::all_of(n.in.begin() + 1, n.in.end(), [&](int v) { return g.value(v).is_constant(); });
  if (&op == &op_binary) {  // a constant may not differ from image to image
    const int rank = g.value(n.out[0]).shape.rank();
    return std::all_of(n.in.begin(), n.in.end(), [&](int v) {
      const Value& x = g.value(v);
      return x.is_constant() ? x.shape.rank() < rank || x.shape[0] == 1 : x.shape.rank() == rank;
    });
  }
  const auto constant = [&](int v) { return g.value(v).is_constant(); };
  if (&op == &op_concat) return n.get<DimParams>().dim != 0 && std::none_of(n.in.begin(), n.in.end(), constant);
  if (&op == &op_residual) return std::none_of(n.in.begin(), n.in.end(), constant);
  if (&op == &op_packed_conv2d) return true;
  if (&op == &op_softmax) return n.get<SoftmaxParams>().dim != 0;
  if (&op == &op_slice) return n.get<SliceParams>().dim != 0;
  if (&op == &op_permute) return n.get<ShapeParams>().shape[0] == 0;
  if (&op == &op_reshape) return g.value(n.out[0]).shape.rank() > 0 && batch(n.in[0]) == batch(n.out[0]);
  return false;
}

}  // namespace

bool by_image(const Graph& g) {
  for (const auto* side : {&g.inputs, &g.outputs})
    for (const int v : *side)
      if (g.value(v).shape.rank() == 0 || g.value(v).shape[0] != g.value(g.inputs[0]).shape[0]) return false;
  return std::all_of(g.nodes.begin(), g.nodes.end(), [&](const Node& n) { return keeps_images(g, n); });
}

// The traffic beyond the cache for one image of a full group, for every cut; the smallest wins, of equals the earliest.
int choose_cut(const Graph& g, const Sizes& image) {
  const int count = g.node_count();
  std::vector<std::int64_t> weights(static_cast<std::size_t>(count)), maps(static_cast<std::size_t>(count));
  for (int n = 0; n < count; ++n) {
    if (is_view(g.node(n))) continue;
    const auto k = static_cast<std::size_t>(n);
    for (const int v : g.node(n).in) {
      if (g.value(v).is_constant())
        weights[k] += g.value(v).constant.numel() * item_size(g.value(v).dtype);
      else
        maps[k] += image.values[static_cast<std::size_t>(v)].bytes();
    }
    for (const int v : g.node(n).out) maps[k] += image.values[static_cast<std::size_t>(v)].bytes();
  }
  // Alone: weights that don't fit beside the largest maps come anew with every image. In a group: maps that don't fit all together go out and in.
  const auto alone = [&](int cut) {
    std::int64_t all = 0, largest = 0;
    for (std::size_t k = 0; k < static_cast<std::size_t>(cut); ++k) {
      all += weights[k];
      largest = std::max(largest, maps[k]);
    }
    return all + largest > cache_bytes ? all : 0;
  };
  std::vector<std::int64_t> together(static_cast<std::size_t>(count) + 1);
  for (int n = count - 1; n >= 0; --n) {
    const auto k = static_cast<std::size_t>(n);
    together[k] = together[k + 1] + weights[k] / largest_group + (largest_group * maps[k] > cache_bytes ? maps[k] : 0);
  }
  int best = 0;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (int cut = 0; cut <= count; ++cut)
    if (const std::int64_t bytes = alone(cut) + together[static_cast<std::size_t>(cut)]; bytes < least) {
      least = bytes;
      best = cut;
    }
  return best;
}

std::int64_t group_size(std::int64_t n, int threads) { return std::clamp<std::int64_t>((n + threads - 1) / threads, 1, largest_group); }

std::vector<Shape> with_batch(std::span<const Shape> shapes, std::int64_t n) {
  std::vector<Shape> out(shapes.begin(), shapes.end());
  for (auto& s : out) s[0] = n;
  return out;
}

}  // namespace mien::infer
