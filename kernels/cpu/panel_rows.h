// The matrix product of bands in panels, [panel][pixel][gemm_cols], that stay in the second cache: C[ROWS, gemm_cols] (+)= A * B. All distances are constants, so
// that two pointers serve a tile. Memory is called up on the way: what the next band will read arrives while this one is multiplied.
#pragma once

#include <array>

#include "mien/kernels/cpu/row_gemm.h"

namespace mien::MIEN_LEVEL {

// Memory to call up, some of it in each product.
class CallUps {
 public:
  void add(const float* data, std::int64_t floats) {
    if (floats > 0) ranges_[static_cast<std::size_t>(count_++)] = {reinterpret_cast<const char*>(data), floats * 4};
  }
  struct Walk {
    const char* data;
    std::int64_t step;  // 0 when there is nothing left: the same line again and again
  };
  Walk take(std::int64_t steps, const float* otherwise) {
    if (next_ == count_) return {reinterpret_cast<const char*>(otherwise), 0};
    Range& r = ranges_[static_cast<std::size_t>(next_)];
    const Walk w{r.data, pace};
    r.data += steps * pace;
    r.bytes -= steps * pace;
    if (r.bytes <= 0) ++next_;
    return w;
  }

 private:
  static constexpr std::int64_t pace = 32;  // bytes a step; whole lines would keep the products waiting (measured)
  struct Range {
    const char* data;
    std::int64_t bytes;
  };
  std::array<Range, 4> ranges_{};
  int count_ = 0, next_ = 0;
};

// `panels` runs of `length` steps; A(i, k) = a[i * ROW_STEP + k * K_STEP], a moves by panel_step from run to run. B(k) = b[k * gemm_cols] all the way.
struct PanelProduct {
  std::int64_t panels, length, panel_step;
  const float *a, *b;
  float* c;
  std::int64_t ldc;
  bool accumulate;
};
inline constexpr int steps_a_turn = lanes == 16 ? 1 : 4;  // where 12 multiplications a step leave little room for other instructions
template <int ROWS, int ROW_STEP, int K_STEP>
[[gnu::noinline]] void panel_kernel(const PanelProduct& q, CallUps::Walk ahead) {
  Vec acc[ROWS][2];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) acc[i][v] = q.accumulate ? Load(q.c + i * q.ldc + v * lanes) : Set(0);
  const float *b = q.b, *panel = q.a;
  const std::int64_t length = q.length;
  for (std::int64_t r = 0; r < q.panels; ++r, panel += q.panel_step) {
    const float* a = panel;
    const auto add = [&](int u) __attribute__((always_inline)) {  // step u from here
      const Vec y0 = Load(b + u * gemm_cols), y1 = Load(b + u * gemm_cols + lanes);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        const Vec x = Set(a[i * ROW_STEP + u * K_STEP]);
        AddProduct(acc[i][0], x, y0);
        AddProduct(acc[i][1], x, y1);
      }
    };
    const auto call_up = [&](int steps) __attribute__((always_inline)) {
      __builtin_prefetch(ahead.data, 0, 1);
      if (steps > 2) __builtin_prefetch(ahead.data + 2 * ahead.step, 0, 1);  // a line for two of them
      ahead.data += steps * ahead.step;
    };
    const float* const stop = b + length * gemm_cols;
    for (const float* const most = b + length / steps_a_turn * steps_a_turn * gemm_cols; b != most; b += steps_a_turn * gemm_cols, a += steps_a_turn * K_STEP) {
      call_up(steps_a_turn);
#pragma GCC unroll 4
      for (int u = 0; u < steps_a_turn; ++u) add(u);
    }
    if constexpr (steps_a_turn > 1)
      for (; b != stop; b += gemm_cols, a += K_STEP) {
        call_up(1);
        add(0);
      }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) Store(acc[i][v], q.c + i * q.ldc + v * lanes);
}

namespace detail_panels {
template <int ROW_STEP, int K_STEP, std::size_t... I>
constexpr std::array<void (*)(const PanelProduct&, CallUps::Walk), sizeof...(I)> kernels(std::index_sequence<I...>) {
  return {&panel_kernel<static_cast<int>(I) + 1, ROW_STEP, K_STEP>...};
}
}  // namespace detail_panels
// By rows - 1. Rows of the left side are pixels, or channels.
constexpr auto pixel_kernels = detail_panels::kernels<gemm_cols, 1>(std::make_index_sequence<rows_for(2)>());
constexpr auto channel_kernels = detail_panels::kernels<1, gemm_cols>(std::make_index_sequence<rows_for(2)>());

}  // namespace mien::MIEN_LEVEL
