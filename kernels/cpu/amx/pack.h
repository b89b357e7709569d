// f32 operands into bf16 tiles. A factor has one part (bf16) or two (bf16x3: x = high + low + an error of at most 2^-16 x), each in a buffer of its own.
#pragma once

#include <algorithm>

#include "mien/kernels/cpu/amx/tiles.h"

namespace mien::MIEN_LEVEL {

inline int parts_of(Precision p) { return p == Precision::bf16 ? 1 : 2; }

// Where the parts of a factor go: part p of what belongs at `offset` lies at data + p * part + offset.
struct Parts {
  Bf16* data;
  std::int64_t part;  // distance of the parts
  int count;
};

inline __mmask16 first_lanes(std::int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }
// 32 values as bf16 in order: low half from a.
inline __m512i to_bf16(__m512 a, __m512 b) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)); }
inline __m512 widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
// What is left of 32 values after their high parts.
inline __m512i low_part(__m512 a, __m512 b, __m512i high) {
  return to_bf16(_mm512_sub_ps(a, widen(_mm512_castsi512_si256(high))), _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64(high, 1))));
}
// (a0 b0 a1 b1 ...): two lines of 16 channels as pairs.
inline __m512i interleave(__m512i v) {
  alignas(64) static constexpr std::uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), v);
}

// Rows of 16 pairs become columns.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

inline void store_lines(__m512i (&lines)[16], bool turn, Bf16* out) {
  if (turn) transpose(lines);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * tile_depth, lines[i]);
}

enum class Side { left, right };  // a tile of A: lines along k; of B: pairs of k, lines along the columns

// 32 lines of k, each with `count` neighbouring values of the tile's other dimension, as one tile.
inline void pack_lines(const float* const* k, std::int64_t offset, std::int64_t count, Side side, const Parts& to, std::int64_t at) {
  const __mmask16 mask = first_lanes(count);
  __m512i high[16], low[16];
  const auto value = [&](int i) { return _mm512_maskz_loadu_ps(mask, k[i] + offset); };
  if (to.count == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) high[i] = interleave(to_bf16(value(2 * i), value(2 * i + 1)));
    return store_lines(high, side == Side::left, to.data + at);
  }
  for (int i = 0; i < 16; ++i) {
    const __m512 a = value(2 * i), b = value(2 * i + 1);
    const __m512i h = to_bf16(a, b);
    high[i] = interleave(h);
    low[i] = interleave(low_part(a, b, h));
  }
  store_lines(high, side == Side::left, to.data + at);
  store_lines(low, side == Side::left, to.data + to.part + at);
}

// The same of bf16 values.
inline void pack_lines(const Bf16* const* k, std::int64_t offset, std::int64_t count, Side side, const Parts& to, std::int64_t at) {
  const __mmask16 mask = first_lanes(count);
  __m512i pairs[16];
  const auto value = [&](int i) { return _mm256_maskz_loadu_epi16(mask, k[i] + offset); };
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) pairs[i] = interleave(_mm512_inserti64x4(_mm512_castsi256_si512(value(2 * i)), value(2 * i + 1), 1));
  store_lines(pairs, side == Side::left, to.data + at);
}

// Lines of k as right sides of their values [offset, end): the tile of 16 values at `at`, of the next 16 at `at` + panel, and so on. The next 32 lines are called up meanwhile.
template <class T>
inline void pack_pairs(const T* const* k, std::int64_t offset, std::int64_t end, const Parts& to, std::int64_t at, std::int64_t panel) {
  if constexpr (std::is_same_v<T, Bf16>) {
    alignas(64) static constexpr std::uint16_t low[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i first = _mm512_load_si512(low), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (; offset + tile_depth <= end; offset += tile_depth, at += 2 * panel)  // whole lines of memory
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        call_up(k[tile_depth + 2 * i] + offset);
        call_up(k[tile_depth + 2 * i + 1] + offset);
        const __m512i a = _mm512_loadu_si512(k[2 * i] + offset), b = _mm512_loadu_si512(k[2 * i + 1] + offset);
        _mm512_storeu_si512(to.data + at + i * tile_depth, _mm512_permutex2var_epi16(a, first, b));
        _mm512_storeu_si512(to.data + at + panel + i * tile_depth, _mm512_permutex2var_epi16(a, second, b));
      }
  }
  for (; offset < end; offset += tile_size, at += panel) pack_lines(k, offset, end - offset, Side::right, to, at);
}

// One tile of X(i, k) = x[i * i_step + k * k_step], i below `rows`, k below `depth`; zeros past them.
inline void pack_tile(const float* x, std::int64_t i_step, std::int64_t k_step, std::int64_t rows, std::int64_t depth, Side side, const Parts& to, std::int64_t at) {
  constexpr std::int64_t ahead = 128;  // floats: many short runs of memory, which no prefetcher of the processor's follows
  rows = std::min(rows, tile_size);
  depth = std::min(depth, tile_depth);
  if (i_step == 1) {
    const float* lines[tile_depth];
    alignas(64) static constexpr float zeros[tile_size] = {};
    for (std::int64_t k = 0; k < tile_depth; ++k) {
      lines[k] = k < depth ? x + k * k_step : zeros;
      call_up(lines[k] + ahead);
    }
    return pack_lines(lines, 0, rows, side, to, at);
  }
  const __mmask16 first = first_lanes(depth), second = first_lanes(depth - 16);
  const __m512i steps = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(static_cast<int>(k_step)));
  const auto load = [&](const float* p, __mmask16 mask) {
    return k_step == 1 ? _mm512_maskz_loadu_ps(mask, p) : _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, steps, p, 4);
  };
  __m512i high[16], low[16];
  for (int i = 0; i < 16; ++i) {
    const float* p = x + i * i_step;
    call_up(p + ahead);
    call_up(p + ahead + 16);
    const __m512 a = i < rows ? load(p, first) : _mm512_setzero_ps(), b = i < rows && second ? load(p + 16 * k_step, second) : _mm512_setzero_ps();
    high[i] = to_bf16(a, b);
    if (to.count > 1) low[i] = low_part(a, b, high[i]);
  }
  store_lines(high, side == Side::right, to.data + at);
  if (to.count > 1) store_lines(low, side == Side::right, to.data + to.part + at);
}

// C += A * B for every pair of parts that counts; the small terms first, between() after each step of the last.
template <int ROWS, int COLS, class F = Nothing>
inline void multiply_parts(std::int64_t steps, Tiles a, std::int64_t a_part, Tiles b, std::int64_t b_part, int parts, const F& between = {}) {
  if (parts > 1) {
    Tiles low = a;
    low.data += a_part;
    multiply_tiles<ROWS, COLS>(steps, low, b);
    low = b;
    low.data += b_part;
    multiply_tiles<ROWS, COLS>(steps, a, low);
  }
  multiply_tiles<ROWS, COLS>(steps, a, b, between);
}

}  // namespace mien::MIEN_LEVEL
