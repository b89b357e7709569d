// What the tests beside PyTorch share: the data both sides make for themselves, checksums of tensors, training curves.
#pragma once

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/layers/module.h"
#include "mien/ops/copy.h"
#include "mien/optim/optimizer.h"

namespace mien::test {

// The formula of tools/oracle.py: hashed().
inline Tensor hashed(const Shape& shape, std::uint64_t seed, DType dtype, double scale = 1) {
  const Tensor t = Tensor::empty(shape, DType::f64);
  std::uint64_t i = 0;
  for (double& v : t.span<double>()) v = (static_cast<double>((i++ * 2654435761ull + seed * 40503ull) & 0xffffffffull) / 4294967296.0 - .5);
  const Tensor cast_first = cast(t, dtype);  // as there: the values are rounded before they are scaled
  if (scale == 1) return cast_first;
  const Tensor out = Tensor::empty(shape, dtype);
  const auto v = cast_first.to_vector();
  for (std::size_t k = 0; k < v.size(); ++k) {
    if (dtype == DType::f64) out.data<double>()[k] = v[k] * scale;
    else out.data<float>()[k] = static_cast<float>(v[k]) * static_cast<float>(scale);
  }
  return out;
}

inline nlohmann::json read_fixture(const std::string& leaf) { return nlohmann::json::parse(std::ifstream(fixture(leaf))); }

// expected: sum, sum of absolute values, then values anywhere in the tensor when the fixture has them. Relative to the mean absolute value.
inline void check_sums(const Tensor& t, const std::vector<double>& expected, double tolerance) {
  double sum = 0, absolute = 0;
  for (const double v : t.to_vector()) sum += v, absolute += std::abs(v);
  INFO("sums " << sum << ", " << absolute << ", expected " << expected[0] << ", " << expected[1]);
  CHECK(std::abs(sum - expected[0]) <= tolerance * std::max(1.0, expected[1]));
  CHECK(std::abs(absolute - expected[1]) <= tolerance * std::max(1.0, expected[1]));
}

// How many steps a net is trained where two runs are compared. $MIEN_TRAINING_STEPS: fewer where a step takes seconds (an emulated GPU).
inline int training_steps() {
  const char* set = std::getenv("MIEN_TRAINING_STEPS");
  return set ? std::atoi(set) : 50;
}
// `steps` steps of SGD (momentum .9, weight decay 5e-4); the loss before each.
inline std::vector<double> sgd_curve(Module& net, const std::function<Tensor(int)>& loss_of, double lr, int steps = 50) {
  Sgd optimizer({.lr = lr, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net.parameters());
  std::vector<double> curve;
  for (int step = 0; step < steps; ++step) {
    const Tensor loss = loss_of(step);
    backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    curve.push_back(loss.item());
  }
  return curve;
}

// expected: {"lr", "f64": curve, "f32": curve, "weights": {name of parameter or buffer: sums after the last f64 step}}. curve(net, dtype, lr) trains a fresh net. In f64
// every step within 1e-9; in f32 the first within 1e-5 and none further from the f64 curve than four times PyTorch's own f32 curve is.
template <class Net>
void compare_training(const nlohmann::json& expected, const std::function<std::unique_ptr<Net>()>& make, const std::function<std::vector<double>(Net&, DType, double)>& curve) {
  const double lr = expected["lr"].get<double>();
  const auto e64 = expected["f64"].get<std::vector<double>>(), e32 = expected["f32"].get<std::vector<double>>();
  const auto f64 = make();
  const auto c64 = curve(*f64, DType::f64, lr);
  REQUIRE(c64.size() == e64.size());
  for (std::size_t i = 0; i < c64.size(); ++i) {
    INFO("f64, step " << i << ": " << c64[i] << ", expected " << e64[i]);
    CHECK(std::abs(c64[i] - e64[i]) <= 1e-9 * std::abs(e64[i]));
  }
  std::map<std::string, Tensor> trained;
  for (auto& t : f64->state_dict()) trained[t.name] = t.value;
  for (const auto& [name, sums] : expected["weights"].items()) {
    INFO(name);
    check_sums(trained.at(name), sums.template get<std::vector<double>>(), 1e-9);
  }
  const auto f32 = make();
  const auto c32 = curve(*f32, DType::f32, lr);
  CHECK(std::abs(c32[0] - e64[0]) <= 1e-5 * std::abs(e64[0]));
  double ours = 0, theirs = 0;
  for (std::size_t i = 0; i < c32.size(); ++i) {
    ours = std::max(ours, std::abs(c32[i] - e64[i]));
    theirs = std::max(theirs, std::abs(e32[i] - e64[i]));
  }
  INFO("largest distance from f64: " << ours << ", PyTorch's " << theirs);
  CHECK(ours <= 4 * theirs + 1e-7);
}

}  // namespace mien::test
