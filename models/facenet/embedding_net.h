// What every face-embedding net is to the rest of mien: a module from aligned crops to embeddings, and the facts that a model file carries so that
// nobody has to remember how its input was made.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "mien/io/safetensors.h"
#include "mien/layers/module.h"

namespace mien {

class EmbeddingNet : public Module {
 public:
  // x [N, 3, H, W], RGB, normalised -> embeddings [N, D], before L2 normalisation. Not const: in training mode batch norm updates its statistics.
  virtual Tensor forward(const Tensor& x) = 0;
  virtual std::int64_t embedding_size() const = 0;
};

}  // namespace mien
