#include <algorithm>
#include <set>
#include <string>

#include "catch.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien::test {

TEST_CASE("the op table is complete", "[ops][table]") {
  std::set<std::string> names;
  for (const Op* op : all_ops()) {
    INFO("op " << op->name);
    CHECK(names.insert(op->name).second);
    if (op->view) {
      CHECK(op->kernels.ref == nullptr);
    } else {
      CHECK(op->infer != nullptr);
      REQUIRE(op->kernels.ref != nullptr);
      CHECK(op->kernels.ref->run != nullptr);
      CHECK(op->kernels.ref->decline == nullptr);  // the specification takes everything
    }
    if (!op->vjp) {
      CHECK(op->save_inputs == 0);
      CHECK(op->save_outputs == 0);
    }
  }
}

TEST_CASE("every level that this machine has holds an entry for every op with a fast kernel", "[ops][table]") {
  for (const Op* op : all_ops()) {
    if (!op->kernels.at(Level::base)) continue;
    for (int l = static_cast<int>(Level::base); l <= static_cast<int>(std::min(machine_cpu_level(), Level::avx512)); ++l) {  // amx has some only
      INFO("op " << op->name << " level " << name(static_cast<Level>(l)));
      const KernelEntry* entry = op->kernels.at(static_cast<Level>(l));
      REQUIRE(entry != nullptr);
      CHECK(entry->run != nullptr);
    }
  }
}

TEST_CASE("every op has a CUDA kernel", "[ops][table][cuda]") {
  if (!built_with_cuda()) MIEN_SKIP("built without CUDA");
  for (const Op* op : all_ops()) {
    if (op->view) continue;
    INFO("op " << op->name);
    REQUIRE(op->kernels.at(Level::cuda) != nullptr);
    CHECK(op->kernels.at(Level::cuda)->run != nullptr);
  }
}

TEST_CASE("what a member saves is part of what its family declares", "[ops][table]") {
  const auto check = [](const Op& op, const auto& params) {
    REQUIRE(op.saves != nullptr);
    const Saves s = op.saves(&params);
    CHECK((s.inputs & ~op.save_inputs) == 0);
    CHECK((s.outputs & ~op.save_outputs) == 0);
  };
  for (int k = 0; k <= static_cast<int>(BinaryKind::ge); ++k) check(op_binary, BinaryParams{static_cast<BinaryKind>(k)});
  for (int k = 0; k <= static_cast<int>(UnaryKind::sign); ++k) check(op_unary, UnaryParams{static_cast<UnaryKind>(k), .1});
  for (int k = 0; k <= static_cast<int>(ReduceKind::min); ++k) check(op_reduce, ReduceParams{static_cast<ReduceKind>(k)});
}

}  // namespace mien::test
