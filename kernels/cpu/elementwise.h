// Loops over tensors that lie densely in one and the same order: then the order does not matter. And over rows of tensors that don't.
#pragma once

#include <algorithm>
#include <array>

#include "mien/kernels/cpu/half.h"
#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

inline constexpr std::int64_t block = 1 << 14;  // elements a thread takes at a time

// All views have the same strides and no holes.
inline bool same_dense(std::span<const View> views) {
  const View& first = views[0];
  if (!first.is_contiguous() && !first.is_channels_last()) return false;
  for (const auto& v : views.subspan(1)) {
    if (!(v.shape == first.shape)) return false;
    for (int d = 0; d < v.rank(); ++d)
      if (v.shape[d] != 1 && v.strides[d] != first.strides[d]) return false;
  }
  return true;
}

inline bool all_bf16(const KernelArgs& a) {
  for (const auto views : {a.in, a.out})
    for (const View& v : views)
      if (v.dtype != DType::bf16) return false;
  return true;
}

// f(n, inputs, output) over tensors of one dense order, all f32 or all bf16: n neighbouring values in f32.
template <std::size_t N, class F>
void dense_loop(const std::array<const View*, N>& in, const View& out, const F& f) {
  constexpr std::int64_t some = 256;
  if (out.dtype == DType::f32) {
    parallel_for(out.numel(), block, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; i += some) {
        std::array<const float*, N> from;
        for (std::size_t k = 0; k < N; ++k) {
          const View& v = *in[k];
          from[k] = v.ptr<float>() + i;
        }
        float* to = out.ptr<float>() + i;
        for (std::int64_t line = 0; line < some; line += 16) {
          for (const float* p : from) call_up_ahead(p + line);
          call_up_ahead(to + line);
        }
        f(std::min(some, end - i), from, to);
      }
    });
    return;
  }
  parallel_for(out.numel(), block, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float values[N + 1][some];
    std::array<const float*, N> from;
    for (std::size_t k = 0; k < N; ++k) from[k] = values[k];
    for (std::int64_t i = begin; i < end; i += some) {
      const std::int64_t n = std::min(some, end - i);
      for (std::size_t k = 0; k < N; ++k) {
        const View& v = *in[k];
        const bfloat16* p = v.ptr<bfloat16>() + i;
        for (std::int64_t line = 0; line < some; line += 32) call_up_ahead(p + line);
        for (std::int64_t t = 0; t < n; ++t) values[k][t] = widened(p[t]);
      }
      f(n, from, values[N]);
      bfloat16* to = out.ptr<bfloat16>() + i;
      for (std::int64_t line = 0; line < some; line += 32) call_up_ahead(to + line);
      for (std::int64_t t = 0; t < n; ++t) to[t] = narrowed(values[N][t]);
    }
  });
}

// Operands of one shape and any strides, cut into rows: dimensions in the order of the first operand's memory, joined where every operand steps
// evenly, and the densest one is the row. A value per channel against a channels_last picture becomes [pixels][channels] with strides 0, 1.
template <std::size_t N>
class Rows {
 public:
  explicit Rows(const std::array<const View*, N>& views) {
    const View& first = *views[0];
    int order[max_rank], rank = 0;
    for (int d = 0; d < first.rank(); ++d) {
      if (first.size(d) == 1) continue;
      int at = rank++;  // insertion: stable, and std::stable_sort would allocate
      for (; at > 0 && std::abs(first.stride(order[at - 1])) < std::abs(first.stride(d)); --at) order[at] = order[at - 1];
      order[at] = d;
    }
    for (int k = 0; k < rank; ++k) {
      const int d = order[k];
      bool even = rank_ > 0;
      for (std::size_t i = 0; i < N && even; ++i) even = strides_[i][rank_ - 1] == views[i]->stride(d) * first.size(d);
      if (even) --rank_;
      sizes_[rank_] = even ? sizes_[rank_] * first.size(d) : first.size(d);
      for (std::size_t i = 0; i < N; ++i) strides_[i][rank_] = views[i]->stride(d);
      ++rank_;
    }
    if (rank_ == 0) {
      sizes_[0] = 1;
      for (auto& s : strides_) s[0] = 1;
      rank_ = 1;
    }
    for (int d = 0; d < rank_ - 1; ++d) count_ *= sizes_[d];
  }
  std::int64_t length() const { return sizes_[rank_ - 1]; }
  std::int64_t step(std::size_t operand) const { return strides_[operand][rank_ - 1]; }
  // f(offsets of the row's first element), rows shared out among threads.
  template <class F>
  void each(const F& f) const {
    parallel_for(length() > 0 ? count_ : 0, std::max<std::int64_t>(1, block / std::max<std::int64_t>(length(), 1)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::array<std::int64_t, N> at{};
        std::int64_t rest = row;
        for (int d = rank_ - 2; d >= 0; --d) {
          const std::int64_t i = d > 0 ? rest % sizes_[d] : rest;
          rest /= sizes_[d];
          for (std::size_t k = 0; k < N; ++k) at[k] += i * strides_[k][d];
        }
        f(at);
      }
    });
  }

 private:
  int rank_ = 0;
  std::int64_t count_ = 1;
  std::array<std::int64_t, max_rank> sizes_{};
  std::array<std::array<std::int64_t, max_rank>, N> strides_{};
};

}  // namespace mien::MIEN_LEVEL
