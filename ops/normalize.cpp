#include "mien/ops/normalize.h"

#include <limits>

#include "mien/ops/binary.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"

namespace mien {

Tensor normalize(const Tensor& x, int p, std::int64_t dim, double eps) {
  check_floating("normalize", x);
  if (p != 1 && p != 2) throw ValueError("normalize", "expects p 1 or 2, got " + std::to_string(p));
  if (!(eps > 0)) throw ValueError("normalize", "expects eps > 0, got " + std::to_string(eps));
  const int d = normalize_dim(dim, x.rank(), "normalize");
  return div(x, clamp(norm(x, p, {d}, true), eps, std::numeric_limits<double>::infinity()));
}

}  // namespace mien
