// The unary family: kernels/unary_table.h, one loop per member.
#include "mien/kernels/unary_table.h"

#include <cmath>

#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

using T = float;

template <class F>
void each(const KernelArgs& args, const F& f) {
  dense_loop<1>({&args.in[0]}, args.out[0], [&](std::int64_t n, const auto& in, float* y) {
    const float* x = in[0];
    for (std::int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
  });
}

void run(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  [[maybe_unused]] const T a = static_cast<T>(p.a), b = static_cast<T>(p.b);
  switch (p.kind) {
#define MIEN_CASE(name, f, df, lo, hi, kink)    \
  case UnaryKind::name:                         \
    return each(args, [=](T x) -> T { return f; });
    MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
  }
}

template <class F>
void each_backward(const KernelArgs& args, const F& f) {
  dense_loop<3>({&args.in[0], &args.in[1], &args.in[2]}, args.out[0], [&](std::int64_t n, const auto& in, float* out) {
    const float *g = in[0], *x = in[1], *y = in[2];
    for (std::int64_t i = 0; i < n; ++i) out[i] = g[i] * f(x[i], y[i]);
  });
}

void run_backward(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  [[maybe_unused]] const T a = static_cast<T>(p.a), b = static_cast<T>(p.b);
  switch (p.kind) {
#define MIEN_CASE(name, f, df, lo, hi, kink)    \
  case UnaryKind::name:                         \
    return each_backward(args, [=]([[maybe_unused]] T x, [[maybe_unused]] T y) -> T { return df; });
    MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
  }
}

const char* decline(const KernelArgs& args) {
  if (!all_f32(args) && !all_bf16(args)) return "f32 or bf16 only";
  const View views[] = {args.out[0], args.in[0], args.in[args.in.size() > 1 ? 1 : 0], args.in[args.in.size() > 2 ? 2 : 0]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry unary_entry{run, decline};
extern const KernelEntry unary_backward_entry{run_backward, decline};

}  // namespace mien::MIEN_LEVEL
