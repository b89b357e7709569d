#include "mien/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "mien/tensor/generator.h"

namespace mien {
namespace {

// Checked inside: functions of several tensors with several results. autograd knows no op, so tensors are filled by hand here.
using Function = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

struct Check {
  const char* op;
  Function f;
  std::vector<Tensor> inputs;
  GradcheckOptions options;
  GradcheckReport report = {};

  void note(double error, const std::string& what) {
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > options.tolerance) report.ok = false;
    if (error > report.worst || (error == report.worst && report.message.empty())) {
      report.worst = error;
      report.message = what;
    }
  }
  void fail(const std::string& what) { note(std::numeric_limits<double>::infinity(), what); }
};

double error_of(double analytic, double numeric) {
  if (analytic == numeric) return 0;
  return std::abs(analytic - numeric) / std::max({1.0, std::abs(analytic), std::abs(numeric)});
}

std::string text(double v) {
  std::ostringstream out;
  out.precision(12);
  out << v;
  return out.str();
}

bool checked(const Tensor& t) { return t.dtype() == DType::f64; }

void check_inputs(const char* op, const std::vector<Tensor>& inputs) {
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (is_floating(inputs[i].dtype()) && !checked(inputs[i]))
      throw DTypeError(op, "expects f64, input " + std::to_string(i) + " is " + describe(inputs[i]), "Cast with mien::cast(x, DType::f64): differences need the digits.");
    any = any || checked(inputs[i]);
  }
  if (!any) throw ValueError(op, "expects at least one f64 input to differentiate by, got " + std::to_string(inputs.size()) + " inputs and none of them is");
}

// The same memory and strides, as fresh leaves.
std::vector<Tensor> leaves_of(const std::vector<Tensor>& inputs) {
  std::vector<Tensor> out;
  for (const auto& t : inputs) {
    out.push_back(t.detach());
    if (checked(t)) set_requires_grad(out.back());
  }
  return out;
}

std::vector<Tensor> only_checked(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  for (const auto& t : tensors)
    if (checked(t)) out.push_back(t);
  return out;
}

Tensor dense(const std::vector<double>& values, const Shape& shape) { return Tensor::from(values, shape); }

std::vector<Tensor> call(const Check& c, std::span<const Tensor> in) {
  std::vector<Tensor> out = c.f(in);
  for (const auto& t : out) {
    if (!t.defined()) throw ValueError(c.op, "the function returned an undefined tensor");
    if (!checked(t)) throw DTypeError(c.op, "the function must return f64, got " + describe(t));
  }
  return out;
}

std::vector<double> values_of(std::span<const Tensor> tensors) {
  std::vector<double> all;
  for (const auto& t : tensors) {
    const auto v = t.to_vector();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

// Copies of the inputs whose elements can be moved one by one (an expanded input shares its elements).
std::vector<Tensor> movable(const std::vector<Tensor>& inputs) {
  std::vector<Tensor> out;
  for (const auto& t : inputs) out.push_back(checked(t) ? dense(t.to_vector(), t.shape()) : t);
  return out;
}

std::vector<double> evaluate(const Check& c, const std::vector<Tensor>& in) {
  const NoGrad off;
  return values_of(call(c, in));
}

std::vector<double> random_values(std::int64_t n, std::uint64_t seed, std::uint64_t stream) {
  std::vector<double> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = 2.0 * static_cast<double>(philox_uniform(seed, stream, i)) - 1.0;
  return v;
}

// Gradients of <outputs, given> as one flat vector over the checked inputs; shapes are checked on the way.
std::vector<double> analytic(Check& c, std::span<const Tensor> outputs, const std::vector<Tensor>& leaves, std::span<const Tensor> given) {
  const auto by = only_checked(leaves);
  const auto results = gradients(outputs, by, given, {.retain_graph = true});
  std::vector<double> flat;
  for (std::size_t i = 0; i < by.size(); ++i) {
    if (!results[i].defined()) {
      flat.resize(flat.size() + static_cast<std::size_t>(by[i].numel()), 0.0);
      continue;
    }
    if (!(results[i].shape() == by[i].shape()) || results[i].dtype() != by[i].dtype()) {
      c.fail("the gradient of input " + std::to_string(i) + " is " + describe(results[i]) + ", the input is " + describe(by[i]));
      flat.resize(flat.size() + static_cast<std::size_t>(by[i].numel()), std::nan(""));
      continue;
    }
    const auto v = results[i].to_vector();
    flat.insert(flat.end(), v.begin(), v.end());
  }
  return flat;
}

// "input 1 element 4", counted over the checked inputs, from a place in the flat vector.
std::string place(const Check& c, std::size_t flat) {
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    if (!checked(c.inputs[i])) continue;
    const auto n = static_cast<std::size_t>(c.inputs[i].numel());
    if (flat < n) return "input " + std::to_string(i) + " (" + describe(c.inputs[i]) + ") element " + std::to_string(flat);
    flat -= n;
  }
  return "no input";
}

// d(outputs)/d(each input element) by central differences: columns over inputs, rows over outputs.
std::vector<std::vector<double>> numeric_columns(const Check& c) {
  std::vector<std::vector<double>> columns;
  const auto moved = movable(c.inputs);
  for (const auto& t : moved) {
    if (!checked(t)) continue;
    for (double& x : t.span<double>()) {
      const double at = x;
      x = at + c.options.step;
      auto column = evaluate(c, moved);
      x = at - c.options.step;
      const auto below = evaluate(c, moved);
      x = at;
      for (std::size_t j = 0; j < column.size(); ++j) column[j] = (column[j] - below[j]) / (2 * c.options.step);
      columns.push_back(std::move(column));
    }
  }
  return columns;
}

void check_jacobian(Check& c, std::span<const Tensor> outputs, const std::vector<Tensor>& leaves) {
  const auto columns = numeric_columns(c);
  std::size_t row = 0;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const auto n = static_cast<std::size_t>(outputs[k].numel());
    std::vector<double> direction(n, 0.0);
    // An empty output still walks its derivative once: shapes must come out right.
    for (std::size_t j = 0; j < std::max<std::size_t>(n, 1); ++j) {
      if (n > 0) direction[j] = 1;
      const Tensor given = dense(direction, outputs[k].shape());
      const auto gradient = analytic(c, outputs.subspan(k, 1), leaves, {&given, 1});
      if (n == 0) break;
      direction[j] = 0;
      for (std::size_t i = 0; i < gradient.size(); ++i)
        c.note(error_of(gradient[i], columns[i][row]), place(c, i) + " -> output " + std::to_string(k) + " element " + std::to_string(j) + ": analytic " +
                                                           text(gradient[i]) + ", numeric " + text(columns[i][row]));
      ++row;
    }
  }
}

void check_directions(Check& c, std::span<const Tensor> outputs, const std::vector<Tensor>& leaves) {
  std::uint64_t stream = 0;
  for (int k = 0; k < c.options.directions; ++k) {
    std::vector<Tensor> given;
    for (const auto& t : outputs) given.push_back(dense(random_values(t.numel(), c.options.seed, stream++), t.shape()));
    const auto gradient = analytic(c, outputs, leaves, given);
    const auto direction = random_values(static_cast<std::int64_t>(gradient.size()), c.options.seed, stream++);
    const auto shifted = [&](double by) {
      const auto moved = movable(c.inputs);
      std::size_t i = 0;
      for (const auto& t : moved)
        if (checked(t))
          for (double& x : t.span<double>()) x += by * direction[i++];
      return evaluate(c, moved);
    };
    const auto above = shifted(c.options.step), below = shifted(-c.options.step), weights = values_of(given);
    double numeric = 0, exact = 0;
    for (std::size_t j = 0; j < weights.size(); ++j) numeric += weights[j] * ((above[j] - below[j]) / (2 * c.options.step));
    for (std::size_t i = 0; i < gradient.size(); ++i) exact += gradient[i] * direction[i];
    c.note(error_of(exact, numeric), "direction " + std::to_string(k) + ": analytic " + text(exact) + ", numeric " + text(numeric));
  }
}

// backward() twice over one graph must leave twice the gradient of one, and that must be what gradients() says.
void check_accumulation(Check& c, const std::vector<Tensor>& leaves) {
  const std::vector<Tensor> outputs = call(c, leaves);
  std::vector<Tensor> rooted, given;
  for (const auto& t : outputs) {
    if (!requires_grad(t)) continue;
    rooted.push_back(t);
    given.push_back(dense(random_values(t.numel(), c.options.seed, 1000 + rooted.size()), t.shape()));
  }
  const auto once = analytic(c, rooted, leaves, given);
  for (int run = 1; run <= 2; ++run) {
    for (std::size_t k = 0; k < rooted.size(); ++k) backward(rooted[k], given[k], {.retain_graph = run == 1 || k + 1 < rooted.size()});
    std::size_t i = 0;
    for (const auto& leaf : only_checked(leaves)) {
      const Tensor g = grad(leaf);
      const auto sum = g.defined() ? g.to_vector() : std::vector<double>(static_cast<std::size_t>(leaf.numel()), 0.0);
      for (const double v : sum) {
        c.note(error_of(v, run * once[i]), place(c, i) + " accumulated over " + std::to_string(run) + " backward runs: " + text(v) + ", expected " + text(run * once[i]));
        ++i;
      }
    }
  }
  for (const auto& leaf : leaves)
    if (checked(leaf)) clear_grad(leaf);
}

GradcheckReport run(Check c) {
  check_inputs(c.op, c.inputs);
  const GradMode on(true);
  const auto leaves = leaves_of(c.inputs);
  const auto outputs = call(c, leaves);
  const auto strided = values_of(outputs), plain = evaluate(c, movable(c.inputs));
  if (strided.size() != plain.size()) {
    c.fail("the function gives " + std::to_string(strided.size()) + " values for the inputs as they lie and " + std::to_string(plain.size()) + " for dense copies");
  } else {
    for (std::size_t j = 0; j < plain.size(); ++j)
      c.note(error_of(strided[j], plain[j]), "value " + std::to_string(j) + " depends on the inputs' strides: " + text(strided[j]) + ", dense " + text(plain[j]));
    if (c.options.directions > 0) check_directions(c, outputs, leaves);
    else check_jacobian(c, outputs, leaves);
    check_accumulation(c, leaves);
  }
  c.report.message = std::string(c.op) + (c.report.ok ? ": ok, worst " : ": FAILED, worst ") + text(c.report.worst) + " (limit " + text(c.options.tolerance) + ") at " + c.report.message;
  return c.report;
}

}  // namespace

GradcheckReport gradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::vector<Tensor> inputs, GradcheckOptions options) {
  return run({"gradcheck", [&f](std::span<const Tensor> in) { return std::vector<Tensor>{f(in)}; }, std::move(inputs), options});
}

GradcheckReport gradgradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::vector<Tensor> inputs, GradcheckOptions options) {
  check_inputs("gradgradcheck", inputs);
  Shape shape;
  {
    const NoGrad off;
    shape = f(inputs).shape();
  }
  inputs.push_back(dense(random_values(numel(shape), options.seed, 999), shape));
  const auto derivative = [&f](std::span<const Tensor> in) {
    const GradMode on(true);
    std::vector<Tensor> by;  // differences come with plain tensors: make leaves of them
    for (const auto& t : in) {
      by.push_back(requires_grad(t) ? t : t.detach());
      if (checked(t) && !requires_grad(by.back())) set_requires_grad(by.back());
    }
    const Tensor given = by.back();
    by.pop_back();
    const Tensor y = f(by);
    std::vector<Tensor> results;
    for (const auto& g : gradients({&y, 1}, only_checked(by), {&given, 1}, {.create_graph = true}))
      if (g.defined()) results.push_back(g);
    return results;
  };
  return run({"gradgradcheck", derivative, std::move(inputs), options});
}

}  // namespace mien
