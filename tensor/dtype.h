// Element types. f32 f64 i32 i64 u8 boolean compute; bf16 and f16 are stored and cast.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "mien/tensor/error.h"

namespace mien {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i32, i64, u8, boolean };

// 2-byte storage types: own structs because g++ 12 has no usable __bf16 on every target. Conversion rounds to nearest even.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};
bfloat16 to_bfloat16(float value) noexcept;
float16 to_float16(float value) noexcept;
float to_float(bfloat16 value) noexcept;
float to_float(float16 value) noexcept;

const char* name(DType dtype) noexcept;  // "f32", "bool", ...
std::int64_t item_size(DType dtype) noexcept;
constexpr bool is_floating(DType d) noexcept { return d <= DType::f16; }

template <class T>
struct dtype_of;
template <> struct dtype_of<float> { static constexpr DType value = DType::f32; };
template <> struct dtype_of<double> { static constexpr DType value = DType::f64; };
template <> struct dtype_of<bfloat16> { static constexpr DType value = DType::bf16; };
template <> struct dtype_of<float16> { static constexpr DType value = DType::f16; };
template <> struct dtype_of<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct dtype_of<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct dtype_of<std::uint8_t> { static constexpr DType value = DType::u8; };
template <> struct dtype_of<bool> { static constexpr DType value = DType::boolean; };
template <class T>
inline constexpr DType dtype_v = dtype_of<std::remove_cv_t<T>>::value;

// Calls f(T{}) with T = float or double; DTypeError naming `op` otherwise.
template <class F>
decltype(auto) dispatch_float(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    default: throw DTypeError(op, std::string("expects f32 or f64, got ") + name(dtype), "Cast with mien::cast(x, DType::f32).");
  }
}
// The same for every type that computes: f32 f64 i32 i64 u8 bool.
template <class F>
decltype(auto) dispatch_compute(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::i32: return f(std::int32_t{});
    case DType::i64: return f(std::int64_t{});
    case DType::u8: return f(std::uint8_t{});
    case DType::boolean: return f(bool{});
    default: throw DTypeError(op, std::string("does not compute in ") + name(dtype), "Cast with mien::cast(x, DType::f32).");
  }
}

}  // namespace mien
