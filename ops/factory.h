// New tensors. Random ones use Philox: the bits depend on seed and stream alone (tensor/generator.h).
#pragma once

#include "mien/tensor/generator.h"
#include "mien/tensor/tensor.h"

namespace mien {

struct FactoryOptions {
  DType dtype = DType::f32;
  Layout layout = Layout::contiguous;
  Generator* generator = nullptr;  // null: default_generator()
  Device device = {};                   // random integers and uniforms have the same bits on every device
};
Tensor zeros(const Shape& shape, FactoryOptions options = {});
Tensor ones(const Shape& shape, FactoryOptions options = {});
Tensor full(const Shape& shape, double value, FactoryOptions options = {});
Tensor arange(std::int64_t n, FactoryOptions options = {.dtype = DType::i64});  // 0 .. n-1
Tensor rand(const Shape& shape, FactoryOptions options = {});                   // uniform [0, 1)
Tensor uniform(const Shape& shape, double low, double high, FactoryOptions options = {});
Tensor randn(const Shape& shape, FactoryOptions options = {});                  // standard normal
Tensor normal(const Shape& shape, double mean, double std, FactoryOptions options = {});
Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape, FactoryOptions options = {.dtype = DType::i64});  // [low, high)
// 1 / (1 - p) with probability 1 - p, else 0: what dropout multiplies by.
Tensor dropout_mask(const Shape& shape, double p, FactoryOptions options = {});
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);

}  // namespace mien
