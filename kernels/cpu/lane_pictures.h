// Pictures change places with lanes: a vector of them at a time as [value][lane], and back.
#pragma once

#include <cstdint>

#include "mien/kernels/cpu/select.h"

namespace mien::MIEN_LEVEL {

// One vector of each picture: to[i * step + k] = lane i of load(k).
template <class F>
[[gnu::always_inline]] inline void block_to_lanes(float* to, std::int64_t step, const F& load) {
  Vec v[lanes];
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) v[k] = load(k);
  Transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) Store(v[i], to + i * step);
}

// to[i * step + k] = value i of picture k, for i < count. load(k, i, n): values i to i + n of picture k; n is Whole or less than lanes.
template <class F>
inline void to_lanes(std::int64_t count, float* to, std::int64_t step, const F& load) {
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) block_to_lanes(to + i * step, step, [&](int k) { return load(k, i, Whole{}); });
  if (i == count) return;
  Vec v[lanes];
  for (int k = 0; k < lanes; ++k) v[k] = load(k, i, count - i);
  Transpose(v);
  for (std::int64_t k = 0; k < count - i; ++k) Store(v[k], to + (i + k) * step);
}

// store(k, i, v, n): v holds values i to i + n of picture k, which are from[value * lanes + k]; n as above.
template <class F>
inline void from_lanes(const float* from, std::int64_t count, std::int64_t pictures, const F& store) {
  Vec v[lanes];
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) v[k] = Load(from + (i + k) * lanes);
    Transpose(v);
    if (pictures == lanes)
#pragma GCC unroll 16
      for (int k = 0; k < lanes; ++k) store(k, i, v[k], Whole{});
    else
      for (std::int64_t k = 0; k < pictures; ++k) store(k, i, v[k], Whole{});
  }
  if (i == count) return;
  for (std::int64_t k = 0; k < lanes; ++k) v[k] = k < count - i ? Load(from + (i + k) * lanes) : Set(0);
  Transpose(v);
  for (std::int64_t k = 0; k < pictures; ++k) store(k, i, v[k], count - i);
}

}  // namespace mien::MIEN_LEVEL
