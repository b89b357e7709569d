// Small things that the CPU kernels share.
#pragma once

#include <initializer_list>

#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/kernels/params.h"

namespace mien::MIEN_LEVEL {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

inline bool all_f32(const KernelArgs& a) {
  for (const auto& v : a.in)
    if (v.dtype != DType::f32) return false;
  for (const auto& v : a.out)
    if (v.dtype == DType::f64 || v.dtype == DType::f16 || v.dtype == DType::bf16) return false;
  return true;
}

// Memory that will be read or written soon into the second cache; the address need not be memory. The caches' own prefetching stops at the end of each page and
// gives one thread 14 GB/s on an Intel Xeon of 2024; streams that are called up a page ahead run at 25.
inline void call_up(const void* p) { __builtin_prefetch(p, 0, 1); }
inline constexpr std::int64_t page_bytes = 4096, page_floats = page_bytes / 4;
// What lies one page behind p.
template <class T>
inline void call_up_ahead(const T* p) {
  call_up(p + page_bytes / static_cast<std::int64_t>(sizeof(T)));
}

// f(from, to) over [begin, end), a few lines at a time, while the same places of all streams a page further are called up.
template <class T, class F>
inline void stream(std::int64_t begin, std::int64_t end, std::initializer_list<const T*> streams, const F& f) {
  constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T)), some = 8 * line;
  for (std::int64_t i = begin; i < end; i += some) {
    for (const T* p : streams)
      for (std::int64_t k = 0; k < some; k += line) call_up_ahead(p + i + k);
    f(i, i + some < end ? i + some : end);
  }
}

// An optional third input, the bias.
inline bool strided_bias(const KernelArgs& a) { return a.in.size() > 2 && a.in[2].stride(0) != 1 && a.in[2].size(0) != 1; }

// f(x, w, y) with the matrices of every index of the leading dimensions of a matmul whose output is contiguous.
template <class F>
void for_matrices(const KernelArgs& a, const F& f) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  const int r = y.rank();
  std::int64_t count = 1;
  for (int d = 0; d < r - 2; ++d) count *= y.size(d);
  for (std::int64_t b = 0; b < count; ++b) {
    std::int64_t rest = b, xo = 0, wo = 0;
    for (int d = r - 3; d >= 0; --d) {
      const std::int64_t i = rest % y.size(d);
      rest /= y.size(d);
      xo += i * x.stride(d);
      wo += i * w.stride(d);
    }
    f(x.ptr<float>() + xo, w.ptr<float>() + wo, y.ptr<float>() + b * y.size(r - 2) * y.size(r - 1));
  }
}

// Work split into a fixed number of shares, each with scratch memory of its own.
inline constexpr std::int64_t max_shares = 16;
inline std::int64_t shares_of(std::int64_t items) { return items < max_shares ? (items < 1 ? 1 : items) : max_shares; }

// f(share, begin, end) over [0, items).
template <class F>
void for_shares(std::int64_t items, const F& f) {
  const std::int64_t shares = shares_of(items);
  parallel_for(shares, 1, [&](std::int64_t s, std::int64_t) { f(s, items * s / shares, items * (s + 1) / shares); });
}

// Distance of pixels where channels lie side by side and pixels follow each other evenly: channels_last, or a slice of its channels. 0 where they don't.
inline std::int64_t pixel_step(const View& v) {
  if ((v.rank() != 2 && v.rank() != 4) || (v.size(1) != 1 && v.stride(1) != 1)) return 0;
  std::int64_t step = v.size(1), pixels = 1;
  for (const int d : {3, 2, 0}) {
    if (d >= v.rank() || v.size(d) == 1) continue;
    if (pixels == 1) step = v.stride(d);
    if (v.stride(d) != step * pixels) return 0;
    pixels *= v.size(d);
  }
  return step < v.size(1) ? 0 : step;
}

// The first way that takes the problem; the last one when none does.
template <const KernelEntry&... WAYS>
struct FirstOf {
  static const KernelEntry& choose(const KernelArgs& a) {
    const KernelEntry* chosen = nullptr;
    ((chosen = &WAYS, !WAYS.decline(a)) || ...);
    return *chosen;
  }
  static void run(const KernelArgs& a) { choose(a).run(a); }
  static const char* decline(const KernelArgs& a) { return choose(a).decline(a); }
  static std::int64_t workspace(const KernelArgs& a) { return choose(a).workspace(a); }
  static constexpr KernelEntry entry{run, decline, workspace};
};

}  // namespace mien::MIEN_LEVEL
