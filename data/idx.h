// The idx format of MNIST and Fashion-MNIST, plain or gzip (http://yann.lecun.com/exdb/mnist: big-endian 00 00 type rank, sizes, values).
#pragma once

#include <string>

#include "mien/tensor/tensor.h"

namespace mien {

// u8 tensors only (type 08). IoError names what is wrong: missing file, bad magic, size that doesn't fit the header.
Tensor read_idx(const std::string& path);

// Images u8 [N, 28, 28] and labels u8 [N] of a folder that holds the four usual files, with or without .gz.
struct LabelledImages {
  Tensor images, labels;
};
LabelledImages read_mnist(const std::string& folder, bool train);

}  // namespace mien
