#include "mien/tensor/shape.h"

#include <algorithm>

namespace mien {

std::int64_t numel(const Shape& shape) {
  std::int64_t product = 1;
  for (const auto s : shape) {
    if (s < 0) throw ShapeError("shape", "sizes must not be negative, got " + to_string(shape));
    if (__builtin_mul_overflow(product, s, &product))
      throw ShapeError("shape", "number of elements overflows 64 bits: " + to_string(shape));
  }
  return product;
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<std::int64_t>(shape[i], 1);
  }
  return strides;
}

Strides channels_last_strides(const Shape& shape) {
  if (shape.rank() != 4)
    throw ShapeError("channels_last", "expects 4 dimensions [N, C, H, W], got " + to_string(shape));
  const auto c = std::max<std::int64_t>(shape[1], 1), h = std::max<std::int64_t>(shape[2], 1), w = std::max<std::int64_t>(shape[3], 1);
  return {h * w * c, 1, w * c, c};
}

int normalize_dim(std::int64_t dim, int rank, const char* op) {
  const std::int64_t d = dim < 0 ? dim + rank : dim;
  if (d < 0 || d >= rank)
    throw ShapeError(op, "dimension " + std::to_string(dim) + " is out of range for a tensor of rank " + std::to_string(rank));
  return static_cast<int>(d);
}

Shape broadcast(const Shape& a, const Shape& b, const char* op) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out = Shape::filled(rank, 1);
  for (int i = 0; i < rank; ++i) {
    const int ia = a.rank() - rank + i, ib = b.rank() - rank + i;
    const std::int64_t sa = ia < 0 ? 1 : a[ia], sb = ib < 0 ? 1 : b[ib];
    if (sa != sb && sa != 1 && sb != 1)
      throw ShapeError(op, "shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast: sizes " + std::to_string(sa) +
                               " and " + std::to_string(sb) + " differ and neither is 1");
    out[i] = sa == 1 ? sb : sa;
  }
  return out;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace mien
