// Forward and gradients of every op against what PyTorch computed (tools/oracle.py ops).
#include "fixture_cases.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/matmul.h"
#include "mien/ops/nms.h"
#include "mien/ops/norm.h"
#include "mien/ops/pool.h"
#include "mien/ops/prelu.h"
#include "mien/ops/reduce.h"
#include "mien/ops/resize.h"
#include "mien/ops/shape.h"
#include "mien/ops/softmax.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

Pair pair(const json& j) { return {j[0].get<std::int64_t>(), j[1].get<std::int64_t>()}; }
Padding4 four(const json& j) { return {j[0].get<std::int64_t>(), j[1].get<std::int64_t>(), j[2].get<std::int64_t>(), j[3].get<std::int64_t>()}; }
Shape shape(const json& j) {
  Shape s;
  for (const auto& v : j) s.push_back(v.get<std::int64_t>());
  return s;
}
Tensor at(const std::vector<Tensor>& in, std::size_t i) { return i < in.size() ? in[i] : Tensor(); }

PoolParams pool(const json& p) {
  return {.kernel = pair(p["kernel"]), .stride = pair(p["stride"]), .padding = pair(p["padding"]), .dilation = p.contains("dilation") ? pair(p["dilation"]) : Pair{1, 1},
          .ceil_mode = p["ceil_mode"].get<bool>(), .count_include_pad = p.value("count_include_pad", true), .divisor_override = p.value("divisor_override", 0)};
}

using In = const std::vector<Tensor>&;
std::map<std::string, Call> calls() {
  std::map<std::string, Call> c;
  const auto simple = [&](const char* name, Tensor (*f)(const Tensor&)) { c[name] = [f](In in, const json&) { return std::vector{f(in[0])}; }; };
  simple("relu", relu), simple("sigmoid", sigmoid), simple("tanh", tanh), simple("exp", exp), simple("log", log), simple("sqrt", sqrt), simple("abs", abs);
  simple("neg", neg), simple("square", square), simple("softplus", softplus), simple("silu", silu);
  const auto two = [&](const char* name, Tensor (*f)(const Tensor&, const Tensor&)) { c[name] = [f](In in, const json&) { return std::vector{f(in[0], in[1])}; }; };
  two("add", add), two("sub", sub), two("mul", mul), two("div", div), two("maximum", maximum), two("minimum", minimum), two("matmul", matmul), two("prelu", prelu);
  const auto reduce = [&](const char* name, Tensor (*f)(const Tensor&, const std::vector<std::int64_t>&, bool)) {
    c[name] = [f](In in, const json& p) { return std::vector{f(in[0], p["dims"].get<std::vector<std::int64_t>>(), p["keepdim"].get<bool>())}; };
  };
  reduce("sum", sum), reduce("mean", mean), reduce("max", max), reduce("min", min);
  c["leaky_relu"] = [](In in, const json& p) { return std::vector{leaky_relu(in[0], p["slope"].get<double>())}; };
  c["clamp"] = [](In in, const json& p) { return std::vector{clamp(in[0], p["min"].get<double>(), p["max"].get<double>())}; };
  c["conv2d"] = [](In in, const json& p) {
    return std::vector{conv2d(in[0], in[1], at(in, 2), {pair(p["stride"]), four(p["padding"]), pair(p["dilation"]), p["groups"].get<std::int64_t>()})};
  };
  c["conv_transpose2d"] = [](In in, const json& p) {
    return std::vector{conv_transpose2d(in[0], in[1], at(in, 2), {pair(p["stride"]), pair(p["padding"]), pair(p["output_padding"]), pair(p["dilation"]), p["groups"].get<std::int64_t>()})};
  };
  c["max_pool2d"] = [](In in, const json& p) { return std::vector{max_pool2d(in[0], pool(p))}; };
  c["avg_pool2d"] = [](In in, const json& p) { return std::vector{avg_pool2d(in[0], pool(p))}; };
  c["adaptive_avg_pool2d"] = [](In in, const json& p) { return std::vector{adaptive_avg_pool2d(in[0], pair(p["size"]))}; };
  c["resize_bilinear"] = [](In in, const json& p) { return std::vector{resize_bilinear(in[0], pair(p["size"]), p["align_corners"].get<bool>())}; };
  c["softmax"] = [](In in, const json& p) { return std::vector{softmax(in[0], p["dim"].get<std::int64_t>())}; };
  c["log_softmax"] = [](In in, const json& p) { return std::vector{log_softmax(in[0], p["dim"].get<std::int64_t>())}; };
  c["batch_norm"] = [](In in, const json& p) {
    const Tensor mean = clone(in[3]), var = clone(in[4]);
    const Tensor y = batch_norm(in[0], in[1], in[2], mean, var, {p["training"].get<bool>(), p["eps"].get<double>(), p["momentum"].get<double>()});
    return std::vector{y, mean, var};
  };
  c["linear"] = [](In in, const json&) { return std::vector{linear(in[0], in[1], at(in, 2))}; };
  c["concat"] = [](In in, const json& p) { return std::vector{concat(in, p["dim"].get<std::int64_t>())}; };
  c["slice"] = [](In in, const json& p) {
    return std::vector{slice(in[0], p["dim"].get<std::int64_t>(), p["start"].get<std::int64_t>(), p["stop"].get<std::int64_t>(), p["step"].get<std::int64_t>())};
  };
  c["pad"] = [](In in, const json& p) { return std::vector{pad(in[0], p["pads"].get<std::vector<std::array<std::int64_t, 2>>>(), p["value"].get<double>())}; };
  c["reshape"] = [](In in, const json& p) { return std::vector{reshape(in[0], shape(p["shape"]))}; };
  c["permute"] = [](In in, const json& p) { return std::vector{permute(in[0], shape(p["order"]))}; };
  c["expand"] = [](In in, const json& p) { return std::vector{expand(in[0], shape(p["shape"]))}; };
  c["cross_entropy"] = [](In in, const json& p) {
    return std::vector{cross_entropy(in[0], in[1], {reduction(p), p["ignore_index"].get<std::int64_t>(), p["label_smoothing"].get<double>(), at(in, 2)})};
  };
  c["bce"] = [](In in, const json& p) { return std::vector{binary_cross_entropy(in[0], in[1], reduction(p))}; };
  c["bce_with_logits"] = [](In in, const json& p) { return std::vector{binary_cross_entropy_with_logits(in[0], in[1], reduction(p), at(in, 2))}; };
  c["smooth_l1"] = [](In in, const json& p) { return std::vector{smooth_l1_loss(in[0], in[1], p["beta"].get<double>(), reduction(p))}; };
  c["mse"] = [](In in, const json& p) { return std::vector{mse_loss(in[0], in[1], reduction(p))}; };
  c["nms"] = [](In in, const json& p) { return std::vector{nms(in[0], in[1], p["threshold"].get<double>())}; };
  return c;
}

}  // namespace

TEST_CASE("forward and gradients equal PyTorch's", "[ops][fixture]") { CHECK(run_cases("ops.safetensors", calls()) >= 150); }

}  // namespace mien::test
