// Elementwise functions of two operands, and where. Integers wrap; an integer divided by zero gives 0, since a kernel cannot throw.
#include "mien/kernels/cuda/elementwise.cuh"

namespace mien::cuda {
namespace {

template <class T>
using Wrapping = std::conditional_t<std::is_same_v<T, bool>, unsigned, std::make_unsigned_t<std::conditional_t<std::is_same_v<T, bool>, int, T>>>;

template <class T>
__device__ __forceinline__ T divide(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a / b;
  } else {
    if (b == T(0)) return T(0);
    if constexpr (std::is_signed_v<T>)
      if (b == T(-1)) return static_cast<T>(Wrapping<T>(0) - static_cast<Wrapping<T>>(a));  // the smallest integer has no positive twin
    return static_cast<T>(a / b);
  }
}

template <BinaryKind K, class T>
__device__ __forceinline__ auto apply(T a, T b) {
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

template <BinaryKind K, class T>
struct One {
  __device__ __forceinline__ auto operator()(T a, T b) const { return apply<K, T>(a, b); }
};
// The kind at run time, for the strided walk.
template <class T>
struct Arithmetic {
  BinaryKind kind;
  __device__ __forceinline__ T operator()(T a, T b) const {
    switch (kind) {
      case BinaryKind::add: return apply<BinaryKind::add, T>(a, b);
      case BinaryKind::sub: return apply<BinaryKind::sub, T>(a, b);
      case BinaryKind::mul: return apply<BinaryKind::mul, T>(a, b);
      case BinaryKind::div: return apply<BinaryKind::div, T>(a, b);
      case BinaryKind::maximum: return apply<BinaryKind::maximum, T>(a, b);
      default: return apply<BinaryKind::minimum, T>(a, b);
    }
  }
};
template <class T>
struct Comparison {
  BinaryKind kind;
  __device__ __forceinline__ bool operator()(T a, T b) const {
    switch (kind) {
      case BinaryKind::eq: return a == b;
      case BinaryKind::ne: return a != b;
      case BinaryKind::lt: return a < b;
      case BinaryKind::le: return a <= b;
      case BinaryKind::gt: return a > b;
      default: return a >= b;
    }
  }
};

void run_binary(const KernelArgs& args) {
  const BinaryKind kind = args.get<BinaryParams>().kind;
  const View& y = args.out[0];
  dispatch_every(args.in[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Compute<T>;
    const std::array<View, 2> in{args.in[0], args.in[1]};
    switch (kind) {
#define MIEN_CASE(name, Out, Any) \
  case BinaryKind::name: return map<Out, T, T>(args, "binary", One<BinaryKind::name, A>{}, Any<A>{kind}, y, in);
      MIEN_CASE(add, T, Arithmetic)
      MIEN_CASE(sub, T, Arithmetic)
      MIEN_CASE(mul, T, Arithmetic)
      MIEN_CASE(div, T, Arithmetic)
      MIEN_CASE(maximum, T, Arithmetic)
      MIEN_CASE(minimum, T, Arithmetic)
      MIEN_CASE(eq, bool, Comparison)
      MIEN_CASE(ne, bool, Comparison)
      MIEN_CASE(lt, bool, Comparison)
      MIEN_CASE(le, bool, Comparison)
      MIEN_CASE(gt, bool, Comparison)
      MIEN_CASE(ge, bool, Comparison)
#undef MIEN_CASE
    }
  });
}

template <class T>
struct Where {
  __device__ __forceinline__ T operator()(std::uint8_t condition, T a, T b) const { return condition ? a : b; }
};
void run_where(const KernelArgs& args) {
  dispatch_bytes(item_size(args.out[0].dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    if constexpr (sizeof(T) <= 8) map<T, std::uint8_t, T, T>(args, "where", Where<T>{}, args.out[0], {args.in[0], args.in[1], args.in[2]});
  });
}

}  // namespace

const KernelEntry binary_entry = {run_binary};
const KernelEntry where_entry = {run_where};

}  // namespace mien::cuda
