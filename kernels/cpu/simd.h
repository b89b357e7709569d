// One vector of floats, as wide as the level: 16 (avx512), 8 (avx2) or 4 (base, GCC/Clang vector extensions). Names as in Highway.
// Intrinsics in the hot loops: g++ 12 spills registers in micro-kernels that are written with vector extensions (half the speed, measured).
#pragma once

#include <cstdint>
#include <cstring>

#if MIEN_LEVEL_IS_avx512 || MIEN_LEVEL_IS_avx2
#include <immintrin.h>
#endif

namespace mien::MIEN_LEVEL {

#if MIEN_LEVEL_IS_avx512
using Vec = __m512;
inline constexpr int lanes = 16;
inline constexpr std::int64_t cache_floats = 160 * 1024;  // of the second cache, for what a loop comes back to
inline constexpr int gemm_rows = 12;  // 12 x 2 accumulators, 2 of B, 1 broadcast: 27 of 32 registers
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(Vec v, float* p) { _mm512_storeu_ps(p, v); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
// The second where one is NaN. All lanes by a mask: g++ 12 warns of the undefined operand in _mm512_max_ps.
inline Vec Max(Vec a, Vec b) { return _mm512_maskz_max_ps(static_cast<__mmask16>(-1), a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_maskz_min_ps(static_cast<__mmask16>(-1), a, b); }
// The first n lanes, 0 <= n <= lanes; the others are zeros or left alone. Memory past them is not touched.
inline __mmask16 first_lanes(std::int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline Vec LoadFirst(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void StoreFirst(Vec v, float* p, std::int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
// Lane j of v[i] and lane i of v[j] change places.
inline void Transpose(Vec (&v)[16]) {
  constexpr __mmask16 all = static_cast<__mmask16>(-1);  // as for Max
  constexpr __mmask8 half = static_cast<__mmask8>(-1);
  const auto pairs = [](Vec a, Vec b, bool high) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_maskz_unpackhi_pd(half, x, y) : _mm512_maskz_unpacklo_pd(half, x, y));
  };
  Vec t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_maskz_unpacklo_ps(all, v[i], v[i + 1]), t[i + 1] = _mm512_maskz_unpackhi_ps(all, v[i], v[i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) v[i + 2 * h] = pairs(t[i + h], t[i + h + 2], false), v[i + 2 * h + 1] = pairs(t[i + h], t[i + h + 2], true);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    t[k] = _mm512_maskz_shuffle_f32x4(all, v[k], v[4 + k], 0x88), t[4 + k] = _mm512_maskz_shuffle_f32x4(all, v[8 + k], v[12 + k], 0x88);
    t[8 + k] = _mm512_maskz_shuffle_f32x4(all, v[k], v[4 + k], 0xdd), t[12 + k] = _mm512_maskz_shuffle_f32x4(all, v[8 + k], v[12 + k], 0xdd);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm512_maskz_shuffle_f32x4(all, t[k], t[4 + k], 0x88), v[8 + k] = _mm512_maskz_shuffle_f32x4(all, t[k], t[4 + k], 0xdd);
    v[4 + k] = _mm512_maskz_shuffle_f32x4(all, t[8 + k], t[12 + k], 0x88), v[12 + k] = _mm512_maskz_shuffle_f32x4(all, t[8 + k], t[12 + k], 0xdd);
  }
}
#elif MIEN_LEVEL_IS_avx2
using Vec = __m256;
inline constexpr int lanes = 8;
inline constexpr std::int64_t cache_floats = 48 * 1024;
inline constexpr int gemm_rows = 6;  // 6 x 2 accumulators, 2 of B, 1 broadcast: 15 of 16 registers
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(Vec v, float* p) { _mm256_storeu_ps(p, v); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline __m256i first_lanes(std::int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec LoadFirst(const float* p, std::int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
// In pieces: on AMD's Zen 3 a masked store takes 14 times as long as a whole one (bench/lab/conv_training).
inline void StoreFirst(Vec v, float* p, std::int64_t n) {
  if (n == lanes) return Store(v, p);
  __m128 rest = _mm256_castps256_ps128(v);
  if (n & 4) {
    _mm_storeu_ps(p, rest);
    rest = _mm256_extractf128_ps(v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
    rest = _mm_movehl_ps(rest, rest);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, rest);
}
inline void Transpose(Vec (&v)[8]) {
  Vec t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]), t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) v[i + 2 * h] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0x44), v[i + 2 * h + 1] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0xee);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) t[k] = _mm256_permute2f128_ps(v[k], v[4 + k], 0x20), t[4 + k] = _mm256_permute2f128_ps(v[k], v[4 + k], 0x31);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) v[k] = t[k];
}
#else
using Vec = float __attribute__((vector_size(16)));
inline constexpr int lanes = 4;
inline constexpr std::int64_t cache_floats = 32 * 1024;
inline constexpr int gemm_rows = 4;
inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void Store(Vec v, float* p) { std::memcpy(p, &v, sizeof v); }
inline Vec Set(float x) { return Vec{x, x, x, x}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec Add(Vec a, Vec b) { return a + b; }
inline Vec Sub(Vec a, Vec b) { return a - b; }
inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec Min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec LoadFirst(const float* p, std::int64_t n) {
  Vec v{};
  for (int i = 0; i < lanes; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
inline void StoreFirst(Vec v, float* p, std::int64_t n) {
  for (int i = 0; i < lanes; ++i)
    if (i < n) p[i] = v[i];
}
inline void Transpose(Vec (&v)[4]) {
  const Vec t[4] = {v[0], v[1], v[2], v[3]};
  for (int i = 0; i < 4; ++i) v[i] = Vec{t[0][i], t[1][i], t[2][i], t[3][i]};
}
#endif
inline constexpr int gemm_cols = 2 * lanes;

// sum += a * b in the register of the sum, for the inner loops of products: where g++ 12 may choose among the forms of the instruction, it moves registers about
// (a tenth of such a loop on avx2).
inline void AddProduct(Vec& sum, Vec a, Vec b) {
#if MIEN_LEVEL_IS_avx2
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
  sum = MulAdd(a, b, sum);
#endif
}

// x, or slope * x where x is negative; NaN stays NaN.
inline Vec prelu_of(Vec x, Vec slope) {
#if MIEN_LEVEL_IS_avx512
  return _mm512_mask_mul_ps(x, _mm512_movepi32_mask(_mm512_castps_si512(x)), x, slope);
#elif MIEN_LEVEL_IS_avx2
  return _mm256_blendv_ps(x, _mm256_mul_ps(x, slope), x);
#else
  return x < 0 ? x * slope : x;
#endif
}

}  // namespace mien::MIEN_LEVEL
