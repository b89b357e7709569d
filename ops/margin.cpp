#include "mien/ops/margin.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/pick.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// cos(theta + m) of cosines [N]. The sine keeps away from 0, where its derivative is infinite.
Tensor additive_angle(const Tensor& cosine, double m) {
  const Tensor sine = sqrt(clamp(mul(affine(cosine, -1, 1), affine(cosine, 1, 1)), 1e-10, infinity));
  const Tensor moved = sub(affine(cosine, std::cos(m), 0), affine(sine, std::sin(m), 0));
  const Tensor limit = full({}, -std::cos(m), {.dtype = cosine.dtype(), .device = cosine.device()});  // theta + m = pi
  return where(greater(cosine, limit), moved, affine(cosine, 1, -m * std::sin(m)));
}

// SphereFace's psi of a = m1 * theta + m2: the branch k is a constant of each row.
Tensor multiplied_angle(const Tensor& cosine, double m1, double m2) {
  const Tensor angle = affine(acos(clamp(cosine, -1 + 1e-7, 1 - 1e-7)), m1, m2);
  std::vector<double> sign, shift;
  for (const double a : angle.detach().to_vector()) {
    const double k = std::floor(a / std::numbers::pi);
    sign.push_back(std::fmod(k, 2) == 0 ? 1 : -1);
    shift.push_back(-2 * k);
  }
  const auto constant = [&](const std::vector<double>& v) { return to(cast(Tensor::from(v, cosine.shape()), cosine.dtype()), cosine.device()); };
  return add(mul(constant(sign), cos(angle)), constant(shift));
}

}  // namespace

Tensor margin_logits(const Tensor& logits, const Tensor& target, const Margin& m) {
  if (!(m.scale > 0 && m.m1 >= 1 && m.m2 >= 0 && m.m2 < std::numbers::pi && m.m3 >= 0))
    throw ValueError("margin_logits", "expects scale > 0, m1 >= 1, 0 <= m2 < pi and m3 >= 0, got scale " + std::to_string(m.scale) + ", m1 " + std::to_string(m.m1) +
                                          ", m2 " + std::to_string(m.m2) + ", m3 " + std::to_string(m.m3));
  const Tensor plain = pick(logits, target), cosine = affine(plain, 1 / m.scale, 0);
  const Tensor hard = m.m1 != 1 ? multiplied_angle(cosine, m.m1, m.m2) : m.m2 != 0 ? additive_angle(cosine, m.m2) : cosine;
  return pick_add(logits, target, sub(affine(hard, m.scale, -m.scale * m.m3), plain));
}

}  // namespace mien
