// A scale and shift per channel (batch norm in eval mode) or for all (conv * s) behind a convolution or linear layer goes into its weights and bias:
// (w x + b) * s + t = (s w) x + (s b + t), worked out in double and rounded once.
#include "mien/infer/passes_impl.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

bool is_affine(const Node& n) { return n.op == &op_unary && n.get<UnaryParams>().kind == UnaryKind::affine; }

// Scale and shift of channel c.
std::pair<double, double> factors(const Graph& g, const Node& n, std::int64_t c) {
  if (is_affine(n)) return {n.get<UnaryParams>().a, n.get<UnaryParams>().b};
  const auto at = [&](int v) { return static_cast<double>(g.value(v).constant.data<float>()[c * g.value(v).strides[0]]); };
  return {at(n.in[1]), at(n.in[2])};
}

bool takes(const Graph& g, const Node& n) {
  if (n.op != &op_conv2d && n.op != &op_linear) return false;
  for (std::size_t i = 1; i < n.in.size(); ++i)
    if (!g.value(n.in[i]).is_constant() || g.value(n.in[i]).dtype != DType::f32) return false;
  return true;
}

// The call with `scale`'s factors in its constants.
void fold(Graph& g, Node& n, const Node& scale) {
  const Tensor w = contiguous(g.value(n.in[1]).constant), b = n.in.size() > 2 ? contiguous(g.value(n.in[2]).constant) : Tensor();
  const Tensor weight = Tensor::empty(w.shape()), bias = Tensor::empty({w.size(0)});
  const std::int64_t each = w.numel() / w.size(0);
  for (std::int64_t o = 0; o < w.size(0); ++o) {
    const auto [s, t] = factors(g, scale, o);
    const float* from = w.data<float>() + o * each;
    float* to = weight.data<float>() + o * each;
    for (std::int64_t i = 0; i < each; ++i) to[i] = static_cast<float>(s * static_cast<double>(from[i]));
    bias.data<float>()[o] = static_cast<float>((b.defined() ? s * static_cast<double>(b.data<float>()[o]) : 0) + t);
  }
  const int before = n.in[1];
  n.in = {n.in[0], g.add_constant(weight), g.add_constant(bias)};
  g.forget_unread(before);
}

}  // namespace

void fold_scale(Graph& g) {
  for (int k = 0; k < g.node_count(); ++k) {
    const Node scale = g.node(k);
    const bool per_channel = scale.op == &op_channel_affine && g.value(scale.in[1]).is_constant() && g.value(scale.in[2]).is_constant();
    if (!per_channel && !is_affine(scale)) continue;
    const int p = g.producer(scale.in[0]);
    if (p < 0 || !takes(g, g.node(p)) || g.only_user(scale.in[0]) != k) continue;
    fold(g, g.node(p), scale);
    g.replace_uses(scale.out[0], scale.in[0]);
    g.nodes.erase(g.nodes.begin() + k--);
  }
}

}  // namespace mien::infer
