#include "mien/models/mobilefacenet/mobilefacenet.h"

#include <cmath>

#include "mien/layers/init.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

// Table 1 of the paper: expansion t, channels c, repeats n, stride s of the first.
struct Row {
  std::int64_t t, c, n, s;
};
constexpr Row table[] = {{2, 64, 5, 2}, {4, 128, 1, 2}, {2, 128, 6, 1}, {4, 128, 1, 2}, {2, 128, 2, 1}};

constexpr Padding4 pad1{1, 1, 1, 1};

MobileFaceNetOptions checked(const MobileFaceNetOptions& o) {
  if (o.height < 16 || o.width < 16 || o.height % 16 || o.width % 16 || o.size < 1)
    throw ValueError("MobileFaceNet", "expects a height and width that are multiples of 16 and an embedding of at least 1 value, got " + std::to_string(o.height) + "x" +
                                          std::to_string(o.width) + " and " + std::to_string(o.size));
  return o;
}

}  // namespace

MobileFaceNet::Unit::Unit(const ConvOptions& c, bool linear)
    : conv([&] {
        ConvOptions without_bias = c;
        without_bias.bias = false;
        return without_bias;
      }()),
      bn({.channels = c.out}), prelu(linear ? nullptr : std::make_unique<PReLU>(c.out)) {}
Tensor MobileFaceNet::Unit::forward(const Tensor& x) {
  const Tensor y = conv(x);
  return prelu ? bn.with_prelu(y, *prelu) : bn(y);
}
void MobileFaceNet::Unit::visit(Visitor& v) {
  v("conv", conv);
  v("bn", bn);
  if (prelu) v("prelu", *prelu);
}

MobileFaceNet::Bottleneck::Bottleneck(std::int64_t in, std::int64_t out, std::int64_t stride, std::int64_t expansion)
    : widen({.in = in, .out = in * expansion}, false),
      depthwise({.in = in * expansion, .out = in * expansion, .kernel = {3, 3}, .stride = {stride, stride}, .padding = pad1, .groups = in * expansion}, false),
      project({.in = in * expansion, .out = out}, true), shortcut(stride == 1 && in == out) {}
Tensor MobileFaceNet::Bottleneck::forward(const Tensor& x) {
  if (training()) return forward({x, {}, {}}, nullptr);
  const Tensor y = project.forward(depthwise.forward(widen.forward(x)));
  return shortcut ? add(x, y) : y;
}
// While training, maps go from convolution to convolution without their norms.
Tensor MobileFaceNet::Bottleneck::forward(const MomentMap& x, Unit* before) {
  const MomentMap wide = before ? before->bn.then(x, before->prelu.get(), widen.conv) : norm_conv(x, {}, widen.conv.weight);
  const MomentMap deep = widen.bn.then(wide, widen.prelu.get(), depthwise.conv);
  const MomentMap narrow = depthwise.bn.then(deep, depthwise.prelu.get(), project.conv);
  return project.bn.then_add(narrow, shortcut && !before ? x.map : Tensor());
}
void MobileFaceNet::Bottleneck::visit(Visitor& v) {  // numbered as in a Sequential
  v("conv.0", widen.conv);
  v("conv.1", widen.bn);
  v("conv.2", *widen.prelu);
  v("conv.3", depthwise.conv);
  v("conv.4", depthwise.bn);
  v("conv.5", *depthwise.prelu);
  v("conv.6", project.conv);
  v("conv.7", project.bn);
}

MobileFaceNet::MobileFaceNet(const MobileFaceNetOptions& o)
    : options(checked(o)), conv1_({.in = 3, .out = 64, .kernel = {3, 3}, .stride = {2, 2}, .padding = pad1}, false),
      dw_conv1_({.in = 64, .out = 64, .kernel = {3, 3}, .padding = pad1, .groups = 64}, false), conv2_({.in = 128, .out = 512}, false),
      linear7_({.in = 512, .out = 512, .kernel = {o.height / 16, o.width / 16}, .groups = 512}, true), dropout_(o.dropout), linear1_({.in = 512, .out = o.size}, true) {
  std::int64_t in = 64;
  for (const Row& row : table)
    for (std::int64_t k = 0; k < row.n; ++k) {
      blocks_.emplace_back(in, row.c, k == 0 ? row.s : 1, row.t);
      in = row.c;
    }
  // Variance 2 / fan_out, as Xiaoccer's training starts; batch norm makes the scale a matter of the first steps only.
  for (auto& p : parameters())
    if (p.value.rank() == 4) init::normal(p.value, 0, std::sqrt(2.0 / static_cast<double>(p.value.size(0) * p.value.size(2) * p.value.size(3))));
}

Tensor MobileFaceNet::forward(const Tensor& x) {
  if (x.rank() != 4 || x.size(1) != 3 || x.size(2) != options.height || x.size(3) != options.width)
    throw ShapeError("MobileFaceNet", "expects [N, 3, " + std::to_string(options.height) + ", " + std::to_string(options.width) + "], got " + describe(x));
  Tensor h = conv1_.forward(channels_last(x));
  if (training()) h = blocks_[0].forward(norm_conv({h, {}, {}}, {}, dw_conv1_.conv.weight, dw_conv1_.conv.params()), &dw_conv1_);
  else h = blocks_[0].forward(dw_conv1_.forward(h));
  for (std::size_t i = 1; i < blocks_.size(); ++i) h = blocks_[i].forward(h);
  h = linear7_.forward(conv2_.forward(h));
  return flatten(linear1_.forward(dropout_(h)), 1);
}

void MobileFaceNet::visit(Visitor& v) {
  v("conv1", conv1_);
  v("dw_conv1", dw_conv1_);
  for (std::size_t i = 0; i < blocks_.size(); ++i) v("blocks." + std::to_string(i), blocks_[i]);
  v("conv2", conv2_);
  v("linear7", linear7_);
  v("dropout", dropout_);
  v("linear1", linear1_);
}

}  // namespace mien
