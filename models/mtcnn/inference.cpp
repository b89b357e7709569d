#include "mien/models/mtcnn/inference.h"

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/shape.h"
#include "mien/ops/view.h"

namespace mien::mtcnn {
namespace {

Tensor own(const Tensor& t) { return clone(t.detach()); }

// A dense layer over a map of `side` x `side`, whose columns are in the order (width, height, channel), is a convolution as large as the map.
Tensor as_kernel(const Linear& dense, std::int64_t side) {
  const std::int64_t outputs = dense.weight.size(0), channels = dense.weight.size(1) / (side * side);
  return permute(reshape(dense.weight, {outputs, side, side, channels}), {0, 3, 2, 1});
}

ConvChainWeights packed(const Tensor& weight, const Tensor& bias, const PReLU* prelu) {
  return {pack_conv_weights(weight), own(bias), prelu ? own(prelu->weight) : Tensor{}};
}
ConvChainWeights packed(const Conv2d& conv, const PReLU& prelu) { return packed(conv.weight, conv.bias, &prelu); }

// Dense layers that read the same features, as one layer.
ConvChainWeights packed_heads(std::initializer_list<const Linear*> heads) {
  std::vector<Tensor> weights, biases;
  for (const Linear* h : heads) {
    weights.push_back(as_kernel(*h, 1));
    biases.push_back(h->bias);
  }
  return packed(concat(weights, 0), concat(biases, 0), nullptr);
}

}  // namespace

Inference::Inference(const Mtcnn& nets, Device device) : device_(device) {
  const NoGrad guard;
  const PNet& p = nets.pnet;
  const RNet& r = nets.rnet;
  const ONet& o = nets.onet;
  pnet_ = {p.conv1.weight, p.conv1.bias, p.prelu1.weight, p.conv2.weight,   p.conv2.bias,   p.prelu2.weight, p.conv3.weight,
           p.conv3.bias,   p.prelu3.weight, p.conv4_1.weight, p.conv4_1.bias, p.conv4_2.weight, p.conv4_2.bias};
  rnet_.weights = {packed(r.conv1, r.prelu1), packed(r.conv2, r.prelu2), packed(r.conv3, r.prelu3), packed(as_kernel(r.dense4, 3), r.dense4.bias, &r.prelu4),
                   packed_heads({&r.dense5_1, &r.dense5_2})};
  rnet_.layers = {{.channels = 28, .kernel = 3, .pool = 3, .prelu = true}, {.channels = 48, .kernel = 3, .pool = 3, .prelu = true},
                  {.channels = 64, .kernel = 2, .prelu = true}, {.channels = 128, .kernel = 3, .prelu = true}, {.channels = 6}};
  onet_.weights = {packed(o.conv1, o.prelu1), packed(o.conv2, o.prelu2), packed(o.conv3, o.prelu3), packed(o.conv4, o.prelu4),
                   packed(as_kernel(o.dense5, 3), o.dense5.bias, &o.prelu5), packed_heads({&o.dense6_1, &o.dense6_2, &o.dense6_3})};
  onet_.layers = {{.channels = 32, .kernel = 3, .pool = 3, .prelu = true}, {.channels = 64, .kernel = 3, .pool = 3, .prelu = true},
                  {.channels = 64, .kernel = 3, .pool = 2, .prelu = true}, {.channels = 128, .kernel = 2, .prelu = true},
                  {.channels = 256, .kernel = 3, .prelu = true}, {.channels = 16}};
  for (Tensor& t : pnet_) t = to(own(t), device);
  for (Chain* net : {&rnet_, &onet_})
    for (auto& w : net->weights) w = {to(w.weight, device), to(w.bias, device), w.slope.defined() ? to(w.slope, device) : w.slope};
}

Tensor Inference::run(const Tensor& x, const Chain& net) { return flatten(conv_chain(x, net.weights, net.layers), 1); }

}  // namespace mien::mtcnn
