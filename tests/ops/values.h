// Short ways to write tensors and compare them.
#pragma once

#include <string>
#include <vector>

#include "catch.h"
#include "mien/tensor/tensor.h"

namespace mien::test {

using Values = std::vector<double>;

inline Tensor f32(std::initializer_list<float> v, const Shape& shape) { return Tensor::from(v, shape); }
inline Tensor f64(std::initializer_list<double> v, const Shape& shape) { return Tensor::from(v, shape); }
inline Tensor i64(std::initializer_list<std::int64_t> v, const Shape& shape) { return Tensor::from(v, shape); }
inline Tensor i32(std::initializer_list<std::int32_t> v, const Shape& shape) { return Tensor::from(v, shape); }
inline Tensor u8(std::initializer_list<std::uint8_t> v, const Shape& shape) { return Tensor::from(v, shape); }
inline Tensor f32(std::initializer_list<float> v) { return Tensor::from(v, {static_cast<std::int64_t>(v.size())}); }
inline Tensor f64(std::initializer_list<double> v) { return Tensor::from(v, {static_cast<std::int64_t>(v.size())}); }
inline Tensor i64(std::initializer_list<std::int64_t> v) { return Tensor::from(v, {static_cast<std::int64_t>(v.size())}); }
inline Tensor boolean(std::initializer_list<bool> v, const Shape& shape) { return Tensor::from(v, shape); }

// No element further from its expectation than `tolerance`, absolute and relative.
inline void check_close(const Tensor& got, const Values& expected, double tolerance) {
  const Values v = got.to_vector();
  REQUIRE(v.size() == expected.size());
  for (std::size_t i = 0; i < v.size(); ++i) {
    INFO("element " << i << " of " << describe(got) << ": " << v[i] << ", expected " << expected[i]);
    CHECK(std::abs(v[i] - expected[i]) <= tolerance * std::max(1.0, std::abs(expected[i])));
  }
}

}  // namespace mien::test
