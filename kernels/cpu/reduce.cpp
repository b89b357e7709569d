// Sums of f32, and of bf16 per channel. Each output is summed by one thread: rows of 16 partial sums in float, their totals in double, in a fixed order. Sums per channel of a
// channels_last picture go along the channels instead, in fixed shares that are added in order.
#include "mien/kernels/cpu/channels.h"
#include "mien/kernels/cpu/half.h"

namespace mien::MIEN_LEVEL {
namespace {

std::int64_t round_even(std::int64_t n) { return (n + 1) / 2 * 2; }

double row_sum(const float* x, std::int64_t n, std::int64_t step) {
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += 1024) {
    const std::int64_t end = begin + 1024 < n ? begin + 1024 : n;
    float part[16] = {};
    std::int64_t i = begin;
    if (step == 1)
      for (; i + 16 <= end; i += 16)
        for (int k = 0; k < 16; ++k) part[k] += x[i + k];
    for (; i < end; ++i) part[i % 16] += x[i * step];
    for (const float v : part) total += static_cast<double>(v);
  }
  return total;
}

// Whether all but dimension 1 is summed and channels lie side by side.
bool per_channel(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (pixel_step(x) == 0 || x.numel() == 0 || x.size(1) < 2 || y.size(1) != x.size(1)) return false;
  return y.numel() == x.size(1);
}
// Workspace: for each share the chunk's sums in float and its totals in double.
std::int64_t workspace(const KernelArgs& args) { return per_channel(args) ? 12 * max_shares * round_even(args.in[0].size(1)) : 0; }
inline void put(float& y, double v) { y = static_cast<float>(v); }
inline void put(bfloat16& y, double v) { y = narrowed(static_cast<float>(v)); }
template <class T>
void channels(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  const PixelRows r = pixel_rows(x);
  const std::int64_t n = r.channels, padded = round_even(n), step = pixel_step(x), at_once = std::max<std::int64_t>(4, (1 << 13) / n), chunks = (r.pixels + at_once - 1) / at_once;
  auto* totals = static_cast<double*>(args.workspace);
  auto* parts = reinterpret_cast<float*>(totals + max_shares * padded);
  for_shares(chunks, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    double* total = totals + share * padded;
    float* part = parts + share * padded;
    std::fill_n(total, n, 0.0);
    for (std::int64_t k = begin; k < end; ++k) {
      const T* rows = x.ptr<T>() + k * at_once * step;
      sum_rows(std::min(at_once, r.pixels - k * at_once), n, part, [=](std::int64_t row, std::int64_t c) { return widened(rows[row * step + c]); });
      for (std::int64_t c = 0; c < n; ++c) total[c] += static_cast<double>(part[c]);
    }
  });
  for (std::int64_t c = 0; c < n; ++c) {
    double sum = 0;
    for (std::int64_t share = 0; share < shares_of(chunks); ++share) sum += totals[share * padded + c];
    put(y.ptr<T>()[c * y.stride(1)], sum);
  }
}

void run(const KernelArgs& args) {
  if (args.out[0].dtype == DType::bf16) return channels<bfloat16>(args);
  if (per_channel(args)) return channels<float>(args);
  const View &x = args.in[0], &y = args.out[0];
  // The reduced dimensions; the one with the smallest stride is the innermost loop.
  int reduced[max_rank], number = 0;
  std::int64_t outputs = 1, inputs = 1;
  for (int d = 0; d < x.rank(); ++d) {
    outputs *= y.size(d);
    if (y.size(d) == x.size(d)) continue;
    reduced[number++] = d;
    inputs *= x.size(d);
  }
  int inner = number - 1;
  for (int k = 0; k < number; ++k)
    if (x.stride(reduced[k]) < x.stride(reduced[inner])) inner = k;
  const std::int64_t n = number ? x.size(reduced[inner]) : 1, step = number ? x.stride(reduced[inner]) : 1, outer = n > 0 ? inputs / n : 0;
  parallel_for(outputs, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(inputs, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const float* from = x.ptr<float>();
      float* to = y.ptr<float>();
      std::int64_t rest = o;
      for (int d = x.rank() - 1; d >= 0; --d) {
        const std::int64_t i = rest % y.size(d);
        rest /= y.size(d);
        if (y.size(d) == x.size(d)) from += i * x.stride(d);
        to += i * y.stride(d);
      }
      double total = 0;
      for (std::int64_t r = 0; r < outer; ++r) {
        const float* row = from;
        std::int64_t left = r;
        for (int k = number - 1; k >= 0; --k) {
          if (k == inner) continue;
          row += left % x.size(reduced[k]) * x.stride(reduced[k]);
          left /= x.size(reduced[k]);
        }
        total += row_sum(row, n, step);
      }
      *to = static_cast<float>(total);
    }
  });
}
const char* decline(const KernelArgs& args) {
  const bool half = args.in[0].dtype == DType::bf16 && args.out[0].dtype == DType::bf16;
  if (!all_f32(args) && !(half && per_channel(args))) return "neither f32 nor bf16 a channel";
  return args.get<ReduceParams>().kind == ReduceKind::sum ? nullptr : "sum only";
}

}  // namespace

extern const KernelEntry reduce_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
