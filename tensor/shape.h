// Sizes and strides: up to 8 signed 64-bit numbers, stored in place. Arithmetic that would overflow throws ShapeError.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "mien/tensor/error.h"

namespace mien {

inline constexpr int max_rank = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span<const std::int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes) {
    if (sizes.size() > max_rank)
      throw ShapeError("shape", "at most 8 dimensions, got " + std::to_string(sizes.size()));
    for (const auto s : sizes) values_[static_cast<std::size_t>(rank_++)] = s;
  }
  static Shape filled(int rank, std::int64_t value) {
    Shape s;
    s.resize(rank);
    for (auto& v : s) v = value;
    return s;
  }

  int rank() const noexcept { return rank_; }
  void resize(int rank) {  // new dimensions are 0
    if (rank < 0 || rank > max_rank) throw ShapeError("shape", "rank must be 0..8, got " + std::to_string(rank));
    for (int i = rank_; i < rank; ++i) values_[static_cast<std::size_t>(i)] = 0;
    rank_ = rank;
  }
  void push_back(std::int64_t v) {
    resize(rank_ + 1);
    back() = v;
  }
  std::int64_t operator[](int i) const noexcept { return values_[static_cast<std::size_t>(i)]; }  // 0 <= i < rank()
  std::int64_t& operator[](int i) noexcept { return values_[static_cast<std::size_t>(i)]; }
  std::int64_t back() const noexcept { return (*this)[rank_ - 1]; }
  std::int64_t& back() noexcept { return (*this)[rank_ - 1]; }
  const std::int64_t* begin() const noexcept { return values_.data(); }
  const std::int64_t* end() const noexcept { return values_.data() + rank_; }
  std::int64_t* begin() noexcept { return values_.data(); }
  std::int64_t* end() noexcept { return values_.data() + rank_; }
  bool operator==(const Shape& o) const noexcept {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != o[i]) return false;
    return true;
  }

 private:
  std::array<std::int64_t, max_rank> values_{};
  int rank_ = 0;
};
using Strides = Shape;  // in elements, not bytes

// Product of the sizes; throws ShapeError on a negative size or an overflow.
std::int64_t numel(const Shape& shape);
Strides contiguous_strides(const Shape& shape);
// Strides of a logical [N, C, H, W] tensor that lies in memory as N, H, W, C.
Strides channels_last_strides(const Shape& shape);
// Dimension index in 0..rank-1 from one in -rank..rank-1; throws ShapeError naming `op`.
int normalize_dim(std::int64_t dim, int rank, const char* op);
// Numpy's rule: sizes equal or 1, aligned at the right. Throws ShapeError naming `op`.
Shape broadcast(const Shape& a, const Shape& b, const char* op);
std::string to_string(const Shape& shape);  // "[2, 3]"

}  // namespace mien
