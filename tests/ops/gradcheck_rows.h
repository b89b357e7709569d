// The rows of the gradient check: every op that has a derivative, every variant of its attributes. gradcheck_test.cpp runs them all.
// One file per group of ops adds its rows; a new group declares its function here and joins it in all_rows() of gradcheck_test.cpp.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"

namespace mien::test {

struct GradRow {
  std::string op, variant;  // op: the name in ops/table.h
  std::function<Tensor(std::span<const Tensor>)> f;
  std::vector<Tensor> inputs;  // f64 are checked, others are passed through
  bool second = false;         // check the derivative's derivative too
};

// A constant of a row, where the row's inputs are (the rows run on every device).
inline Tensor beside(std::span<const Tensor> in, const Tensor& constant) { return constant.defined() ? to(constant, in[0].device()) : constant; }

// The gradient of f at zeros of `shape` as a function of the output's gradient: how a backward op is called by itself.
inline std::function<Tensor(std::span<const Tensor>)> pulled_back(Shape shape, std::function<Tensor(const Tensor&)> f) {
  return [=](std::span<const Tensor> in) {
    const GradMode on(true);
    Tensor x = zeros(shape, {.dtype = DType::f64, .device = in[0].device()});
    set_requires_grad(x);
    const Tensor y = f(x);
    return gradients({&y, 1}, {&x, 1}, {&in[0], 1}, {.create_graph = true})[0];
  };
}

void add_rows_basic(std::vector<GradRow>& rows);
void add_rows_nn(std::vector<GradRow>& rows);
void add_rows_metric(std::vector<GradRow>& rows);

}  // namespace mien::test
