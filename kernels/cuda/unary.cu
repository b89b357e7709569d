// Elementwise functions of one operand, from the rows of unary_table.h.
#include "mien/kernels/cuda/elementwise.cuh"
#include "mien/kernels/unary_table.h"

namespace mien::cuda {
namespace {

// The kind as a template parameter (flat walks), or at run time where K is `any_kind` (strided walks).
constexpr int any_kind = -1;

template <int K, class T>
struct Value {
  UnaryKind kind;
  double a, b;
  __device__ __forceinline__ T operator()([[maybe_unused]] T x) const {
    if constexpr (K == any_kind) {
      switch (kind) {
#define MIEN_CASE(name, fx, dfx, lo, hi, kink) \
  case UnaryKind::name: return fx;
        MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
      }
      return x;
    } else {
#define MIEN_VALUE(name, fx, dfx, lo, hi, kink) \
  if constexpr (K == static_cast<int>(UnaryKind::name)) return fx;
      MIEN_UNARY(MIEN_VALUE)
#undef MIEN_VALUE
    }
  }
};

template <int K, class T>
struct Slope {
  UnaryKind kind;
  double a, b;
  __device__ __forceinline__ T operator()(T g, [[maybe_unused]] T x, [[maybe_unused]] T y) const {
    return g * slope(x, y);
  }
  __device__ __forceinline__ T slope([[maybe_unused]] T x, [[maybe_unused]] T y) const {
    if constexpr (K == any_kind) {
      switch (kind) {
#define MIEN_CASE(name, fx, dfx, lo, hi, kink) \
  case UnaryKind::name: return dfx;
        MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
      }
      return x;
    } else {
#define MIEN_SLOPE(name, fx, dfx, lo, hi, kink) \
  if constexpr (K == static_cast<int>(UnaryKind::name)) return dfx;
      MIEN_UNARY(MIEN_SLOPE)
#undef MIEN_SLOPE
    }
  }
};

// f64 is for checks: one kernel for all kinds is enough there.
template <class T, class F>
void dispatch_kind(UnaryKind kind, const F& f) {
  if constexpr (std::is_same_v<T, double>) return f(std::integral_constant<int, any_kind>{});
  else
    switch (kind) {
#define MIEN_CASE(name, fx, dfx, lo, hi, kink) \
  case UnaryKind::name: return f(std::integral_constant<int, static_cast<int>(UnaryKind::name)>{});
      MIEN_UNARY(MIEN_CASE)
#undef MIEN_CASE
    }
}

void run_unary(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  dispatch_floats(args.out[0].dtype, "unary", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Compute<T>;
    dispatch_kind<T>(p.kind, [&](auto kind) {
      map<T, T>(args, "unary", Value<decltype(kind)::value, A>{p.kind, p.a, p.b}, Value<any_kind, A>{p.kind, p.a, p.b}, args.out[0], {args.in[0]});
    });
  });
}

void run_unary_backward(const KernelArgs& args) {
  const auto& p = args.get<UnaryParams>();
  dispatch_floats(args.out[0].dtype, "unary_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Compute<T>;
    dispatch_kind<T>(p.kind, [&](auto kind) {
      map<T, T, T, T>(args, "unary_backward", Slope<decltype(kind)::value, A>{p.kind, p.a, p.b}, Slope<any_kind, A>{p.kind, p.a, p.b}, args.out[0],
                      {args.in[0], args.in[1], args.in[2]});
    });
  });
}

}  // namespace

const KernelEntry unary_entry = {run_unary};
const KernelEntry unary_backward_entry = {run_unary_backward};

}  // namespace mien::cuda
