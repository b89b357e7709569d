// Choosing lane by lane, vectors of whole numbers, and vectors of which only the first n lanes exist. n == lanes means a whole one.
#pragma once

#include <cstring>
#include <type_traits>

#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {

using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));
inline Ints SetInt(std::int32_t x) { return Ints{} + x; }

// Numbers of 0 to 255 from bytes and to them, all lanes. (g++ 12 converts such vectors number by number.)
using Bytes = std::uint8_t __attribute__((vector_size(lanes)));
#if MIEN_LEVEL_IS_avx512
inline Ints to_ints(Bytes b) { return reinterpret_cast<Ints>(_mm512_maskz_cvtepu8_epi32(static_cast<__mmask16>(-1), reinterpret_cast<__m128i>(b))); }
inline Bytes to_bytes(Ints v) { return reinterpret_cast<Bytes>(_mm512_maskz_cvtepi32_epi8(static_cast<__mmask16>(-1), reinterpret_cast<__m512i>(v))); }
#elif MIEN_LEVEL_IS_avx2
inline Ints to_ints(Bytes b) { return reinterpret_cast<Ints>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(reinterpret_cast<std::int64_t>(b)))); }
inline Bytes to_bytes(Ints v) {
  const __m256i all = reinterpret_cast<__m256i>(v);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  return reinterpret_cast<Bytes>(_mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
}
#else
inline Ints to_ints(Bytes b) { return __builtin_convertvector(b, Ints); }
inline Bytes to_bytes(Ints v) { return __builtin_convertvector(v, Bytes); }
#endif

// The same in memory, n lanes: such as a winner's place in its window.
inline void copy_bytes(const void* from, void* to, std::int64_t n) {  // n < lanes; a memcpy of n bytes would be a call
  auto* p = static_cast<const char*>(from);
  auto* q = static_cast<char*>(to);
  if (lanes > 8 && n & 8) std::memcpy(q, p, 8), p += 8, q += 8;
  if (lanes > 4 && n & 4) std::memcpy(q, p, 4), p += 4, q += 4;
  if (n & 2) std::memcpy(q, p, 2), p += 2, q += 2;
  if (n & 1) *q = *p;
}
inline Ints LoadBytes(const std::uint8_t* p, std::int64_t n) {
  Bytes b{};
  if (n == lanes) std::memcpy(&b, p, lanes);
  else copy_bytes(p, &b, n);
  return to_ints(b);
}
inline void StoreBytes(Ints v, std::uint8_t* p, std::int64_t n) {
  const Bytes b = to_bytes(v);
  if (n == lanes) std::memcpy(p, &b, lanes);
  else copy_bytes(&b, p, n);
}

// A number of lanes that is known to be all of them.
using Whole = std::integral_constant<std::int64_t, lanes>;
inline Vec Load(const float* p, Whole) { return Load(p); }
inline void Store(Vec v, float* p, Whole) { Store(v, p); }
inline Vec Load(const float* p, std::int64_t n) { return LoadFirst(p, n); }
inline void Store(Vec v, float* p, std::int64_t n) { StoreFirst(v, p, n); }

#if MIEN_LEVEL_IS_avx512
using Mask = __mmask16;
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Select(Mask m, Vec yes, Vec no) { return _mm512_mask_mov_ps(no, m, yes); }
inline Ints Select(Mask m, Ints yes, Ints no) {
  return reinterpret_cast<Ints>(_mm512_mask_mov_epi32(reinterpret_cast<__m512i>(no), m, reinterpret_cast<__m512i>(yes)));
}
inline Vec AddWhere(Mask m, Vec a, Vec b) { return _mm512_mask_add_ps(a, m, a, b); }  // a + b where m, else a
inline Mask Positive(Vec v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ); }
inline Mask Greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask Unordered(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
inline bool Any(Mask m) { return m != 0; }
inline bool All(Mask m) { return m == 0xffff; }
inline Mask Equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)); }
// v takes the place of the best so far: the first of equals stays, the first NaN stays for good.
inline Mask Beats(Vec v, Vec best) { return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(best, best, _CMP_ORD_Q), v, best, _CMP_NLE_UQ); }
#else
using Mask = Ints;
inline Vec Mul(Vec a, Vec b) { return a * b; }
#if MIEN_LEVEL_IS_avx2
inline Vec Select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, reinterpret_cast<__m256>(m)); }
inline Ints Select(Mask m, Ints yes, Ints no) { return reinterpret_cast<Ints>(Select(m, reinterpret_cast<Vec>(yes), reinterpret_cast<Vec>(no))); }
#else
inline Vec Select(Mask m, Vec yes, Vec no) { return reinterpret_cast<Vec>((m & reinterpret_cast<Ints>(yes)) | (~m & reinterpret_cast<Ints>(no))); }
inline Ints Select(Mask m, Ints yes, Ints no) { return (m & yes) | (~m & no); }
#endif
inline Vec AddWhere(Mask m, Vec a, Vec b) { return Add(a, reinterpret_cast<Vec>(m & reinterpret_cast<Ints>(b))); }
inline Mask Positive(Vec v) { return v > Set(0); }
inline Mask Greater(Vec a, Vec b) { return a > b; }
#if MIEN_LEVEL_IS_avx2
inline Mask Unordered(Vec a, Vec b) { return reinterpret_cast<Mask>(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)); }
inline bool Any(Mask m) { return _mm256_movemask_ps(reinterpret_cast<__m256>(m)) != 0; }
inline bool All(Mask m) { return _mm256_movemask_ps(reinterpret_cast<__m256>(m)) == 0xff; }
#else
inline Mask Unordered(Vec a, Vec b) { return (a != a) | (b != b); }
inline bool Any(Mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
inline bool All(Mask m) { return (m[0] & m[1] & m[2] & m[3]) != 0; }
#endif
inline Mask Equal(Ints a, Ints b) { return a == b; }
inline Mask Beats(Vec v, Vec best) { return ~(v <= best) & (best == best); }
#endif

}  // namespace mien::MIEN_LEVEL
