// LeNet as in "Dive into Deep Learning": 61,706 parameters for 28x28 pictures and 10 classes (LeCun et al., 1998, with sigmoid and average pooling).
#pragma once

#include "mien/layers/layers.h"

namespace mien {

class LeNet : public Module {
 public:
  LeNet();
  Tensor forward(const Tensor& x) const;  // [N, 1, 28, 28] -> logits [N, 10]
  void visit(Visitor& v) override;
  Conv2d conv1, conv2;
  Linear fc1, fc2, fc3;
};

}  // namespace mien
