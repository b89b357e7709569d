// The unary family: kernels/unary_table.h, one loop per member.
#include "mien/kernels/unary_table.h"

#include <cmath>

#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

using T = float;

template <class F>
void each(const KernelArgs& args, const F& f) {
  const auto* x = args.in[0].ptr<float>();
  auto* y = args.out[0].ptr<float>();
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = f(x[i]);
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
  const auto *g = args.in[0].ptr<float>(), *x = args.in[1].ptr<float>(), *y = args.in[2].ptr<float>();
  auto* out = args.out[0].ptr<float>();
  parallel_for(args.out[0].numel(), block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = g[i] * f(x[i], y[i]);
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
  if (!all_f32(args)) return "f32 only";
  const View views[] = {args.out[0], args.in[0], args.in[args.in.size() > 1 ? 1 : 0], args.in[args.in.size() > 2 ? 2 : 0]};
  return same_dense(views) ? nullptr : "not dense in one order";
}

}  // namespace

extern const KernelEntry unary_entry{run, decline};
extern const KernelEntry unary_backward_entry{run_backward, decline};

}  // namespace mien::MIEN_LEVEL
