// f32 values as sums of three bf16 parts, for products as exact as f32 ones: three parts hold all 24 bits, and the six products of parts that count leave an
// error of about 2^-24 of a term. Infinite values become NaN.
// Henry, Tang, Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", 2019.
#pragma once

#include "mien/kernels/cpu/amx/pack.h"

namespace mien::MIEN_LEVEL {

inline constexpr int split_parts = 3;

// Part p of (a0 b0 a1 b1 ..) goes to to + p * part.
[[gnu::always_inline]] inline void split_pairs(__m512 a, __m512 b, Bf16* to, std::int64_t part) {
#pragma GCC unroll 3
  for (int p = 0; p < split_parts; ++p) {
    const __m512i v = interleave(to_bf16(a, b));
    _mm512_store_si512(to + p * part, v);
    if (p + 1 == split_parts) break;
    a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)));
    b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000)))));
  }
}

// Part p of 16 values goes to to + p * part.
[[gnu::always_inline]] inline void split_values(__m512 a, Bf16* to, std::int64_t part) {
#pragma GCC unroll 3
  for (int p = 0; p < split_parts; ++p) {
    const __m256i v = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + p * part), v);
    if (p + 1 < split_parts) a = _mm512_sub_ps(a, widen(v));
  }
}

// C (tiles 0-3: ROWS x COLS) += A * B over `steps` steps of k, whose tiles follow each other. A: the three parts of a step follow each other, the second row of
// tiles is at a1. B: parts are b_part apart. The small products come first, in an order in which one operand of every product is in its register already.
template <int ROWS, int COLS>
[[gnu::always_inline]] inline void multiply_split(std::int64_t steps, const Bf16* a0, const Bf16* a1, const Bf16* b0, const Bf16* b1, std::int64_t b_part) {
  const auto left = [&](int p) {
    MIEN_TILE_LOAD(4, a0 + p * tile_values, std::int64_t{64});
    if constexpr (ROWS > 1) MIEN_TILE_LOAD(5, a1 + p * tile_values, std::int64_t{64});
  };
  const auto right = [&](int p) {
    MIEN_TILE_LOAD(6, b0 + p * b_part, std::int64_t{64});
    if constexpr (COLS > 1) MIEN_TILE_LOAD(7, b1 + p * b_part, std::int64_t{64});
  };
  const auto multiply = [] {
    MIEN_TILE_MULTIPLY(0, 4, 6);
    if constexpr (COLS > 1) MIEN_TILE_MULTIPLY(1, 4, 7);
    if constexpr (ROWS > 1) MIEN_TILE_MULTIPLY(2, 5, 6);
    if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_MULTIPLY(3, 5, 7);
  };
  for (std::int64_t s = 0; s < steps; ++s, a0 += split_parts * tile_values, a1 += split_parts * tile_values, b0 += tile_values, b1 += tile_values) {
    left(2), right(0), multiply();
    left(1), multiply();
    right(1), multiply();
    left(0), multiply();
    right(2), multiply();
    right(0), multiply();
  }
}

}  // namespace mien::MIEN_LEVEL
