// Mixed precision: convolutions, matmul and linear in 16 bits, weights and losses in f32.
//
//   Autocast guard(DType::bf16);                  // on a GPU, for this thread, while it lives
//   Tensor loss = cross_entropy(net.forward(x), y);
//   backward(loss);                               // gradients of f32 weights are f32
//
// As torch.autocast: conv2d, norm_conv, linear and matmul cast their f32 operands (the cast is recorded, so gradients come back in f32); batch norm, activations
// and pools go on in the dtype they get, with f32 statistics and parameters; cross_entropy casts its logits to f32. Sums are f32 throughout. Weights stay as they
// are: there is one copy, in f32. f16 has a short range of exponents: scale its loss (optim/loss_scaler.h). On the CPU it changes nothing: there
// set_matmul_precision() is the switch.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

class Autocast {
 public:
  explicit Autocast(DType dtype);  // bf16, f16, or f32 for none; ValueError otherwise
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  DType before_;
};

DType autocast_dtype() noexcept;  // of this thread; f32 for none
// x in the autocast dtype where x is f32 on a GPU, else x itself. Undefined stays undefined.
Tensor autocast(const Tensor& x);

}  // namespace mien
