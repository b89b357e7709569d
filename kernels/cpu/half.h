// bf16 in memory, f32 in registers. Templates over the type in memory work for both.
#pragma once

#include "mien/kernels/cpu/select.h"
#include "mien/tensor/dtype.h"

namespace mien::MIEN_LEVEL {

inline float widened(bfloat16 v) {
  const std::uint32_t bits = static_cast<std::uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}
// To the nearest, of two the even; NaN stays one. As to_bfloat16, without a branch so that loops become vectors.
inline bfloat16 narrowed(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

// The first n lanes, 0 <= n <= lanes; the others are zeros or left alone.
inline Vec Load(const bfloat16* p, std::int64_t n) {
#if MIEN_LEVEL_IS_avx512
  const __mmask16 some = first_lanes(n);  // masks throughout: g++ 12 warns of the undefined operand in the intrinsics without one
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(some, _mm512_maskz_cvtepu16_epi32(some, _mm256_maskz_loadu_epi16(some, p)), 16));
#else
  alignas(64) float values[lanes] = {};
  if (n == lanes)
    for (int i = 0; i < lanes; ++i) values[i] = widened(p[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) values[i] = widened(p[i]);
  return Load(values);
#endif
}
inline void Store(Vec v, bfloat16* p, std::int64_t n) {
#if MIEN_LEVEL_IS_avx512
  const __mmask16 some = first_lanes(n);
  const __m512i bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_maskz_srli_epi32(some, bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i either = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
  _mm512_mask_cvtepi32_storeu_epi16(p, some, _mm512_maskz_srli_epi32(some, either, 16));
#else
  alignas(64) float values[lanes];
  Store(v, values);
  if (n == lanes)
    for (int i = 0; i < lanes; ++i) p[i] = narrowed(values[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) p[i] = narrowed(values[i]);
#endif
}
inline float widened(float v) { return v; }
// Of values that are bf16 already.
inline void StoreExact(Vec v, bfloat16* p, std::int64_t n) {
#if MIEN_LEVEL_IS_avx512
  const __mmask16 some = first_lanes(n);
  _mm512_mask_cvtepi32_storeu_epi16(p, some, _mm512_maskz_srli_epi32(some, _mm512_castps_si512(v), 16));
#else
  Store(v, p, n);
#endif
}
inline void StoreExact(Vec v, float* p, std::int64_t n) { Store(v, p, n); }

}  // namespace mien::MIEN_LEVEL
