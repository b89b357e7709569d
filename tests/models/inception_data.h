// Weights and pictures of tools/oracle_facenet.py, made on this side.
#pragma once

#include "mien/models/facenet/inception_resnet_v1.h"
#include "mien/ops/binary.h"
#include "mien/ops/factory.h"
#include "models/parity.h"

namespace mien::test {

// As hashed(), without its regular steps: mixed() there. f64.
inline Tensor mixed(const Shape& shape, std::uint64_t seed) {
  const Tensor t = hashed(shape, seed, DType::f64);
  for (double& v : t.span<double>()) {
    const double w = (v + 1) * (v + 1) * 65536;
    v = w - std::floor(w) - .5;
  }
  return t;
}

// start() there: every parameter and buffer from its place in the state dict.
inline void start_hashed(Module& net, DType dtype) {
  net.to(dtype);
  std::uint64_t k = 0;
  for (auto& [name, value] : net.state_dict()) {
    const NoGrad guard;
    const Tensor u = mixed(value.shape(), 100 + k++);
    const auto ends = [&, &n = name](const char* tail) { return n.size() >= std::strlen(tail) && n.compare(n.size() - std::strlen(tail), std::string::npos, tail) == 0; };
    if (value.rank() >= 2) copy_into(value, u * (2 * std::sqrt(6.0 / static_cast<double>(value.numel() / value.size(0)))));
    else if (ends("running_var")) copy_into(value, u + 1);
    else if (ends("weight")) copy_into(value, u * .4 + 1);
    else copy_into(value, u * .4);
  }
  net.require_grad();
}

// faces() there: n pictures, squares of 16 pixels with a level each, under noise.
inline Tensor hashed_faces(std::int64_t n, std::int64_t side, std::uint64_t seed, DType dtype) {
  const std::int64_t squares = (side + 15) / 16;
  const Tensor x = mixed({n, 3, side, side}, seed), levels = mixed({n, 3, squares, squares}, seed + 2);
  const double* level = levels.data<double>();
  double* value = x.data<double>();
  for (std::int64_t plane = 0; plane < n * 3; ++plane)
    for (std::int64_t row = 0; row < side; ++row)
      for (std::int64_t column = 0; column < side; ++column, ++value)
        *value = level[(plane * squares + row / 16) * squares + column / 16] * 1.5 + *value * .5;
  return cast(x, dtype);
}

}  // namespace mien::test
