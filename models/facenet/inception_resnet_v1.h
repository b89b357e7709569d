// Inception-ResNet-v1: the net of FaceNet as it is used today. Blocks from Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and
// the impact of residual connections on learning", AAAI 2017; widths, scales and the embedding head from David Sandberg's facenet. 23,482,624
// parameters. Names of parameters as in facenet-pytorch, so that weights go both ways (docs/design/facenet-names.md).
//
// Pictures are RGB, (x - 127.5) / 128, 160x160 (at least 75x75).
//
//   InceptionResnetV1 net;
//   net.eval();
//   const Tensor embeddings = net.forward(faces);   // [N, 3, 160, 160] -> [N, 512], not yet of length 1
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "mien/layers/layers.h"
#include "mien/models/facenet/embedding_net.h"

namespace mien {

namespace inception {

// Convolution without bias, batch norm (eps .001), ReLU.
struct ConvSpec {
  std::int64_t out = 0;
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0};
};
class ConvNormRelu : public Module {
 public:
  ConvNormRelu(std::int64_t in, const ConvSpec& spec);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v) override;
  Conv2d conv;
  BatchNorm2d bn;
};

// Convolutions one after the other; none at all stands for the branch that only pools (maximum of 3x3, stride 2).
class Branch : public Module {
 public:
  Branch(std::int64_t in, const std::vector<ConvSpec>& specs);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v) override;
  std::int64_t out = 0;  // channels
  std::deque<ConvNormRelu> convs;
};

// Branches side by side over one input; their channels are concatenated in order.
class Mixed : public Module {
 public:
  Mixed(std::int64_t in, const std::vector<std::vector<ConvSpec>>& specs);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v) override;
  std::int64_t out = 0;  // channels
  std::deque<Branch> branches;
};

// relu(x + scale * conv1x1(mixed(x))); the net's last block leaves the ReLU out.
class Residual : public Module {
 public:
  Residual(std::int64_t channels, const std::vector<std::vector<ConvSpec>>& specs, double scale, bool rectify = true);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v) override;
  std::string label() const override;
  const double scale;
  const bool rectify;
  Mixed mixed;
  Conv2d conv2d;
};

class Repeat : public Module {
 public:
  Repeat(std::int64_t times, std::int64_t channels, const std::vector<std::vector<ConvSpec>>& specs, double scale);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v) override;
  std::deque<Residual> blocks;
};

}  // namespace inception

// The defaults are the published net. The last two make small ones of the same blocks (tests, toys).
struct InceptionResnetV1Options {
  std::int64_t embedding = 512;
  double dropout = .6;                             // probability of dropping, before the embedding
  std::int64_t classes = 0;                        // > 0: a linear layer `logits` behind the embedding
  std::array<std::int64_t, 3> repeats{5, 10, 5};   // of block35, block17, block8
  std::int64_t divisor = 1;                        // of every number of channels: 1, 2, 4, 8 or 16
};

class InceptionResnetV1 : public EmbeddingNet {
 public:
  explicit InceptionResnetV1(const InceptionResnetV1Options& options = {});  // ValueError names what is out of range
  // x [N, 3, H, W] -> [N, embedding]: after the last batch norm, before L2 normalisation. ShapeError for pictures below 75x75.
  Tensor forward(const Tensor& x) override;
  // [N, classes], from the embedding as `forward` returns it (not normalised). ValueError without classes.
  Tensor classify(const Tensor& embeddings) const;
  std::int64_t embedding_size() const override { return options.embedding; }
  Tensor& shift() override { return last_bn.bias; }
  void visit(Visitor& v) override;

  const InceptionResnetV1Options options;
  inception::ConvNormRelu conv2d_1a, conv2d_2a, conv2d_2b, conv2d_3b, conv2d_4a, conv2d_4b;
  inception::Repeat repeat_1;
  inception::Mixed mixed_6a;
  inception::Repeat repeat_2;
  inception::Mixed mixed_7a;
  inception::Repeat repeat_3;
  inception::Residual block8;
  Dropout dropout;
  Linear last_linear;
  BatchNorm2d last_bn;
  std::optional<Linear> logits;
};

}  // namespace mien
