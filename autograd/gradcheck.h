// Compares derivatives with central differences in f64. Public: check your own layers with it.
//
//   const auto report = gradcheck([](std::span<const Tensor> in) { return sigmoid(in[0]); }, {rand({3, 4}, {.dtype = DType::f64})});
//   if (!report.ok) throw std::runtime_error(report.message);
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mien/autograd/autograd.h"

namespace mien {

struct GradcheckOptions {
  double step = 1e-6;        // of the central difference
  double tolerance = 1e-6;   // on |a - n| / max(1, |a|, |n|)
  int directions = 0;        // 0: the full Jacobian; k > 0: k random directions (for whole nets)
  std::uint64_t seed = 1;
};
struct GradcheckReport {
  bool ok = true;
  double worst = 0;          // largest error seen
  std::string message;       // input, element, analytic and numeric value of the worst one
};

// f must be deterministic and smooth within `step` of the inputs; it returns one tensor of any shape. Inputs must be f64 (DTypeError) and may be strided;
// integer and bool inputs are passed through unchecked. Also checked: a gradient is accumulated twice when backward runs twice.
GradcheckReport gradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::vector<Tensor> inputs, GradcheckOptions options = {});
// The derivative's own derivative: gradcheck of the map (inputs, output gradient) -> input gradients.
GradcheckReport gradgradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::vector<Tensor> inputs, GradcheckOptions options = {});

}  // namespace mien
