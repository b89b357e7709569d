// Products on AMX tiles: C (16 x 16 f32) += A (16 rows of 32 bf16) * B (16 pairs of k, each 16 columns of 2 bf16).
// Eight tile registers: 0-3 hold C (two row tiles x two column tiles), 4-5 A, 6-7 B.
// Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

using Bf16 = std::uint16_t;
inline constexpr std::int64_t tile_size = 16;       // rows of A and C, columns of B and C
inline constexpr std::int64_t tile_depth = 32;      // values of k in one step
inline constexpr std::int64_t tile_values = 512;    // of A or B

inline std::int64_t tiles_of(std::int64_t n) { return (n + tile_size - 1) / tile_size; }
inline std::int64_t steps_of(std::int64_t k) { return (k + tile_depth - 1) / tile_depth; }

// The calling thread's tiles are 16 x 64 bytes from now on. The configuration stays with the thread; it is read back first because another library
// of the process may have changed or released it.
inline void configure_tiles() {
  struct alignas(64) Config {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  const Config wanted;
  alignas(64) Config now;
  __asm__ volatile("sttilecfg %0" : "=m"(now));
  if (std::memcmp(&now, &wanted, sizeof wanted) != 0) __asm__ volatile("ldtilecfg %0" ::"m"(wanted));
}

// Where the tiles of one operand lie: row tile (or column tile) i, step s at data + i * tile + s * step, its 16 lines `line` bytes apart.
struct Tiles {
  const Bf16* data;
  std::int64_t tile, step = tile_values, line = 64;
};

// The tile instructions are written as assembly: g++ 12's intrinsics do not tell the compiler that a tile load reads memory.
#define MIEN_TILE_LOAD(register, address, line) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #register ::"r"(address), "r"(line) : "memory")
#define MIEN_TILE_STORE(register, address, line) __asm__ volatile("tilestored %%tmm" #register ", (%0,%1,1)" ::"r"(address), "r"(line) : "memory")
#define MIEN_TILE_ZERO(register) __asm__ volatile("tilezero %%tmm" #register ::)
#define MIEN_TILE_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

// C of ROWS x COLS tiles; `line` in bytes, 0 repeats one row (a bias).
template <int ROWS, int COLS>
inline void zero_tiles() {
  MIEN_TILE_ZERO(0);
  if constexpr (COLS > 1) MIEN_TILE_ZERO(1);
  if constexpr (ROWS > 1) MIEN_TILE_ZERO(2);
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_ZERO(3);
}
template <int ROWS, int COLS>
inline void load_tiles(const float* c, std::int64_t line) {
  const float* below = c + line * tile_size / 4;
  MIEN_TILE_LOAD(0, c, line);
  if constexpr (COLS > 1) MIEN_TILE_LOAD(1, c + tile_size, line);
  if constexpr (ROWS > 1) MIEN_TILE_LOAD(2, below, line);
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_LOAD(3, below + tile_size, line);
}
template <int ROWS, int COLS>
inline void store_tiles(float* c, std::int64_t line) {
  float* below = c + line * tile_size / 4;
  MIEN_TILE_STORE(0, c, line);
  if constexpr (COLS > 1) MIEN_TILE_STORE(1, c + tile_size, line);
  if constexpr (ROWS > 1) MIEN_TILE_STORE(2, below, line);
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_STORE(3, below + tile_size, line);
}
// C as whole tiles of 256 floats, those of a row side by side, the rows `row` floats apart.
template <int ROWS, int COLS>
inline void load_blocks(const float* c, std::int64_t row) {
  constexpr std::int64_t block = tile_size * tile_size, line = 64;
  MIEN_TILE_LOAD(0, c, line);
  if constexpr (COLS > 1) MIEN_TILE_LOAD(1, c + block, line);
  if constexpr (ROWS > 1) MIEN_TILE_LOAD(2, c + row, line);
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_LOAD(3, c + row + block, line);
}
template <int ROWS, int COLS>
inline void store_blocks(float* c, std::int64_t row) {
  constexpr std::int64_t block = tile_size * tile_size, line = 64;
  MIEN_TILE_STORE(0, c, line);
  if constexpr (COLS > 1) MIEN_TILE_STORE(1, c + block, line);
  if constexpr (ROWS > 1) MIEN_TILE_STORE(2, c + row, line);
  if constexpr (ROWS > 1 && COLS > 1) MIEN_TILE_STORE(3, c + row + block, line);
}
struct Nothing {
  void operator()() const {}
};
// C += A * B over `steps` steps of k, in order; between() after each of them.
template <int ROWS, int COLS, class F = Nothing>
inline void multiply_tiles(std::int64_t steps, const Tiles& a, const Tiles& b, const F& between = {}) {
  const Bf16 *a0 = a.data, *a1 = a.data + a.tile, *b0 = b.data, *b1 = b.data + b.tile;
  for (std::int64_t s = 0; s < steps; ++s, a0 += a.step, a1 += a.step, b0 += b.step, b1 += b.step) {
    MIEN_TILE_LOAD(6, b0, b.line);
    MIEN_TILE_LOAD(4, a0, a.line);
    MIEN_TILE_MULTIPLY(0, 4, 6);
    if constexpr (COLS > 1) {
      MIEN_TILE_LOAD(7, b1, b.line);
      MIEN_TILE_MULTIPLY(1, 4, 7);
    }
    if constexpr (ROWS > 1) {
      MIEN_TILE_LOAD(5, a1, a.line);
      MIEN_TILE_MULTIPLY(2, 5, 6);
      if constexpr (COLS > 1) MIEN_TILE_MULTIPLY(3, 5, 7);
    }
    between();
  }
}

// f(std::integral_constant rows, std::integral_constant cols) for 1 or 2 row tiles and 1 or 2 column tiles.
template <class F>
inline void with_tiles(std::int64_t rows, std::int64_t cols, const F& f) {
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  if (rows > 1 && cols > 1) f(Two{}, Two{});
  else if (rows > 1) f(Two{}, One{});
  else if (cols > 1) f(One{}, Two{});
  else f(One{}, One{});
}

}  // namespace mien::MIEN_LEVEL
