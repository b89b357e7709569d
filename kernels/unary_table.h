// The unary family: one row per function. A new function is one row here and one public function in ops/unary.h.
//   name, f(x), f'(x) (may use y = f(x)), domain of the gradient check [lo, hi], kink (points this near to it are not checked; NAN: none)
// x, y, a, b have the tensor's type T; a and b are parameters.
#pragma once

#include <cmath>

#include "mien/kernels/params.h"

#define MIEN_UNARY(X)                                                                                                            \
  X(neg, -x, T(-1), -2, 2, NAN)                                                                                                  \
  X(exp, std::exp(x), y, -2, 2, NAN)                                                                                             \
  X(log, std::log(x), T(1) / x, .2, 3, NAN)                                                                                      \
  X(sqrt, std::sqrt(x), T(.5) / y, .2, 3, NAN)                                                                                   \
  X(rsqrt, T(1) / std::sqrt(x), T(-.5) * y / x, .2, 3, NAN)                                                                      \
  X(reciprocal, T(1) / x, -y * y, .3, 3, NAN)                                                                                    \
  X(abs, std::abs(x), T(x > T(0)) - T(x < T(0)), -2, 2, 0)                                                                       \
  X(square, x * x, T(2) * x, -2, 2, NAN)                                                                                         \
  X(sin, std::sin(x), std::cos(x), -2, 2, NAN)                                                                                   \
  X(cos, std::cos(x), -std::sin(x), -2, 2, NAN)                                                                                  \
  X(tanh, std::tanh(x), T(1) - y * y, -2, 2, NAN)                                                                                \
  X(sigmoid, T(1) / (T(1) + std::exp(-x)), y * (T(1) - y), -4, 4, NAN)                                                           \
  X(relu, x > T(0) ? x : (x <= T(0) ? T(0) : x), T(x > T(0)), -2, 2, 0)                                                          \
  X(leaky_relu, x > T(0) ? x : T(a) * x, x > T(0) ? T(1) : T(a), -2, 2, 0)                                                       \
  X(softplus, x > T(20) ? x : std::log1p(std::exp(x)), x > T(20) ? T(1) : T(1) / (T(1) + std::exp(-x)), -3, 3, NAN)              \
  X(silu, x / (T(1) + std::exp(-x)), y + (T(1) - y) / (T(1) + std::exp(-x)), -3, 3, NAN)                                         \
  X(clamp, x < T(a) ? T(a) : (x > T(b) ? T(b) : x), (x >= T(a) && x <= T(b)) ? T(1) : T(0), -2, 2, NAN)                          \
  X(affine, T(a) * x + T(b), T(a), -2, 2, NAN)                                                                                   \
  X(pow, std::pow(x, T(a)), T(a) * std::pow(x, T(a) - T(1)), .2, 2, NAN)                                                         \
  X(acos, std::acos(x), T(-1) / std::sqrt((T(1) - x) * (T(1) + x)), -.9, .9, NAN)                                                \
  X(sign, T(x > T(0)) - T(x < T(0)), T(0), -2, 2, 0)

namespace mien {
enum class UnaryKind : std::uint8_t {
#define MIEN_KIND(name, f, df, lo, hi, kink) name,
  MIEN_UNARY(MIEN_KIND)
#undef MIEN_KIND
};
}  // namespace mien
