// Every derivative against central differences in f64.
#include <algorithm>
#include <set>

#include "catch.h"
#include "gradcheck_rows.h"
#include "mien/autograd/gradcheck.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/tensor/allocator.h"

namespace mien::test {
namespace {

std::vector<GradRow> all_rows() {
  std::vector<GradRow> rows;
  add_rows_basic(rows);
  add_rows_nn(rows);
  add_rows_metric(rows);
  return rows;
}

}  // namespace

TEST_CASE("every op with a derivative has a row in the gradient check", "[ops][gradcheck]") {
  std::set<std::string> rows, ops;
  for (const auto& r : all_rows()) rows.insert(r.op);
  for (const Op* op : all_ops()) {
    ops.insert(op->name);
    INFO("op " << op->name);
    if (op->vjp) CHECK(rows.count(op->name) == 1);
  }
  for (const auto& r : rows) {
    INFO("row for " << r << ", which is no op of ops/table.h");
    CHECK(ops.count(r) == 1);
  }
}

TEST_CASE("derivatives agree with central differences", "[ops][gradcheck]") {
  for (const auto& r : all_rows()) {
    INFO(r.op << " / " << r.variant);
    const auto report = gradcheck(r.f, r.inputs);
    INFO(report.message);
    CHECK(report.ok);
  }
}

TEST_CASE("derivatives of derivatives agree with central differences", "[ops][gradcheck]") {
  for (const auto& r : all_rows()) {
    if (!r.second) continue;
    INFO(r.op << " / " << r.variant);
    const auto report = gradgradcheck(r.f, r.inputs);
    INFO(report.message);
    CHECK(report.ok);
  }
}

TEST_CASE("derivatives agree with central differences on a GPU", "[ops][gradcheck][cuda]") {
  MIEN_NEEDS_CUDA();
  for (const auto& r : all_rows())
    for (const bool second : {false, true}) {
      if (second && !r.second) continue;
      INFO(r.op << " / " << r.variant << (second ? ", second derivative" : ""));
      const auto there = [&](std::span<const Tensor> in) {
        std::vector<Tensor> moved;
        for (const auto& t : in) moved.push_back(to(t, Device::cuda()));
        return to(r.f(moved), Device::cpu());
      };
      try {
        const auto report = second ? gradgradcheck(there, r.inputs) : gradcheck(there, r.inputs);
        INFO(report.message);
        CHECK(report.ok);
      } catch (const std::exception& e) {
        FAIL_CHECK(e.what());
      }
    }
}

// Fresh memory is NaN and ends at a guard page: what a kernel forgets to write, or reads beyond, shows.
TEST_CASE("forward and backward write all they allocate and stay inside it", "[ops][gradcheck][memory]") {
  const auto before = set_cpu_allocator(make_debug_allocator());
  for (const auto& r : all_rows()) {
    INFO(r.op << " / " << r.variant);
    try {
      const auto report = gradcheck(r.f, r.inputs, {.directions = 1});
      INFO(report.message);
      CHECK(report.ok);
    } catch (...) {
      set_cpu_allocator(before);
      throw;
    }
  }
  set_cpu_allocator(before);
}

}  // namespace mien::test
