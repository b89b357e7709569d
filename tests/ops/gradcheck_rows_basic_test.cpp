// Gradient-check rows of the element-wise, view, copy, shape, reduction and matrix ops.
#include <cmath>
#include <limits>

#include "gradcheck_rows.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/shape.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

using In = std::span<const Tensor>;
using F = std::function<Tensor(In)>;
constexpr bool second = true;

// Adds rows with inputs from one generator: the same numbers in every run.
struct Adder {
  std::vector<GradRow>& rows;
  Generator generator{7};

  Tensor in(const Shape& shape, double low = -2, double high = 2) { return uniform(shape, low, high, {.dtype = DType::f64, .generator = &generator}); }
  void row(const char* op, const std::string& variant, F f, std::vector<Tensor> inputs, bool twice = false) {
    rows.push_back({op, variant, std::move(f), std::move(inputs), twice});
  }
};

// Moves values away from a point where the function has no derivative.
void avoid(const Tensor& x, double kink) {
  if (std::isnan(kink)) return;
  for (double& v : x.span<double>())
    if (std::abs(v - kink) < .01) v = kink + .05;
}

struct UnaryRow {
  const char* name;
  UnaryKind kind;
  double low, high, kink;
};
constexpr UnaryRow unary_rows[] = {
#define MIEN_ROW(name, f, df, lo, hi, kink) {#name, UnaryKind::name, lo, hi, kink},
    MIEN_UNARY(MIEN_ROW)
#undef MIEN_ROW
};

UnaryParams params_of(UnaryKind kind) {
  switch (kind) {
    case UnaryKind::leaky_relu: return {kind, .1, 0};
    case UnaryKind::clamp: return {kind, -.7, .9};
    case UnaryKind::affine: return {kind, 2.5, -1};
    case UnaryKind::pow: return {kind, 2.5, 0};
    default: return {kind, 0, 0};
  }
}

void add_unary(Adder& a) {
  for (const auto& u : unary_rows) {
    const UnaryParams p = params_of(u.kind);
    const auto input = [&](const Shape& shape) {
      Tensor x = a.in(shape, u.low, u.high);
      avoid(x, u.kink);
      if (u.kind == UnaryKind::clamp) {
        avoid(x, p.a);
        avoid(x, p.b);
      }
      return x;
    };
    const F f = [p](In in) { return apply(op_unary, {in[0]}, p); };
    const std::string name = u.name;
    a.row("unary", name, f, {input({3, 5})}, second);
    a.row("unary", name + " transposed", f, {transpose(input({4, 3}), 0, 1)});
    a.row("unary", name + " expanded", f, {expand(input({3, 1}), {3, 4})});
    a.row("unary", name + " channels_last", f, {channels_last(input({2, 3, 2, 2}))});
    a.row("unary", name + " scalar", f, {input({})});
    a.row("unary", name + " empty", f, {input({0, 3})}, second);
    const F backward = [p](In in) { return apply(op_unary_backward, {in[0], in[1], in[2]}, p); };  // x and y independent
    a.row("unary_backward", name, backward, {a.in({3, 4}), input({3, 4}), a.in({3, 4}, .3, 2)}, second);
    a.row("unary_backward", name + " strided", backward, {expand(a.in({4}), {3, 4}), transpose(input({4, 3}), 0, 1), expand(a.in({3, 1}, .3, 2), {3, 4})});
    a.row("unary", name + " twice differentiated", [f](In in) {
      const GradMode on(true);
      Tensor x = requires_grad(in[0]) ? in[0] : in[0].detach();
      if (!requires_grad(x)) set_requires_grad(x);
      const Tensor y = f(std::span(&x, 1));
      const auto g = gradients({&y, 1}, {&x, 1}, {&in[1], 1}, {.create_graph = true});
      return g[0];
    }, {input({5}), a.in({5})}, second);
  }
  a.row("unary", "softplus linear part", [](In in) { return softplus(in[0]); }, {a.in({6}, 21, 25)}, second);
  a.row("unary", "pow with a negative exponent", [](In in) { return pow(in[0], -1.5); }, {a.in({6}, .5, 2)}, second);
  a.row("unary", "pow 1", [](In in) { return pow(in[0], 1); }, {a.in({6}, .5, 2)}, second);
  a.row("unary", "scalar operators", [](In in) { return (2.0 - in[0]) * 3.0 + (1.0 + in[0] / 4.0) - 5.0 - (-in[0]) * .5; }, {a.in({2, 3})}, second);
}

void add_binary(Adder& a) {
  using Fn = Tensor (*)(const Tensor&, const Tensor&);
  const std::pair<const char*, Fn> members[] = {{"add", add}, {"sub", sub}, {"mul", mul}, {"div", div}, {"maximum", maximum}, {"minimum", minimum}};
  for (const auto& [member, fn] : members) {
    const std::string name = member;
    const Fn op = fn;
    const F f = [op](In in) { return op(in[0], in[1]); };
    const auto right = [&](const Shape& shape) { return a.in(shape, .5, 2); };  // away from division by zero
    a.row("binary", name, f, {a.in({3, 4}), right({3, 4})}, second);
    a.row("binary", name + " [3, 1] and [1, 4]", f, {a.in({3, 1}), right({1, 4})}, second);
    a.row("binary", name + " [2, 3, 4] and [4]", f, {a.in({2, 3, 4}), right({4})});
    a.row("binary", name + " [4] and [2, 1, 4]", f, {a.in({4}), right({2, 1, 4})});
    a.row("binary", name + " scalar and [3]", f, {a.in({}), right({3})}, second);
    a.row("binary", name + " two scalars", f, {a.in({}), right({})});
    a.row("binary", name + " strided", f, {transpose(a.in({4, 3}), 0, 1), expand(right({4}), {3, 4})});
    a.row("binary", name + " channels_last", f, {channels_last(a.in({2, 3, 2, 2})), right({2, 3, 2, 2})});
    a.row("binary", name + " channel by channel", f, {channels_last(a.in({2, 3, 2, 2})), right({1, 3, 1, 1})});
    a.row("binary", name + " empty", f, {a.in({0, 3}), right({1, 3})});
    a.row("binary", name + " with a constant", [op, c = right({3, 4})](In in) { return op(in[0], beside(in, c)); }, {a.in({3, 4})});
  }
  a.row("binary", "one operand twice", [](In in) { return mul(in[0], in[0]) / (in[0] + in[0]); }, {a.in({5}, .5, 2)}, second);
  const F pick = [](In in) { return where(in[0], in[1], in[2]); };
  const auto condition = [&](const Shape& shape) { return greater(a.in(shape), zeros({}, {.dtype = DType::f64})); };
  a.row("where", "same shape", pick, {condition({3, 4}), a.in({3, 4}), a.in({3, 4})}, second);
  a.row("where", "all three broadcast", pick, {condition({3, 1}), a.in({4}), a.in({2, 1, 1})}, second);
  a.row("where", "strided", pick, {transpose(condition({4, 3}), 0, 1), expand(a.in({1, 4}), {3, 4}), transpose(a.in({4, 3}), 0, 1)});
  a.row("where", "empty", pick, {condition({0, 2}), a.in({2}), a.in({})});
}

void add_views(Adder& a) {
  const auto reshaped = [](const Shape& to) { return F([to](In in) { return square(reshape(in[0], to)); }); };
  a.row("reshape", "view", reshaped({6, 2}), {a.in({3, 4})}, second);
  a.row("reshape", "-1", reshaped({2, -1}), {a.in({3, 4})});
  a.row("reshape", "transposed, has to copy", reshaped({12}), {transpose(a.in({3, 4}), 0, 1)});
  a.row("reshape", "strided view stays a view", reshaped({2, 2, 5}), {slice(a.in({4, 7}), 1, 0, 5)});
  a.row("reshape", "expanded", reshaped({6, 2}), {expand(a.in({2}), {3, 2, 2})});
  a.row("reshape", "scalar", reshaped({1, 1}), {a.in({})});
  a.row("reshape", "empty", reshaped({3, 0, 2}), {a.in({0, 4})});
  a.row("reshape", "flatten", [](In in) { return exp(flatten(in[0], 1)); }, {a.in({2, 3, 2})}, second);
  a.row("reshape", "squeeze", [](In in) { return square(squeeze(in[0], 1)); }, {a.in({3, 1, 2})});
  a.row("reshape", "unsqueeze", [](In in) { return square(unsqueeze(in[0], -1)); }, {transpose(a.in({3, 2}), 0, 1)});
  a.row("permute", "three dims", [](In in) { return square(permute(in[0], {2, 0, 1})); }, {a.in({2, 3, 4})}, second);
  a.row("permute", "transpose", [](In in) { return square(transpose(in[0], 0, -1)); }, {a.in({2, 3})});
  a.row("permute", "of an expanded input", [](In in) { return square(permute(in[0], {1, 0})); }, {expand(a.in({1, 3}), {2, 3})});
  a.row("permute", "empty", [](In in) { return square(permute(in[0], {1, 0})); }, {a.in({0, 3})});
  a.row("expand", "size 1", [](In in) { return square(expand(in[0], {3, 4})); }, {a.in({3, 1})}, second);
  a.row("expand", "new dimensions", [](In in) { return square(expand(in[0], {2, 2, 3})); }, {a.in({3})});
  a.row("expand", "scalar", [](In in) { return square(expand(in[0], {2, 3})); }, {a.in({})}, second);
  a.row("expand", "to nothing", [](In in) { return square(expand(in[0], {0, 3})); }, {a.in({1, 3})});
  const auto cut = [](std::int64_t dim, std::int64_t start, std::optional<std::int64_t> stop, std::int64_t step) {
    return [=](const Tensor& x) { return slice(x, dim, start, stop, step); };
  };
  const auto squared = [](std::function<Tensor(const Tensor&)> f) { return F([f](In in) { return square(f(in[0])); }); };
  a.row("slice", "rows", squared(cut(0, 1, 3, 1)), {a.in({4, 3})}, second);
  a.row("slice", "step 2 from the end", squared(cut(-1, -5, {}, 2)), {a.in({2, 6})}, second);
  a.row("slice", "step longer than the dimension", squared(cut(0, 1, {}, 100)), {a.in({3, 2})});
  a.row("slice", "nothing", squared(cut(0, 2, 2, 3)), {a.in({3, 2})}, second);
  a.row("slice", "transposed", squared(cut(0, 1, {}, 2)), {transpose(a.in({2, 5}), 0, 1)});
  a.row("slice", "channels_last", squared(cut(1, 1, {}, 1)), {channels_last(a.in({2, 3, 2, 2}))});
  a.row("slice_backward", "rows", pulled_back({4, 3}, cut(0, 1, 3, 1)), {a.in({2, 3})}, second);
  a.row("slice_backward", "step 2", pulled_back({2, 6}, cut(1, 1, {}, 2)), {a.in({2, 3})}, second);
  a.row("slice_backward", "nothing", pulled_back({3, 2}, cut(0, 0, 0, 2)), {a.in({0, 2})}, second);
  a.row("slice_backward", "strided", pulled_back({4, 3}, cut(0, 1, 3, 1)), {transpose(a.in({3, 2}), 0, 1)});
}

void add_copies(Adder& a) {
  a.row("copy", "clone", [](In in) { return square(clone(in[0])); }, {a.in({3, 4})}, second);
  a.row("copy", "contiguous of a transposed input", [](In in) { return square(contiguous(in[0])); }, {transpose(a.in({3, 4}), 0, 1)}, second);
  a.row("copy", "contiguous of an expanded input", [](In in) { return square(contiguous(in[0])); }, {expand(a.in({1, 4}), {3, 4})});
  a.row("copy", "channels_last", [](In in) { return square(channels_last(in[0])); }, {a.in({2, 3, 2, 4})});
  a.row("copy", "back from channels_last", [](In in) { return square(contiguous(in[0])); }, {channels_last(a.in({2, 3, 2, 4}))});
  a.row("to", "the device where it is", [](In in) { return square(to(in[0], in[0].device())); }, {transpose(a.in({3, 4}), 0, 1)}, second);
  a.row("copy", "empty", [](In in) { return clone(in[0]); }, {a.in({2, 0})});
}

void add_shapes(Adder& a) {
  const auto joined = [](std::int64_t dim) { return F([dim](In in) { return square(concat({in.begin(), in.end()}, dim)); }); };
  a.row("concat", "dim 0", joined(0), {a.in({2, 3}), a.in({1, 3}), a.in({3, 3})}, second);
  a.row("concat", "last dim, one part empty", joined(-1), {a.in({2, 3}), a.in({2, 0}), a.in({2, 1})}, second);
  a.row("concat", "strided parts", joined(1), {transpose(a.in({3, 2}), 0, 1), expand(a.in({2, 1}), {2, 2})});
  a.row("concat", "channels_last", joined(1), {channels_last(a.in({2, 3, 2, 2})), a.in({2, 1, 2, 2})});
  a.row("concat", "one part twice", [](In in) { return square(concat({in[0], in[0]}, 0)); }, {a.in({3})});
  a.row("concat", "more parts than an op takes", [](In in) {
    std::vector<Tensor> parts;
    for (int i = 0; i < 70; ++i) parts.push_back(in[0] * (.1 * i));
    return square(concat(parts, 1));
  }, {a.in({2, 1})});
  a.row("concat", "stack", [](In in) { return square(stack({in[0], in[1]}, -1)); }, {a.in({2, 3}), a.in({2, 3})}, second);
  const auto padded = [](std::vector<std::array<std::int64_t, 2>> pads, double value) { return F([=](In in) { return square(pad(in[0], pads, value)); }); };
  a.row("pad", "two dims", padded({{1, 0}, {2, 3}}, .5), {a.in({2, 3})}, second);
  a.row("pad", "none", padded({{0, 0}}, 1), {a.in({3})});
  a.row("pad", "transposed", padded({{0, 1}, {1, 0}}, 0), {transpose(a.in({2, 3}), 0, 1)});
  a.row("pad", "of nothing", padded({{1, 1}, {0, 0}}, 2), {a.in({0, 2})});
  a.row("pad", "channels_last", padded({{0, 0}, {0, 0}, {1, 2}, {2, 1}}, 0), {channels_last(a.in({1, 2, 2, 3}))});
  const Tensor index = Tensor::from<std::int64_t>({2, 0, 2, 1}, {4}), none = Tensor::from<std::int64_t>({}, {0});
  const F select = [](In in) { return square(index_select(in[0], in[1])); };
  a.row("index_select", "with a repeated row", select, {a.in({3, 2}), index}, second);
  a.row("index_select", "rank 1, strided", select, {slice(a.in({6}), 0, 0, {}, 2), index});
  a.row("index_select", "three dims, transposed, strided index", select, {transpose(a.in({2, 3, 2}), 0, 1), slice(index, 0, 0, {}, 2)});
  a.row("index_select", "no row", select, {a.in({3, 2}), none});
  const auto chosen = [](Tensor i) { return [i](const Tensor& x) { return index_select(x, to(i, x.device())); }; };
  a.row("index_add", "with a repeated row", pulled_back({3, 2}, chosen(index)), {a.in({4, 2})}, second);
  a.row("index_add", "many rows", pulled_back({300, 2}, chosen(index)), {a.in({4, 2})});
  a.row("index_add", "strided gradient", pulled_back({3, 2}, chosen(index)), {transpose(a.in({2, 4}), 0, 1)});
  a.row("index_add", "no row", pulled_back({3, 2}, chosen(none)), {a.in({0, 2})});
}

void add_reductions(Adder& a) {
  using Fn = Tensor (*)(const Tensor&, const std::vector<std::int64_t>&, bool);
  const std::pair<const char*, Fn> members[] = {{"sum", sum}, {"mean", mean}, {"max", max}, {"min", min}};
  for (const auto& [member, fn] : members) {
    const std::string name = member;
    const auto f = [fn = fn](std::vector<std::int64_t> dims, bool keepdim = false) { return F([=](In in) { return square(fn(in[0], dims, keepdim)); }); };
    a.row("reduce", name + " of all", f({}), {a.in({3, 4})}, second);
    a.row("reduce", name + " of all, kept", f({}, true), {a.in({3, 4})});
    a.row("reduce", name + " dim 0", f({0}), {a.in({3, 4})}, second);
    a.row("reduce", name + " dim -1, kept", f({-1}, true), {a.in({3, 4})});
    a.row("reduce", name + " dims 0 and 2", f({0, 2}), {a.in({2, 3, 4})}, second);
    a.row("reduce", name + " dims 2 and 1, kept", f({2, 1}, true), {a.in({2, 3, 4})});
    a.row("reduce", name + " transposed", f({1}), {transpose(a.in({4, 3}), 0, 1)});
    a.row("reduce", name + " of size 1", f({0}), {a.in({1, 3})});
    a.row("reduce", name + " scalar", f({}), {a.in({})});
    a.row("reduce", name + " channels_last", f({2, 3}), {channels_last(a.in({2, 3, 2, 2}))});
    a.row("reduce", name + " no output", f({1}), {a.in({0, 3})});
  }
  a.row("reduce", "sum expanded", [](In in) { return square(sum(in[0], {0})); }, {expand(a.in({1, 4}), {3, 4})});
  a.row("reduce", "sum of nothing", [](In in) { return sum(in[0], {0}); }, {a.in({0, 3})});
  a.row("reduce", "sum_to", [](In in) { return square(sum_to(in[0], {3, 1})); }, {a.in({2, 3, 4})}, second);
  a.row("reduce", "sum_to a scalar", [](In in) { return square(sum_to(in[0], {})); }, {a.in({2, 3})});
  a.row("reduce", "norm", [](In in) { return norm(in[0]); }, {a.in({2, 3})}, second);
}

void add_matrices(Adder& a) {
  const F product = [](In in) { return matmul(in[0], in[1]); };
  a.row("matmul", "plain", product, {a.in({3, 4}), a.in({4, 2})}, second);
  a.row("matmul", "batch", product, {a.in({2, 3, 4}), a.in({2, 4, 2})}, second);
  a.row("matmul", "batch broadcasts", product, {a.in({2, 1, 2, 3}), a.in({3, 3, 2})}, second);
  a.row("matmul", "matrix times batch", product, {a.in({2, 3}), a.in({3, 3, 2})});
  a.row("matmul", "transposed operands", product, {transpose(a.in({4, 3}), 0, 1), transpose(a.in({2, 4}), 0, 1)});
  a.row("matmul", "expanded operand", product, {expand(a.in({1, 4}), {3, 4}), a.in({4, 2})});
  a.row("matmul", "sliced operand", product, {slice(a.in({3, 9}), 1, 1, {}, 2), a.in({4, 2})});
  a.row("matmul", "row times column", product, {a.in({1, 4}), a.in({4, 1})});
  a.row("matmul", "column times row", product, {a.in({3, 1}), a.in({1, 2})});
  a.row("matmul", "inner size 0", product, {a.in({3, 0}), a.in({0, 2})});
  a.row("matmul", "no row", product, {a.in({0, 3}), a.in({3, 2})});
  a.row("matmul", "with its own transpose", [](In in) { return matmul(in[0], transpose(in[0], 0, 1)); }, {a.in({3, 2})}, second);
  const F layer = [](In in) { return linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor()); };
  a.row("linear", "with bias", layer, {a.in({3, 4}), a.in({2, 4}), a.in({2})}, second);
  a.row("linear", "without bias", layer, {a.in({3, 4}), a.in({2, 4})}, second);
  a.row("linear", "leading dims", layer, {a.in({2, 3, 4}), a.in({2, 4}), a.in({2})}, second);
  a.row("linear", "one vector", layer, {a.in({4}), a.in({2, 4}), a.in({2})});
  a.row("linear", "strided", layer, {transpose(a.in({4, 3}), 0, 1), transpose(a.in({4, 2}), 0, 1), expand(a.in({1}), {2})});
  a.row("linear", "no row", layer, {a.in({0, 4}), a.in({2, 4}), a.in({2})});
  a.row("linear", "no input feature", layer, {a.in({2, 3, 0}), a.in({2, 0}), a.in({2})});
}

}  // namespace

void add_rows_basic(std::vector<GradRow>& rows) {
  Adder a{rows};
  add_unary(a);
  add_binary(a);
  add_views(a);
  add_copies(a);
  add_shapes(a);
  add_reductions(a);
  add_matrices(a);
}

}  // namespace mien::test
