// Softmax and log-softmax of contiguous rows, the dimension that runs fastest. Semantics: kernels/ref/softmax.cpp.
#include <bit>
#include <cmath>

#include "mien/kernels/cpu/channels.h"

namespace mien::MIEN_LEVEL {
namespace {

// exp(x) for x <= 0 without a branch, so that loops become vectors: x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial for exp(r) (Taylor to the
// seventh power: below one unit in the last place of a float). 0 where the result would be denormal.
inline float exp_negative(float x) {
  constexpr float lowest = -87.f, rounder = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
  const float clamped = x < lowest ? lowest : x, shifted = clamped * 1.44269504f + rounder, n = shifted - rounder;
  const float r = (clamped - n * .693359375f) + n * 2.12194440e-4f;
  const float p = 1 + r * (1 + r * (.5f + r * (1.f / 6 + r * (1.f / 24 + r * (1.f / 120 + r * (1.f / 720 + r * (1.f / 5040)))))));
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(rounder) + 127u) << 23);
  return x < lowest ? 0 : p * power;
}

float largest(const float* x, std::int64_t n) {
  float part[16];
  for (float& v : part) v = x[0];
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int k = 0; k < 16; ++k) part[k] = x[i + k] > part[k] ? x[i + k] : part[k];
  for (; i < n; ++i) part[0] = x[i] > part[0] ? x[i] : part[0];
  float top = part[0];
  for (const float v : part) top = v > top ? v : top;
  return top;
}

// f(offset of the row, length)
template <class F>
void each_row(const KernelArgs& args, const F& f) {
  const std::int64_t n = args.out[0].size(args.get<SoftmaxParams>().dim);
  parallel_for(n > 0 ? args.out[0].numel() / n : 0, std::max<std::int64_t>(1, (1 << 12) / std::max<std::int64_t>(n, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) f(row * n, n);
  });
}

void run(const KernelArgs& args) {
  const bool log = args.get<SoftmaxParams>().log;
  each_row(args, [&](std::int64_t at, std::int64_t n) {
    const float* __restrict x = args.in[0].ptr<float>() + at;
    float* __restrict y = args.out[0].ptr<float>() + at;
    const float top = largest(x, n);
    for (std::int64_t i = 0; i < n; ++i) y[i] = exp_negative(x[i] - top);
    const float sum = sum_run(n, [=](std::int64_t i) { return y[i]; });
    if (log) {
      const float less = std::log(sum);
      for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - top) - less;
    } else {
      for (std::int64_t i = 0; i < n; ++i) y[i] /= sum;
    }
  });
}

void run_backward(const KernelArgs& args) {
  const bool log = args.get<SoftmaxParams>().log;
  each_row(args, [&](std::int64_t at, std::int64_t n) {
    const float *__restrict g = args.in[0].ptr<float>() + at, *__restrict y = args.in[1].ptr<float>() + at;
    float* __restrict gx = args.out[0].ptr<float>() + at;
    if (log) {
      const float sum = sum_run(n, [=](std::int64_t i) { return g[i]; });
      for (std::int64_t i = 0; i < n; ++i) gx[i] = g[i] - exp_negative(y[i]) * sum;
    } else {
      const float sum = sum_run(n, [=](std::int64_t i) { return g[i] * y[i]; });
      for (std::int64_t i = 0; i < n; ++i) gx[i] = y[i] * (g[i] - sum);
    }
  });
}

const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  for (const auto views : {args.in, args.out})
    for (const View& v : views)
      if (!v.is_contiguous()) return "not contiguous";
  return args.get<SoftmaxParams>().dim == args.out[0].rank() - 1 ? nullptr : "not the last dimension";
}

}  // namespace

extern const KernelEntry softmax_entry{run, decline};
extern const KernelEntry softmax_backward_entry{run_backward, decline};

}  // namespace mien::MIEN_LEVEL
