// The largest value of one window of a channels_last picture (f32, or bf16 where pool_window says T), a vector of channels at a time.
#pragma once

#include <limits>

#include "mien/kernels/cpu/half.h"

namespace mien::MIEN_LEVEL {

struct Window {
  std::int64_t rows, cols;           // inside the picture; 0 where the window lies outside
  std::int64_t row_step, col_step;   // in elements
  std::int32_t row_number, col_number;  // what a step adds to the winner's number
};
struct Winner {
  Vec value, raw;  // raw: what the activation made the value of
  Ints at;
};

// A winner against one more value.
inline void challenge(Winner& best, Vec raw, Vec value, Ints at) {
  const Mask better = Beats(value, best.value);
  best.value = Select(better, value, best.value);
  best.raw = Select(better, raw, best.raw);
  best.at = Select(better, at, best.at);
}

// A whole window of SIZE x SIZE, numbered row by row from 0, all lanes.
template <int SIZE, class F>
inline Winner square_window(const float* x, std::int64_t row_step, std::int64_t col_step, const F& f) {
  const Vec corner = Load(x);
  Winner best{f(corner), corner, SetInt(0)};
#pragma GCC unroll 9
  for (int k = 1; k < SIZE * SIZE; ++k) {
    const Vec raw = Load(x + k / SIZE * row_step + k % SIZE * col_step);
    challenge(best, raw, f(raw), SetInt(k));
  }
  return best;
}

// The largest number of such a window and its place; false if there is a NaN.
template <int SIZE>
inline bool largest_number(const float* x, std::int64_t row_step, std::int64_t col_step, Vec& largest, Ints& at) {
  constexpr int all = SIZE * SIZE;
  Vec v[all];
#pragma GCC unroll 9
  for (int k = 0; k < all; ++k) v[k] = Load(x + k / SIZE * row_step + k % SIZE * col_step);
  Mask odd = Unordered(v[0], v[all - 1]);
#pragma GCC unroll 4
  for (int k = 1; k < all - 1; k += 2) odd |= Unordered(v[k], v[k + 1 < all - 1 ? k + 1 : k]);
  if (Any(odd)) return false;
  largest = v[0];
  at = SetInt(0);
#pragma GCC unroll 9
  for (int k = 1; k < all; ++k) {
    const Mask better = Greater(v[k], largest);
    largest = Select(better, v[k], largest);
    at = Select(better, SetInt(k), at);
  }
  return true;
}

// `f` is applied to what the window holds before it is compared. Row by row: the first of equals wins, NaN wins over numbers. n lanes.
template <class T, class F>
inline Winner pool_window(const T* x, const Window& w, std::int32_t first, std::int64_t n, const F& f) {
  if (w.rows <= 0 || w.cols <= 0) return {Set(-std::numeric_limits<float>::infinity()), Set(0), SetInt(-1)};
  const Vec corner = Load(x, n);
  Winner best{f(corner), corner, SetInt(first)};
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = i == 0 ? 1 : 0; j < w.cols; ++j) {
      const Vec raw = Load(x + i * w.row_step + j * w.col_step, n);
      challenge(best, raw, f(raw), SetInt(first + static_cast<std::int32_t>(i) * w.row_number + static_cast<std::int32_t>(j) * w.col_number));
    }
  return best;
}

// PReLU of a window and its largest value, all lanes. SIZE: of windows that are mostly square, 0 for any other. PReLU rises where its slope is positive (`rises`: in
// all lanes): then the largest value before it wins, and only that one is activated. (Of two that it rounds to the same number
// the larger one wins then, not the first.)
template <int SIZE>
inline Winner prelu_winner(const float* x, const Window& w, Vec slope, bool rises) {
  const auto activate = [slope](Vec v) { return prelu_of(v, slope); };
  if constexpr (SIZE > 0)
    if (w.rows == SIZE && w.cols == SIZE) {
      Vec largest;
      Ints at;
      if (rises && largest_number<SIZE>(x, w.row_step, w.col_step, largest, at)) return {activate(largest), largest, at};
      return square_window<SIZE>(x, w.row_step, w.col_step, activate);
    }
  return pool_window(x, w, 0, lanes, activate);
}

}  // namespace mien::MIEN_LEVEL
