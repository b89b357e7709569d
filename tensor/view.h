// What a kernel sees of a tensor: address, dtype, sizes, strides, and on which device. Owns nothing.
#pragma once

#include "mien/tensor/device.h"
#include "mien/tensor/dtype.h"
#include "mien/tensor/shape.h"

namespace mien {

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  Strides strides;  // in elements
  Device device = {};

  template <class T>
  T* ptr() const noexcept {
    return static_cast<T*>(data);
  }
  int rank() const noexcept { return shape.rank(); }
  std::int64_t size(int dim) const noexcept { return shape[dim]; }
  std::int64_t stride(int dim) const noexcept { return strides[dim]; }
  std::int64_t numel() const noexcept {
    std::int64_t n = 1;
    for (const auto s : shape) n *= s;
    return n;
  }
  bool is_contiguous() const noexcept { return has_order(contiguous_strides(shape)); }
  bool is_channels_last() const noexcept { return shape.rank() == 4 && has_order(channels_last_strides(shape)); }

 private:
  // A size of 1 never steps, so its stride does not matter.
  bool has_order(const Strides& expected) const noexcept {
    if (numel() == 0) return true;
    for (int i = 0; i < shape.rank(); ++i)
      if (shape[i] != 1 && strides[i] != expected[i]) return false;
    return true;
  }
};

}  // namespace mien
