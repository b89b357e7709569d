// The forms of Winograd's 3x3 convolutions: outputs x outputs pixels from side x side of the input with side^2 products a channel instead of 9 outputs^2.
//   Y = A^T [ (G g G^T) * (B^T d B) ] A        d: input, g: 3x3 weights, *: elementwise, summed over channels before A^T . A
// Lavin, Gray, "Fast algorithms for convolutional neural networks", 2016; the matrices by Toom and Cook's construction.
#pragma once

#include "mien/kernels/cpu/simd.h"
#include "mien/kernels/winograd.h"

namespace mien::MIEN_LEVEL {

// Each form is its transforms along one axis. The last value of the input goes into the last product, and that only into the last output.
// All transforms add and subtract; only the weights are halved.
struct WinogradTwo {
  static constexpr int outputs = 2, side = 4, products = side * side;
  static void input(const Vec (&d)[4], Vec (&to)[4]) {
    to[0] = Sub(d[0], d[2]), to[1] = Add(d[1], d[2]), to[2] = Sub(d[2], d[1]), to[3] = Sub(d[1], d[3]);
  }
  static void output(const Vec (&m)[4], Vec (&to)[2]) {
    to[0] = Add(Add(m[0], m[1]), m[2]);
    to[1] = Sub(Sub(m[1], m[2]), m[3]);
  }
  template <class T>
  static void weights(const T (&g)[3], T (&to)[4]) {
    const T outer = (g[0] + g[2]) * .5f, inner = g[1] * .5f;
    to[0] = g[0], to[1] = outer + inner, to[2] = outer - inner, to[3] = g[2];
  }
};

// Matrices and points: kernels/winograd.h.
struct WinogradFour {
  static constexpr int outputs = 4, side = 6, products = side * side;
  static constexpr float root = static_cast<float>(winograd::root), half_root = static_cast<float>(winograd::half_root);
  // B^T d along one axis.
  static void input(const Vec (&d)[6], Vec (&to)[6]) {
    const Vec even = MulAdd(Set(-2), d[2], d[4]), odd = MulAdd(Set(-2), d[1], d[3]);
    const Vec far_even = MulAdd(Set(-.5f), d[2], d[4]), far_odd = MulAdd(Set(-.5f), d[1], d[3]);
    to[0] = MulAdd(Set(-2.5f), d[2], Add(d[0], d[4]));
    to[1] = MulAdd(Set(half_root), odd, even);
    to[2] = MulAdd(Set(-half_root), odd, even);
    to[3] = MulAdd(Set(root), far_odd, far_even);
    to[4] = MulAdd(Set(-root), far_odd, far_even);
    to[5] = MulAdd(Set(-2.5f), d[3], Add(d[1], d[5]));
  }
  // A^T m.
  static void output(const Vec (&m)[6], Vec (&to)[4]) {
    const Vec near_sum = Add(m[1], m[2]), far_sum = Add(m[3], m[4]);
    const Vec near = m[1] - m[2], far = m[3] - m[4];
    to[0] = Add(m[0], Add(near_sum, far_sum));
    to[1] = MulAdd(Set(half_root), near, Set(root) * far);
    to[2] = MulAdd(Set(.5f), near_sum, Add(far_sum, far_sum));
    to[3] = MulAdd(Set(.5f * half_root), near, MulAdd(Set(2 * root), far, m[5]));
  }
  // G g.
  static void weights(const Vec (&g)[3], Vec (&to)[6]) {
    constexpr auto at = [](int row, int column) { return Set(static_cast<float>(winograd::weight[row][column])); };
    const Vec near = MulAdd(at(1, 0), g[0], at(1, 2) * g[2]), near_odd = at(1, 1) * g[1];
    const Vec far = MulAdd(at(3, 0), g[0], at(3, 2) * g[2]), far_odd = at(3, 1) * g[1];
    to[0] = g[0];
    to[1] = near + near_odd;
    to[2] = near - near_odd;
    to[3] = far + far_odd;
    to[4] = far - far_odd;
    to[5] = g[2];
  }
  // A g, g a gradient of the output.
  static void gradient(const Vec (&g)[4], Vec (&to)[6]) {
    const Vec even = MulAdd(Set(.5f), g[2], g[0]), odd = Set(half_root) * MulAdd(Set(.5f), g[3], g[1]);
    const Vec far_even = MulAdd(Set(2), g[2], g[0]), far_odd = Set(root) * MulAdd(Set(2), g[3], g[1]);
    to[0] = g[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = far_even + far_odd;
    to[4] = far_even - far_odd;
    to[5] = g[3];
  }
  // G^T u, u the gradient of G g G^T.
  static void weight_gradient(const Vec (&u)[6], Vec (&to)[3]) {
    constexpr auto at = [](int row, int column) { return Set(static_cast<float>(winograd::weight[row][column])); };
    const Vec near = u[1] + u[2], far = u[3] + u[4];
    to[0] = MulAdd(at(1, 0), near, MulAdd(at(3, 0), far, u[0]));
    to[1] = MulAdd(at(1, 1), u[1] - u[2], at(3, 1) * (u[3] - u[4]));
    to[2] = MulAdd(at(1, 2), near, MulAdd(at(3, 2), far, u[5]));
  }
};

// Points +-3/8, +-5/4 and infinity: of those with an even and an odd part the most exact, about as exact as a direct sum.
struct WinogradThree {
  static constexpr int outputs = 3, side = 5, products = side * side;
  static constexpr float near = .375f, far = 1.25f, near2 = near * near, far2 = far * far, apart = 2 * (near2 - far2);
  static void input(const Vec (&d)[5], Vec (&to)[5]) {
    const Vec odd = MulAdd(Set(-far2), d[1], d[3]), even = MulAdd(Set(-far2), d[0], d[2]);
    const Vec far_odd = MulAdd(Set(-near2), d[1], d[3]), far_even = MulAdd(Set(-near2), d[0], d[2]);
    to[0] = MulAdd(Set(near), even, odd);
    to[1] = MulAdd(Set(-near), even, odd);
    to[2] = MulAdd(Set(far), far_even, far_odd);
    to[3] = MulAdd(Set(-far), far_even, far_odd);
    to[4] = MulAdd(Set(near2 * far2), d[0], MulAdd(Set(-near2 - far2), d[2], d[4]));
  }
  static void output(const Vec (&m)[5], Vec (&to)[3]) {
    const Vec near_sum = Add(m[0], m[1]), far_sum = Add(m[2], m[3]);
    to[0] = Add(near_sum, far_sum);
    to[1] = MulAdd(Set(near), m[0] - m[1], Set(far) * (m[2] - m[3]));
    to[2] = MulAdd(Set(near2), near_sum, MulAdd(Set(far2), far_sum, m[4]));
  }
  static void weights(const Vec (&g)[3], Vec (&to)[5]) {
    const Vec even = MulAdd(Set(near / apart), g[2], Set(1 / (near * apart)) * g[0]), odd = Set(1 / apart) * g[1];
    const Vec far_even = MulAdd(Set(-far / apart), g[2], Set(-1 / (far * apart)) * g[0]), far_odd = Set(-1 / apart) * g[1];
    to[0] = odd + even;
    to[1] = odd - even;
    to[2] = far_odd + far_even;
    to[3] = far_odd - far_even;
    to[4] = g[2];
  }
  static void gradient(const Vec (&g)[3], Vec (&to)[5]) {
    const Vec even = MulAdd(Set(near2), g[2], g[0]), odd = Set(near) * g[1];
    const Vec far_even = MulAdd(Set(far2), g[2], g[0]), far_odd = Set(far) * g[1];
    to[0] = even + odd;
    to[1] = even - odd;
    to[2] = far_even + far_odd;
    to[3] = far_even - far_odd;
    to[4] = g[2];
  }
  static void weight_gradient(const Vec (&u)[5], Vec (&to)[3]) {
    const Vec even = u[0] - u[1], far_even = u[2] - u[3];
    to[0] = MulAdd(Set(1 / (near * apart)), even, Set(-1 / (far * apart)) * far_even);
    to[1] = Set(1 / apart) * ((u[0] + u[1]) - (u[2] + u[3]));
    to[2] = MulAdd(Set(near / apart), even, MulAdd(Set(-far / apart), far_even, u[4]));
  }
};

// Products of a channel pair on a map of height x width.
template <class F>
constexpr std::int64_t winograd_products(std::int64_t height, std::int64_t width) {
  return (height + F::outputs - 1) / F::outputs * ((width + F::outputs - 1) / F::outputs) * F::products;
}

// u = G g G^T of a 3x3 kernel; T: a vector of kernels, or (WinogradTwo) a number.
template <class F, class T>
void winograd_kernel(const T (&g)[3][3], T (&u)[F::side][F::side]) {
  T turned[F::side][3];
  for (int j = 0; j < 3; ++j) {
    const T column[3] = {g[0][j], g[1][j], g[2][j]};
    T to[F::side];
    F::weights(column, to);
    for (int i = 0; i < F::side; ++i) turned[i][j] = to[i];
  }
  for (int i = 0; i < F::side; ++i) F::weights(turned[i], u[i]);
}

// Turns columns, then rows: N x N values get(i, j) become M x M, put(i, j, value). Inlined: everything that fits stays in registers.
template <int N, int M, class Turn, class Get, class Put>
[[gnu::always_inline]] inline void both_axes(const Turn& turn, const Get& get, const Put& put) {
  Vec turned[N][M];  // [column][row]
#pragma GCC unroll 6
  for (int j = 0; j < N; ++j) {
    Vec d[N];
#pragma GCC unroll 6
    for (int i = 0; i < N; ++i) d[i] = get(i, j);
    turn(d, turned[j]);
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    Vec d[N], row[M];
#pragma GCC unroll 6
    for (int j = 0; j < N; ++j) d[j] = turned[j][i];
    turn(d, row);
#pragma GCC unroll 6
    for (int j = 0; j < M; ++j) put(i, j, row[j]);
  }
}

}  // namespace mien::MIEN_LEVEL
