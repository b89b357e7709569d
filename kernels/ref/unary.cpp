// Elementwise functions of one operand, from the rows of unary_table.h.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/unary_table.h"

namespace mien::ref {
namespace {

// f(value of the kind as a compile-time constant): the switch stands outside the loops.
template <class F>
void dispatch_kind(UnaryKind kind, const F& f) {
  switch (kind) {
#define MIEN_CASE(name, fx, dfx, lo, hi, kink) \
  case UnaryKind::name: return f(std::integral_constant<UnaryKind, UnaryKind::name>{});
    MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
  }
}

template <UnaryKind K, class T>
T value([[maybe_unused]] T x, [[maybe_unused]] double a, [[maybe_unused]] double b) {
#define MIEN_VALUE(name, fx, dfx, lo, hi, kink) \
  if constexpr (K == UnaryKind::name) return fx;
  MIEN_UNARY(MIEN_VALUE)
#undef MIEN_VALUE
}

template <UnaryKind K, class T>
T slope([[maybe_unused]] T x, [[maybe_unused]] T y, [[maybe_unused]] double a, [[maybe_unused]] double b) {
#define MIEN_SLOPE(name, fx, dfx, lo, hi, kink) \
  if constexpr (K == UnaryKind::name) return dfx;
  MIEN_UNARY(MIEN_SLOPE)
#undef MIEN_SLOPE
}

template <class T>
void unary(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  const T* x = typed<T>(args.in[0]);
  T* y = typed<T>(args.out[0]);
  dispatch_kind(p.kind, [&](auto kind) {
    iterate<2>(args.out[0].shape, {args.in[0].strides, args.out[0].strides},
               [&](const Offsets<2>& o) { y[o[1]] = value<decltype(kind)::value, T>(x[o[0]], p.a, p.b); });
  });
}

template <class T>
void unary_backward(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  const T *g = typed<T>(args.in[0]), *x = typed<T>(args.in[1]), *y = typed<T>(args.in[2]);
  T* gx = typed<T>(args.out[0]);
  dispatch_kind(p.kind, [&](auto kind) {
    iterate<4>(args.out[0].shape, {args.in[0].strides, args.in[1].strides, args.in[2].strides, args.out[0].strides},
               [&](const Offsets<4>& o) { gx[o[3]] = g[o[0]] * slope<decltype(kind)::value, T>(x[o[1]], y[o[2]], p.a, p.b); });
  });
}

void run_unary(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "unary", [&](auto t) { unary<decltype(t)>(args); });
}
void run_unary_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "unary_backward", [&](auto t) { unary_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry unary_entry = {run_unary};
const KernelEntry unary_backward_entry = {run_unary_backward};

}  // namespace mien::ref
