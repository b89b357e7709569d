#include "mien/metrics/sum_impl.h"

namespace mien {

double pairwise_sum(std::span<const double> v) {
  const std::size_t n = v.size();
  if (n > 128) {
    const std::size_t half = n / 2 - n / 2 % 8;
    return pairwise_sum(v.first(half)) + pairwise_sum(v.subspan(half));
  }
  double total = 0;
  std::size_t i = 0;
  if (n >= 8) {
    double r[8];
    for (int k = 0; k < 8; ++k) r[k] = v[static_cast<std::size_t>(k)];
    for (i = 8; i + 8 <= n; i += 8)
      for (std::size_t k = 0; k < 8; ++k) r[k] += v[i + k];
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  }
  for (; i < n; ++i) total += v[i];
  return total;
}

}  // namespace mien
