// Mixed precision: convolutions, matmul and linear in 16 bits, weights and losses in f32.
//
//   Autocast guard(DType::bf16);                  // for this thread, while it lives
//   Tensor loss = cross_entropy(net.forward(x), y);
//   backward(loss);                               // gradients of f32 weights are f32
//
// As torch.autocast: conv2d, norm_conv, linear and matmul cast their f32 operands (the cast is recorded, so gradients come back in f32); batch norm, activations
// and pools go on in the dtype they get, with f32 statistics and parameters; cross_entropy casts its logits to f32. Sums are f32 throughout. Weights stay as they
// are: there is one copy, in f32. f16 has a short range of exponents: scale its loss (optim/loss_scaler.h).
// On a CPU that multiplies tiles (level amx) bf16 does so for the maps of conv2d with one group: they are stored in 16 bits, their weights' gradients in f32.
// norm_conv, linear and matmul stay f32 there, set_matmul_precision() is their switch. On other CPUs, and with f16, it changes nothing.
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
// For an operand that is cast on a GPU and stays f32 on the CPU: x in the autocast dtype where x is f32 on a GPU, in f32 where it has 16 bits on the CPU, else
// x itself. Undefined stays undefined.
Tensor autocast(const Tensor& x);
// For the map of a convolution: as autocast() on a GPU; on the CPU bf16 where `tiles`, x f32 and the guard and the machine say so, else x itself.
Tensor autocast_map(const Tensor& x, bool tiles);

}  // namespace mien
