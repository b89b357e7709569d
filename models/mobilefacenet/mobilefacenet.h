// MobileFaceNet (Chen et al., "MobileFaceNets: efficient CNNs for accurate real-time face verification on mobile devices", CCBR 2018).
//
// Two forms with one table of bottlenecks: 112x96 crops, 128 values, 999,552 parameters (Xiaoccer's PyTorch weights), and any other size of
// crop and embedding (112x112 and 512: the form that benchmarks use). Convolutions have no bias; batch norm (eps 1e-5) after each; PReLU where the
// paper has no linear layer. Names of layers as in Xiaoccer's state dict.
#pragma once

#include <deque>

#include "mien/layers/layers.h"
#include "mien/models/facenet/embedding_net.h"

namespace mien {

struct MobileFaceNetOptions {
  std::int64_t height = 112, width = 96;  // multiples of 16
  std::int64_t size = 128;                // of the embedding
  double dropout = 0;                     // before the last convolution, while training
};

class MobileFaceNet : public EmbeddingNet {
 public:
  explicit MobileFaceNet(const MobileFaceNetOptions& options = {});  // ValueError for sizes that are no multiples of 16
  Tensor forward(const Tensor& x) override;                          // ShapeError unless [N, 3, height, width]
  std::int64_t embedding_size() const override { return options.size; }
  Tensor& shift() override { return linear1_.bn.bias; }
  void visit(Visitor& v) override;

  // Convolution, batch norm and, unless linear, PReLU.
  struct Unit : Module {
    Unit(const ConvOptions& conv_options, bool linear);
    Tensor forward(const Tensor& x);
    void visit(Visitor& v) override;
    Conv2d conv;
    BatchNorm2d bn;
    std::unique_ptr<PReLU> prelu;
  };
  // 1x1 to t times the channels, depthwise 3x3 with the stride, 1x1 linear; plus x when neither size nor channels change.
  struct Bottleneck : Module {
    Bottleneck(std::int64_t in, std::int64_t out, std::int64_t stride, std::int64_t expansion);
    Tensor forward(const Tensor& x);
    Tensor forward(const MomentMap& x, Unit* before);  // training, no shortcut: x before the norm and the PReLU of `before`
    void visit(Visitor& v) override;
    Unit widen, depthwise, project;
    const bool shortcut;
  };

  const MobileFaceNetOptions options;

 private:
  Unit conv1_, dw_conv1_;
  std::deque<Bottleneck> blocks_;  // a deque: modules don't move
  Unit conv2_, linear7_;
  Dropout dropout_;
  Unit linear1_;
};

}  // namespace mien
