// The three nets of MTCNN (Zhang et al., "Joint face detection and alignment using multi-task cascaded convolutional networks", IEEE SPL 2016).
// Parameters: P-Net 6,632, R-Net 100,178, O-Net 389,040. Names of layers as in facenet-pytorch, so that weights go both ways.
//
// Pictures are RGB, (x - 127.5) / 128. Max pooling rounds up. The authors trained on transposed pictures: the dense layers take their
// input in the order (width, height, channel).
#pragma once

#include "mien/io/safetensors.h"
#include "mien/layers/layers.h"

namespace mien {

// logits [N, 2, ...]: no face, face (before softmax). boxes [N, 4, ...]: offsets of x1 y1 x2 y2. points [N, 10]: x1..x5 y1..y5; O-Net only.
struct MtcnnOutput {
  Tensor logits, boxes, points;
};

class PNet : public Module {  // fully convolutional: 12x12 -> 1x1, stride 2
 public:
  PNet();
  MtcnnOutput maps(const Tensor& x) const;     // [N, 3, H, W] -> [N, 2, h, w], [N, 4, h, w]
  MtcnnOutput forward(const Tensor& x) const;  // [N, 3, 12, 12] -> [N, 2], [N, 4]: training crops
  void visit(Visitor& v) override;
  Conv2d conv1, conv2, conv3, conv4_1, conv4_2;
  PReLU prelu1, prelu2, prelu3;
};

class RNet : public Module {  // [N, 3, 24, 24]
 public:
  RNet();
  MtcnnOutput forward(const Tensor& x) const;
  void visit(Visitor& v) override;
  Conv2d conv1, conv2, conv3;
  PReLU prelu1, prelu2, prelu3, prelu4;
  Linear dense4, dense5_1, dense5_2;
};

class ONet : public Module {  // [N, 3, 48, 48]
 public:
  ONet();
  MtcnnOutput forward(const Tensor& x) const;
  void visit(Visitor& v) override;
  Conv2d conv1, conv2, conv3, conv4;
  PReLU prelu1, prelu2, prelu3, prelu4, prelu5;
  Linear dense5, dense6_1, dense6_2, dense6_3;
  double dropout = 0;  // before the last activation, while training (the authors used .25)
};

struct Mtcnn {
  PNet pnet;
  RNet rnet;
  ONet onet;

  // Tensors pnet.*, rnet.*, onet.* and the metadata that the detector reads. IoError/ValueError name what is missing, unexpected or mis-shaped,
  // and values that are not finite.
  TensorFile to_file();
  void load(const TensorFile& file, const std::string& name = "the file");
};

// Reads weights of other programs: state dicts of the three nets, whose names may carry the prefixes above or none (then shapes tell which net
// it is). Names every missing, unexpected and mis-shaped tensor.
TensorFile convert_mtcnn(const std::vector<TensorFile>& parts, const std::string& source = "the input");

}  // namespace mien
