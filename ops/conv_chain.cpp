#include "mien/ops/conv_chain.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

constexpr const char* op = "conv_chain";

void infer(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const ConvChainParams*>(params);
  check_rank(op, "the input", in[0], 4);
  check_floating(op, in[0]);
  check_same_dtype(op, in);
  Shape now = in[0].shape();
  std::size_t operand = 1;
  for (std::size_t i = 0; i < static_cast<std::size_t>(p.layers); ++i) {
    const ChainLayer& l = p.layer[i];
    const std::string layer = "layer " + std::to_string(i);
    if (l.channels < 1 || l.kernel < 1 || l.pool < 0) throw ValueError(op, layer + " needs channels, a kernel and a pool that are not negative");
    if (now[2] < l.kernel || now[3] < l.kernel) throw ShapeError(op, layer + " has a kernel of " + std::to_string(l.kernel) + ", its map is " + to_string(now));
    const Tensor &w = in[operand], &b = in[operand + 1];
    const Shape packed{(l.channels + packed_columns - 1) / packed_columns, l.kernel * l.kernel * now[1], packed_columns};
    if (w.shape() != packed) throw ShapeError(op, layer + " expects packed weights " + to_string(packed) + ", got " + describe(w));
    if (b.shape() != Shape{l.channels}) throw ShapeError(op, layer + " expects a bias [" + std::to_string(l.channels) + "], got " + describe(b));
    if (l.prelu && in[operand + 2].shape() != Shape{l.channels})
      throw ShapeError(op, layer + " expects a slope [" + std::to_string(l.channels) + "], got " + describe(in[operand + 2]));
    operand += l.prelu ? 3 : 2;
    now = {now[0], l.channels, now[2] - l.kernel + 1, now[3] - l.kernel + 1};
    if (l.pool) now = {now[0], now[1], pooled_side(now[2], l.pool), pooled_side(now[3], l.pool)};
  }
  out.push_back({now, in[0].dtype(), Layout::contiguous});
}

}  // namespace

constinit const Op op_conv_chain{.name = op, .infer = infer, .kernels = {&ref::conv_chain_entry, &KernelTable::conv_chain}};

Tensor conv_chain(const Tensor& x, std::span<const ConvChainWeights> weights, std::span<const ChainLayer> layers) {
  if (layers.empty() || layers.size() > static_cast<std::size_t>(max_chain_layers) || layers.size() != weights.size())
    throw ValueError(op, "expects 1 to " + std::to_string(max_chain_layers) + " layers with weights, got " + std::to_string(layers.size()) + " layers and " +
                             std::to_string(weights.size()) + " weights");
  ConvChainParams p;
  std::vector<Tensor> in{x};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].prelu != weights[i].slope.defined()) throw ValueError(op, "layer " + std::to_string(i) + " needs a slope if and only if it has a PReLU");
    p.layer[i] = layers[i];
    in.push_back(weights[i].weight);
    in.push_back(weights[i].bias);
    if (layers[i].prelu) in.push_back(weights[i].slope);
  }
  p.layers = static_cast<int>(layers.size());
  return apply(op_conv_chain, in, p);
}

}  // namespace mien
