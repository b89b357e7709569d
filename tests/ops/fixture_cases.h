// Runs the cases of a fixture made by tools/oracle*.py: inputs, parameters, expected outputs and gradients of each.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/io/safetensors.h"
#include "mien/ops/copy.h"
#include "mien/ops/loss.h"

namespace mien::test {

using nlohmann::json;
using Call = std::function<std::vector<Tensor>(const std::vector<Tensor>&, const json&)>;

inline Reduction reduction(const json& p) { return p["reduction"] == "none" ? Reduction::none : p["reduction"] == "sum" ? Reduction::sum : Reduction::mean; }

// Within 1e-5 (f32) or 1e-9 (f64) of the largest expected value, at least of 1.
inline void compare(const Tensor& got, const Tensor& expected) {
  REQUIRE(got.shape() == expected.shape());
  const double tolerance = expected.dtype() == DType::f32 ? 1e-5 : 1e-9;
  const auto a = got.to_vector(), b = expected.to_vector();
  double worst = 0, scale = 1;
  for (const double v : b) scale = std::max(scale, std::abs(v));
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) / scale : 1.0);
  CHECK(worst <= tolerance);
}

// Outputs, and gradients of the first one, of every case; returns their number.
inline int run_cases(const char* leaf, const std::map<std::string, Call>& table) {
  const TensorFile file = load_safetensors(fixture(leaf));
  const json cases = json::parse(file.metadata.at("cases"));
  int compared = 0;
  for (const auto& c : cases) {
    INFO("case " << c["id"] << " " << c["op"] << " " << c["params"].dump());
    const auto call = table.find(c["op"].get<std::string>());
    REQUIRE(call != table.end());
    std::vector<Tensor> in;
    std::vector<std::size_t> wanted;
    for (std::size_t i = 0; i < c["inputs"].size(); ++i) {
      in.push_back(clone(*file.find(c["inputs"][i].get<std::string>())));
      if (!c["grads"][i].is_null()) {
        set_requires_grad(in.back());
        wanted.push_back(i);
      }
    }
    const auto out = call->second(in, c["params"]);
    for (std::size_t i = 0; i < c["outputs"].size(); ++i) compare(out[i].detach(), *file.find(c["outputs"][i].get<std::string>()));
    if (!wanted.empty()) {
      backward(out[0], *file.find(c["grad_out"][0].get<std::string>()));
      for (const auto i : wanted) compare(grad(in[i]), *file.find(c["grads"][i].get<std::string>()));
    }
    ++compared;
  }
  return compared;
}

}  // namespace mien::test
