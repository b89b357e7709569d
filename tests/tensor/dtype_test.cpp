#include "mien/tensor/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

#include "catch.h"

namespace mien {
namespace {

bool is_nan16(std::uint16_t bits) { return (bits & 0x7c00u) == 0x7c00u && (bits & 0x3ffu) != 0; }
bool is_nan_bf(std::uint16_t bits) { return (bits & 0x7f80u) == 0x7f80u && (bits & 0x7fu) != 0; }

// The value of finite half bits by the definition: (-1)^s * 2^(e-15) * 1.m, or 2^-14 * 0.m.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

TEST_CASE("all 65536 halves and bfloat16s survive the way through float", "[dtype]") {
  int failures = 0;
  for (unsigned i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float h = to_float(float16{bits}), b = to_float(bfloat16{bits});
    if (is_nan16(bits)) failures += !std::isnan(h) || !is_nan16(to_float16(h).bits);
    else failures += to_float16(h).bits != bits;
    if (is_nan_bf(bits)) failures += !std::isnan(b) || !is_nan_bf(to_bfloat16(b).bits);
    else failures += to_bfloat16(b).bits != bits;
    if ((bits & 0x7c00u) != 0x7c00u) failures += static_cast<double>(h) != half_value(bits);
    failures += std::bit_cast<std::uint32_t>(b) != i << 16;
  }
  CHECK(failures == 0);
}

TEST_CASE("halves round to nearest, ties to even", "[dtype]") {
  int failures = 0;
  for (std::uint16_t bits = 0; bits < 0x7bff; ++bits) {  // every pair of neighbouring positive finite halves
    const double low = half_value(bits), high = half_value(static_cast<std::uint16_t>(bits + 1));
    const float middle = static_cast<float>((low + high) / 2);
    const std::uint16_t even = bits % 2 == 0 ? bits : static_cast<std::uint16_t>(bits + 1);
    failures += to_float16(middle).bits != even;
    failures += to_float16(std::nextafter(middle, 0.f)).bits != bits;
    failures += to_float16(std::nextafter(middle, 1e9f)).bits != bits + 1;
    failures += to_float16(-middle).bits != (even | 0x8000);
  }
  CHECK(failures == 0);
  CHECK(to_float16(65519.99f).bits == 0x7bff);
  CHECK(to_float16(65520.f).bits == 0x7c00);  // the tie at the top goes to infinity
  CHECK(to_float16(std::numeric_limits<float>::infinity()).bits == 0x7c00);
  CHECK(to_float16(0x1p-25f).bits == 0);      // half of the smallest: to even
  CHECK(to_float16(0x1.8p-25f).bits == 1);
  CHECK(to_float16(-0.f).bits == 0x8000);
}

TEST_CASE("bfloat16 rounds to nearest, ties to even", "[dtype]") {
  int failures = 0;
  for (std::uint32_t top = 0; top < 0x7f80; ++top) {
    const std::uint32_t even = top + (top & 1u);
    failures += to_bfloat16(std::bit_cast<float>((top << 16) | 0x8000u)).bits != even;
    failures += to_bfloat16(std::bit_cast<float>((top << 16) | 0x7fffu)).bits != top;
    failures += to_bfloat16(std::bit_cast<float>((top << 16) | 0x8001u)).bits != top + 1;
  }
  CHECK(failures == 0);
  CHECK(to_bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);  // infinity
  CHECK(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));  // a payload in the low bits only
}

TEST_CASE("names, sizes and dispatch of dtypes", "[dtype]") {
  CHECK(std::string(name(DType::f32)) == "f32");
  CHECK(std::string(name(DType::boolean)) == "bool");
  CHECK(item_size(DType::f64) == 8);
  CHECK(item_size(DType::bf16) == 2);
  CHECK(is_floating(DType::f16));
  CHECK_FALSE(is_floating(DType::i32));
  CHECK(dtype_v<const float> == DType::f32);
  CHECK(dispatch_float(DType::f64, "op", [](auto t) { return sizeof(t); }) == 8);
  CHECK(dispatch_compute(DType::u8, "op", [](auto t) { return sizeof(t); }) == 1);
  CHECK_THROWS_AS(dispatch_float(DType::i32, "op", [](auto) {}), DTypeError);
  CHECK_THROWS_AS(dispatch_compute(DType::f16, "op", [](auto) {}), DTypeError);
}

}  // namespace mien
