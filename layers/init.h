// Initial values, in place. fan_in = product of all sizes but the first, fan_out = size(0) * product of the sizes from 2 on.
#pragma once

#include "mien/tensor/generator.h"
#include "mien/tensor/tensor.h"

namespace mien::init {

void constant(const Tensor& t, double value);
void uniform(const Tensor& t, double low, double high, Generator* generator = nullptr);
void normal(const Tensor& t, double mean, double std, Generator* generator = nullptr);
void xavier_uniform(const Tensor& t, double gain = 1, Generator* generator = nullptr);  // Glorot and Bengio, 2010
void xavier_normal(const Tensor& t, double gain = 1, Generator* generator = nullptr);
// He et al., 2015; `slope` is the negative slope of the rectifier that follows.
void kaiming_uniform(const Tensor& t, double slope = 0, Generator* generator = nullptr);
void kaiming_normal(const Tensor& t, double slope = 0, Generator* generator = nullptr);
std::pair<std::int64_t, std::int64_t> fans(const Tensor& t);  // fan_in, fan_out; ShapeError below rank 2

// While one lives, `uniform` and `normal`, and what is made of them, leave tensors as their memory is, in this thread: for a net whose weights are loaded right
// after it was made. The generator moves on as if the numbers had been drawn.
class SkipRandom {
 public:
  SkipRandom() noexcept;
  ~SkipRandom();
  SkipRandom(const SkipRandom&) = delete;
  SkipRandom& operator=(const SkipRandom&) = delete;

 private:
  bool before_;
};

}  // namespace mien::init
