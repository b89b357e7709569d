// Moves of elements as bits, with any strides, in pieces of up to 16 bytes.
#pragma once

#include "mien/kernels/cuda/elementwise.cuh"

namespace mien::cuda {

// How many elements of `item` bytes can move as one, so that it has at most 16 bytes: the innermost steps of the first `moved` operands are 1 and everything
// else about them is a multiple. The other operands must not step along that dimension. Shape and strides come from simplify() and are changed to count such
// groups. `places`: the operands' addresses and, in bytes, whatever else is added to them.
template <int N>
std::int64_t widen(Shape& shape, std::array<Strides, N>& strides, std::int64_t item, const std::array<bool, N>& moved,
                   std::initializer_list<std::int64_t> places) {
  if (shape.rank() == 0) return 1;
  const int inner = shape.rank() - 1;
  for (std::size_t k = 0; k < N; ++k)
    if (strides[k][inner] != (moved[k] ? 1 : 0)) return 1;
  std::int64_t group = 16 / item;
  const auto fits = [&] {
    if (shape[inner] % group != 0) return false;
    for (const auto p : places)
      if (p % (group * item) != 0) return false;
    for (std::size_t k = 0; k < N; ++k)
      for (int d = 0; d < inner && moved[k]; ++d)
        if (strides[k][d] % group != 0) return false;
    return true;
  };
  while (group > 1 && !fits()) group /= 2;
  if (group == 1) return 1;
  shape[inner] /= group;
  for (std::size_t k = 0; k < N; ++k)
    for (int d = 0; d < inner && moved[k]; ++d) strides[k][d] /= group;
  return group;
}
inline std::int64_t address(const void* p) { return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p)); }

// y = x at an index; 0 where that is out of range.
template <class T>
struct Select {
  const T* x;
  const std::int64_t* index;
  T* y;
  std::int64_t size, step;
  template <class I>
  __device__ __forceinline__ void operator()(const I (&o)[3]) const {
    const std::int64_t i = index[o[1]];
    y[o[2]] = i >= 0 && i < size ? x[o[0] + i * step] : T{};
  }
};
template <class T>
struct Move {
  const T* x;
  T* y;
  template <class I>
  __device__ __forceinline__ void operator()(const I (&o)[2]) const {
    y[o[1]] = x[o[0]];
  }
};
// y = x, element by element of `item` bytes, both of `shape`.
inline void move_bits(const KernelArgs& args, const char* what, std::int64_t item, Shape shape, const void* x, const Strides& x_strides, void* y,
                      const Strides& y_strides) {
  for (const auto s : shape)
    if (s == 0) return;
  std::array<Strides, 2> strides{x_strides, y_strides};
  simplify<2>(shape, strides);
  const std::int64_t group = widen<2>(shape, strides, item, {true, true}, {address(x), address(y)});
  dispatch_bytes(group * item, [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<2>(args, what, shape, strides, Move<T>{static_cast<const T*>(x), static_cast<T*>(y)});
  });
}

template <class T>
struct Constant {
  T value;
  __device__ __forceinline__ T operator()() const { return value; }
};
// Every element of y becomes `bits` (its low bytes).
inline void set_bits(const KernelArgs& args, const char* what, const View& y, std::uint64_t bits) {
  switch (item_size(y.dtype)) {
    case 1: return map<std::uint8_t>(args, what, Constant<std::uint8_t>{static_cast<std::uint8_t>(bits)}, y, {});
    case 2: return map<std::uint16_t>(args, what, Constant<std::uint16_t>{static_cast<std::uint16_t>(bits)}, y, {});
    case 4: return map<std::uint32_t>(args, what, Constant<std::uint32_t>{static_cast<std::uint32_t>(bits)}, y, {});
    default: return map<std::uint64_t>(args, what, Constant<std::uint64_t>{bits}, y, {});
  }
}

}  // namespace mien::cuda
