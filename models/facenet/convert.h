// Weights of Inception-ResNet-v1 under the names of other programs. The net's own names are facenet-pytorch's, so a model file is its own way back:
// its tensors are exactly those that load_state_dict(strict=True) takes there. convert_embedding_net() of embedding_net.h is what programs call.
#pragma once

#include <string>
#include <vector>

#include "mien/models/facenet/inception_resnet_v1.h"

namespace mien {

// The tensors of a state dict of facenet-pytorch (with or without logits, e.g. VGGFace2's 8,631 and CASIA-WebFace's 10,575 people) or of the TensorFlow
// variables of David Sandberg's facenet (docs/design/facenet-names.md), under this net's names, as f32. What is no weight is left out: counters of
// batches, optimizer slots, moving averages. A file with other names comes back as it is; loading it then names what does not fit.
TensorFile facenet_tensors(const TensorFile& input);

// What the tensors tell: sizes of embedding and head, repeats, divisor. IoError when the first or the last layer is absent or of an odd shape.
InceptionResnetV1Options inception_resnet_v1_options(const TensorFile& file, const std::string& name = "the file");

// The TensorFlow variable of each tensor of the net; empty for the weight of a batch norm, which is 1 there. Convolutions are HWIO there, dense
// layers [in, out].
struct FacenetName {
  std::string name, variable;
};
std::vector<FacenetName> facenet_names(InceptionResnetV1& net);

}  // namespace mien
