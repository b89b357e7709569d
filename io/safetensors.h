// The safetensors format: 8 bytes header length, a JSON header, tensors back to back (https://github.com/huggingface/safetensors). It holds no
// code. A reader validates everything before it allocates; memory is at most the file plus its header.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

struct TensorFile {
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<std::string, Tensor>> tensors;  // in file order
  const Tensor* find(const std::string& name) const;    // null when absent
};

// Files that mien wrote carry a CRC-32C per tensor and one over names, shapes and metadata ("mien.crc32c.*"): any changed bit is refused, by
// tensor name. Files without are taken as they are. IoError names the file, the tensor and what is wrong.
TensorFile load_safetensors(const std::string& path);
TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& name);

// Atomic: see io/file.h. Tensors are written contiguous in logical order, little-endian.
void save_safetensors(const std::string& path, const TensorFile& file);
std::vector<std::byte> to_safetensors(const TensorFile& file);
// IoError names the tensor that holds a NaN or an infinity: weights of a training that diverged.
void check_finite(const TensorFile& file, const std::string& name);

}  // namespace mien
