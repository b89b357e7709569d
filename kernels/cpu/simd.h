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
inline constexpr int gemm_rows = 12;  // 12 x 2 accumulators, 2 of B, 1 broadcast: 27 of 32 registers
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(Vec v, float* p) { _mm512_storeu_ps(p, v); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
// Max and Min: b where one of them is NaN. The masked forms, because g++ 12 warns of its own header with the plain ones; the code is the same.
inline Vec Max(Vec a, Vec b) { return _mm512_maskz_max_ps(0xffff, a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_maskz_min_ps(0xffff, a, b); }
#elif MIEN_LEVEL_IS_avx2
using Vec = __m256;
inline constexpr int lanes = 8;
inline constexpr int gemm_rows = 6;  // 6 x 2 accumulators, 2 of B, 1 broadcast: 15 of 16 registers
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(Vec v, float* p) { _mm256_storeu_ps(p, v); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
#else
using Vec = float __attribute__((vector_size(16)));
inline constexpr int lanes = 4;
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
inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec Min(Vec a, Vec b) { return a < b ? a : b; }
#endif
inline constexpr int gemm_cols = 2 * lanes;

}  // namespace mien::MIEN_LEVEL
