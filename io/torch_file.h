// Weights of other programs, read without running anything they contain.
#pragma once

#include <string>
#include <vector>

#include "mien/io/safetensors.h"

namespace mien {

// PyTorch's .pt/.pth: the zip form and the legacy form. An opcode reader with an allow-list stands in for pickle: whatever is not a tensor of a
// plain storage is kept as an inert value and dropped. Nested dicts become names joined by '.'.
TensorFile load_torch(const std::string& path);

// numpy's .npy (versions 1-3, either order) and .npz (stored or deflated). Arrays of objects (pickle) are refused with the remedy.
// Integer types that mien has not become i64, half becomes f16. Text ("<U7") becomes i32 code points with one more dimension, padded with zeros.
// The tensor of a .npy is called by its file's stem.
TensorFile load_npy(const std::string& path);
TensorFile load_npz(const std::string& path);
void save_npy(const std::string& path, const Tensor& tensor);

// Any of these or safetensors, told apart by content.
TensorFile load_tensors(const std::string& path);

}  // namespace mien
