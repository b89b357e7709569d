// The rows of the gradient check: every op that has a derivative, every variant of its attributes. gradcheck_test.cpp runs them all.
// One file per group of ops adds its rows; a new group declares its function here and joins it in all_rows() of gradcheck_test.cpp.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien::test {

struct GradRow {
  std::string op, variant;  // op: the name in ops/table.h
  std::function<Tensor(std::span<const Tensor>)> f;
  std::vector<Tensor> inputs;  // f64 are checked, others are passed through
  bool second = false;         // check the derivative's derivative too
};

void add_rows_basic(std::vector<GradRow>& rows);
void add_rows_nn(std::vector<GradRow>& rows);

}  // namespace mien::test
