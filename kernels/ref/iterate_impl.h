// What the reference kernels share: a strided walk over several operands, element access, and a table of dtypes to dispatch on.
// Clarity first: a reference kernel is read more often than it runs.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"

namespace mien::ref {

// The address of a view as T*. A mismatch is a bug of the caller: ops/ checks dtypes before a kernel runs.
template <class T>
T* typed(const View& v) {
  internal_check(v.dtype == dtype_v<T>, "a reference kernel got an operand of another dtype");
  return v.ptr<T>();
}

// x(n, c, h, w) of a rank-4 view, whatever its strides.
template <class T>
struct Image {
  explicit Image(const View& v) : data(typed<T>(v)), n(v.size(0)), c(v.size(1)), h(v.size(2)), w(v.size(3)), strides(v.strides) {}
  T& operator()(std::int64_t in, std::int64_t ic, std::int64_t ih, std::int64_t iw) const noexcept {
    return data[in * strides[0] + ic * strides[1] + ih * strides[2] + iw * strides[3]];
  }
  T* data;
  std::int64_t n, c, h, w;
  Strides strides;
};

template <std::size_t N>
using Offsets = std::array<std::int64_t, N>;

namespace detail {
// Neighbouring dimensions become one where every operand steps through them evenly. The logical order stays.
template <std::size_t N>
void join_dims(Shape& shape, std::array<Strides, N>& strides) {
  int last = -1;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    bool even = last >= 0;
    for (const auto& s : strides) even = even && s[last] == s[d] * shape[d];
    if (!even) ++last;
    shape[last] = even ? shape[last] * shape[d] : shape[d];
    for (auto& s : strides) s[last] = s[d];
  }
  shape.resize(last + 1);
  for (auto& s : strides) s.resize(last + 1);
}
}  // namespace detail

// Calls f(o) for every index of `shape` in logical (row-major) order; o[k] is the offset in elements of operand k.
template <std::size_t N, class F>
void iterate(Shape shape, std::array<Strides, N> strides, const F& f) {
  for (const auto size : shape)
    if (size == 0) return;
  for (const auto& s : strides) internal_check(s.rank() == shape.rank(), "iterate: an operand has another rank");
  detail::join_dims(shape, strides);
  Offsets<N> o{};
  if (shape.rank() == 0) return f(o);
  const int inner = shape.rank() - 1;
  Shape index = Shape::filled(shape.rank(), 0);
  for (;;) {
    Offsets<N> at = o;
    for (std::int64_t i = 0; i < shape[inner]; ++i) {
      f(at);
      for (std::size_t k = 0; k < N; ++k) at[k] += strides[k][inner];
    }
    int d = inner - 1;
    for (; d >= 0; --d) {
      for (std::size_t k = 0; k < N; ++k) o[k] += strides[k][d];
      if (++index[d] < shape[d]) break;
      for (std::size_t k = 0; k < N; ++k) o[k] -= strides[k][d] * shape[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

// `v` without dimension `dim`: offsets of the lines along it.
inline Shape without(const Shape& shape, int dim) {
  Shape out;
  for (int d = 0; d < shape.rank(); ++d)
    if (d != dim) out.push_back(shape[d]);
  return out;
}

// Calls f(T{}) for every dtype, the storage types included. Bool comes as `bool`.
template <class F>
decltype(auto) dispatch_all(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(bfloat16{});
    case DType::f16: return f(float16{});
    case DType::i32: return f(std::int32_t{});
    case DType::i64: return f(std::int64_t{});
    case DType::u8: return f(std::uint8_t{});
    case DType::boolean: break;
  }
  return f(bool{});
}

// The same by size alone, for kernels that only move elements.
template <class F>
decltype(auto) dispatch_size(DType dtype, const F& f) {
  switch (item_size(dtype)) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

// Value conversion of copy, fill and pad. Rounds to nearest even into floating types; into integers it truncates towards zero, saturates,
// and turns NaN into 0; integers wrap into narrower integers; bool is "not zero".
template <class To, class From>
To convert(From v) noexcept {
  constexpr bool half_in = std::is_same_v<From, bfloat16> || std::is_same_v<From, float16>;
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (half_in) {
    return convert<To>(to_float(v));
  } else if constexpr (std::is_same_v<To, bfloat16>) {
    return to_bfloat16(static_cast<float>(v));
  } else if constexpr (std::is_same_v<To, float16>) {
    return to_float16(static_cast<float>(v));
  } else if constexpr (std::is_same_v<To, bool>) {
    return v != From{};
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    // The bounds are powers of two (or small), so they are exact in From.
    const From low = static_cast<From>(std::numeric_limits<To>::min());
    const From end = From(2) * static_cast<From>(static_cast<To>(To(1) << (std::numeric_limits<To>::digits - 1)));
    if (v != v) return To(0);
    if (v <= low) return std::numeric_limits<To>::min();
    if (v >= end) return std::numeric_limits<To>::max();
    return static_cast<To>(v);
  } else {
    return static_cast<To>(v);
  }
}

// Sums that land on scattered places are made in doubles, then rounded once: booked as workspace, in logical order of out[0].
inline std::int64_t scatter_bytes(const KernelArgs& args) { return args.out[0].numel() * static_cast<std::int64_t>(sizeof(double)); }
inline double* scatter_sums(const KernelArgs& args) {
  double* sums = static_cast<double*>(args.workspace);
  std::fill_n(sums, args.out[0].numel(), 0.0);
  return sums;
}
template <class T>
void store_sums(const View& out, const double* sums) {
  T* data = typed<T>(out);
  iterate<1>(out.shape, {out.strides}, [&](const Offsets<1>& o) { data[o[0]] = static_cast<T>(*sums++); });
}

}  // namespace mien::ref
