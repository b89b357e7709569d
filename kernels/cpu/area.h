// Area resizing of bytes whose three channels lie side by side (RGB): rows of a window are added as whole numbers, then its columns, four lanes a pixel
// (red, green, blue and one to spare). Every output pixel costs one load and one addition for each column of its window, with no branch on the window's width.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

// Cells of an axis that output cell i averages: floor(i * in / out) .. ceil((i + 1) * in / out).
struct AreaAxis {
  std::int64_t in, out;
  std::int64_t begin(std::int64_t i) const { return i * in / out; }
  std::int64_t end(std::int64_t i) const { return ((i + 1) * in + out - 1) / out; }
};

// A column window: its first input column, 1 / its width, and all bits set where it is one wider than the narrowest window.
struct AreaColumn {
  std::int32_t begin, wider;
  float share;
};

// The windows of all output columns, made without divisions. Returns the width of the narrowest one: ceil(in / out).
inline std::int64_t area_columns(const AreaAxis& axis, AreaColumn* columns) {
  const std::int64_t whole = axis.in / axis.out, rest = axis.in % axis.out, narrow = whole + (rest > 0);
  const float shares[2] = {1.f / static_cast<float>(narrow), 1.f / static_cast<float>(narrow + 1)};
  std::int64_t begin = 0, part = 0;  // i * in = begin * out + part
  for (std::int64_t i = 0; i < axis.out; ++i) {
    std::int64_t next = begin + whole, next_part = part + rest;
    if (next_part >= axis.out) ++next, next_part -= axis.out;
    const bool wider = next + (next_part > 0) - begin > narrow;
    columns[i] = {static_cast<std::int32_t>(begin), wider ? -1 : 0, shares[wider]};
    begin = next;
    part = next_part;
  }
  return narrow;
}

// sums[i] = rows[0][i] + .. + rows[count - 1][i], `stride` bytes from row to row.
template <class Sum>
void add_byte_rows(const std::uint8_t* row, std::int64_t stride, std::int64_t count, std::int64_t values, Sum* sums) {
  const auto add = [&](auto at) {
    for (std::int64_t i = 0; i < values; ++i) sums[i] = static_cast<Sum>(at(i));
  };
  const std::uint8_t *a = row, *b = a + stride, *c = b + stride, *d = c + stride;
  if (count == 1) add([=](std::int64_t i) { return a[i]; });
  else if (count == 2) add([=](std::int64_t i) { return a[i] + b[i]; });
  else if (count == 3) add([=](std::int64_t i) { return a[i] + b[i] + c[i]; });
  else add([=](std::int64_t i) { return a[i] + b[i] + c[i] + d[i]; });
  for (std::int64_t y = 4; y < count; y += 2) {
    const std::uint8_t *e = row + y * stride, *f = e + stride;
    if (y + 1 < count) add([=](std::int64_t i) { return sums[i] + e[i] + f[i]; });
    else add([=](std::int64_t i) { return sums[i] + e[i]; });
  }
}

using Lanes4 = std::int32_t __attribute__((vector_size(16)));
using Floats4 = float __attribute__((vector_size(16)));

template <class Sum>
inline Lanes4 load_pixel(const Sum* p) {
#if MIEN_LEVEL_IS_avx512 || MIEN_LEVEL_IS_avx2
  if constexpr (sizeof(Sum) == 2) return reinterpret_cast<Lanes4>(_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));  // g++ 12 takes six steps
#endif
  Sum v __attribute__((vector_size(4 * sizeof(Sum))));
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Lanes4);
}

// What a row of sums becomes: out[c * plane + x] = sum of window x * (its share * scale) + shift. `sums` is readable two pixels past its end.
template <class Sum>
void add_columns(const Sum* sums, const AreaColumn* columns, std::int64_t narrow, std::int64_t count, float scale, float shift, float* out, std::int64_t plane) {
  const auto window = [&](const AreaColumn& column) {
    const Sum* p = sums + 3 * static_cast<std::int64_t>(column.begin);
    Lanes4 total = load_pixel(p);
    for (std::int64_t k = 1; k < narrow; ++k) total += load_pixel(p + 3 * k);
    total += load_pixel(p + 3 * narrow) & column.wider;
    return __builtin_convertvector(total, Floats4) * (column.share * scale) + shift;
  };
  std::int64_t x = 0;
  for (; x + 4 <= count; x += 4) {
    const Floats4 a = window(columns[x]), b = window(columns[x + 1]), c = window(columns[x + 2]), d = window(columns[x + 3]);
    const Floats4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);  // r r g g
    const Floats4 blue = __builtin_shufflevector(__builtin_shufflevector(a, b, 2, 6, 3, 7), __builtin_shufflevector(c, d, 2, 6, 3, 7), 0, 1, 4, 5);
    const Floats4 red = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), green = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    std::memcpy(out + x, &red, sizeof red);
    std::memcpy(out + plane + x, &green, sizeof green);
    std::memcpy(out + 2 * plane + x, &blue, sizeof blue);
  }
  for (; x < count; ++x) {
    const Floats4 v = window(columns[x]);
    for (std::int64_t c = 0; c < 3; ++c) out[c * plane + x] = v[c];
  }
}

// Rows of a resized picture or crop, one at a time. `data`: red of the first pixel; the next pixel is 3 bytes on, the next row `stride`.
class AreaRows {
 public:
  // Whether the sums of all windows, and of smaller pictures', stay below 2^31.
  static bool fits(const AreaAxis& rows, const AreaAxis& columns) {
    return (rows.in / rows.out + 2) * (columns.in / columns.out + 2) <= std::numeric_limits<std::int32_t>::max() / 255;
  }
  // Bytes of scratch memory (64-byte aligned) for pictures `width` wide that become `out` wide.
  static std::int64_t scratch_bytes(std::int64_t width, std::int64_t out) { return table_bytes(out) + round_up((3 * width + 16) * 4, 64); }

  AreaRows(const std::uint8_t* data, std::int64_t stride, AreaAxis rows, AreaAxis columns, float mean, float scale, void* scratch)
      : data_(data), stride_(stride), rows_(rows), columns_(columns), mean_(mean), scale_(scale), table_(static_cast<AreaColumn*>(scratch)),
        sums_(static_cast<std::byte*>(scratch) + table_bytes(columns.out)), narrow_(area_columns(columns, table_)) {}

  // out[c * plane + x] = (average - mean) * scale
  void row(std::int64_t y, float* out, std::int64_t plane) const {
    if (rows_.in / rows_.out < 250) row_of<std::uint16_t>(y, out, plane);  // 257 rows of 255 fit 16 bits
    else row_of<std::int32_t>(y, out, plane);
  }

 private:
  static std::int64_t table_bytes(std::int64_t out) { return round_up(out * static_cast<std::int64_t>(sizeof(AreaColumn)), 64); }
  template <class Sum>
  void row_of(std::int64_t y, float* out, std::int64_t plane) const {
    const std::int64_t top = rows_.begin(y), high = rows_.end(y) - top, values = 3 * columns_.in;
    Sum* sums = reinterpret_cast<Sum*>(sums_);
    add_byte_rows(data_ + top * stride_, stride_, high, values, sums);
    std::fill_n(sums + values, 8, Sum{0});
    add_columns(sums, table_, narrow_, columns_.out, scale_ / static_cast<float>(high), -mean_ * scale_, out, plane);
  }

  const std::uint8_t* data_;
  const std::int64_t stride_;
  const AreaAxis rows_, columns_;
  const float mean_, scale_;
  AreaColumn* const table_;
  std::byte* const sums_;
  const std::int64_t narrow_;
};

}  // namespace mien::MIEN_LEVEL
