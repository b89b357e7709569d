// Sums by halves: error grows with log n instead of n.
#pragma once

#include <span>

namespace mien {

// In numpy's order (blocks of at most 128, eight running sums each), so that figures agree with numpy's to the last bit.
double pairwise_sum(std::span<const double> v);

}  // namespace mien
