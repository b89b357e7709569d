// Sums of f32. Each output is summed by one thread: rows of 16 partial sums in float, their totals in double, in a fixed order.
#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {
namespace {

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

void run(const KernelArgs& args) {
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
  if (!all_f32(args)) return "f32 only";
  return args.get<ReduceParams>().kind == ReduceKind::sum ? nullptr : "sum only";
}

}  // namespace

extern const KernelEntry reduce_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
