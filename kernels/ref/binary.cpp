// Elementwise functions of two operands, and where.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// Integers wrap on overflow (two's complement), as in every array language; signed overflow in C++ would be undefined.
template <class T>
using Wrapping = std::conditional_t<std::is_same_v<T, bool>, unsigned, std::make_unsigned_t<std::conditional_t<std::is_same_v<T, bool>, int, T>>>;

template <class T>
T divide(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a / b;
  } else {
    if (b == T(0)) throw ValueError("div", "integer division by zero", "Cast to a floating dtype for inf and nan.");
    if constexpr (std::is_signed_v<T>)
      if (b == T(-1)) return static_cast<T>(Wrapping<T>(0) - static_cast<Wrapping<T>>(a));  // the smallest integer has no positive twin
    return static_cast<T>(a / b);
  }
}

template <BinaryKind K, class T>
auto apply(T a, T b) {
  if constexpr (K == BinaryKind::eq) return a == b;
  else if constexpr (K == BinaryKind::ne) return a != b;
  else if constexpr (K == BinaryKind::lt) return a < b;
  else if constexpr (K == BinaryKind::le) return a <= b;
  else if constexpr (K == BinaryKind::gt) return a > b;
  else if constexpr (K == BinaryKind::ge) return a >= b;
  else if constexpr (K == BinaryKind::maximum) return a != a || a > b ? a : b;  // NaN in either wins
  else if constexpr (K == BinaryKind::minimum) return a != a || a < b ? a : b;
  else if constexpr (K == BinaryKind::div) return divide(a, b);
  else if constexpr (std::is_floating_point_v<T>) {
    if constexpr (K == BinaryKind::add) return a + b;
    else if constexpr (K == BinaryKind::sub) return a - b;
    else return a * b;
  } else {
    const auto wa = static_cast<Wrapping<T>>(a), wb = static_cast<Wrapping<T>>(b);
    if constexpr (K == BinaryKind::add) return static_cast<T>(wa + wb);
    else if constexpr (K == BinaryKind::sub) return static_cast<T>(wa - wb);
    else return static_cast<T>(wa * wb);
  }
}

template <class T, class F>
void dispatch_kind(BinaryKind kind, const F& f) {
#define MIEN_CASE(name) \
  case BinaryKind::name: return f(std::integral_constant<BinaryKind, BinaryKind::name>{});
  switch (kind) {
    MIEN_CASE(add) MIEN_CASE(sub) MIEN_CASE(mul) MIEN_CASE(div) MIEN_CASE(maximum) MIEN_CASE(minimum)
    MIEN_CASE(eq) MIEN_CASE(ne) MIEN_CASE(lt) MIEN_CASE(le) MIEN_CASE(gt) MIEN_CASE(ge)
  }
#undef MIEN_CASE
}

template <class T>
void binary(const KernelArgs& args) {
  const View &va = args.in[0], &vb = args.in[1], &vy = args.out[0];
  const T *a = typed<T>(va), *b = typed<T>(vb);
  dispatch_kind<T>(args.get<BinaryParams>().kind, [&](auto kind) {
    constexpr BinaryKind k = decltype(kind)::value;
    using Out = decltype(apply<k, T>(T{}, T{}));
    Out* y = typed<Out>(vy);
    iterate<3>(vy.shape, {va.strides, vb.strides, vy.strides}, [&](const Offsets<3>& o) { y[o[2]] = apply<k, T>(a[o[0]], b[o[1]]); });
  });
}

void run_binary(const KernelArgs& args) {
  dispatch_compute(args.in[0].dtype, "binary", [&](auto t) { binary<decltype(t)>(args); });
}

void run_where(const KernelArgs& args) {
  const View &condition = args.in[0], &va = args.in[1], &vb = args.in[2], &vy = args.out[0];
  internal_check(va.dtype == vy.dtype && vb.dtype == vy.dtype && condition.dtype == DType::boolean, "where: dtypes differ");
  const auto* c = condition.ptr<std::uint8_t>();
  dispatch_size(vy.dtype, [&](auto t) {
    using T = decltype(t);
    const T *a = va.ptr<T>(), *b = vb.ptr<T>();
    T* y = vy.ptr<T>();
    iterate<4>(vy.shape, {condition.strides, va.strides, vb.strides, vy.strides},
               [&](const Offsets<4>& o) { y[o[3]] = c[o[0]] ? a[o[1]] : b[o[2]]; });
  });
}

}  // namespace

const KernelEntry binary_entry = {run_binary};
const KernelEntry where_entry = {run_where};

}  // namespace mien::ref
