#include <algorithm>
#include <map>

#include "mien/autograd/autograd.h"
#include "mien/infer/trace_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

// Note [What is a constant]
// A tensor that no recorded call made is a constant: weights, and whatever was computed from weights alone (such calls run now and are not recorded).
// Tensors are told apart by their handle's address; all that were seen are kept, so that no address comes twice. A new handle to a known memory with the
// same sizes (detach) is the same value; any other view of a known memory that no op made cannot be followed.
class Recorder final : public OpListener {
 public:
  int add_value(const Tensor& t) {
    graph.values.push_back({t.shape(), t.strides(), t.dtype(), {}, -1, 0});
    const int v = static_cast<int>(graph.values.size()) - 1;
    known_[&t.impl()] = v;
    storages_[t.storage().get()].push_back(v);
    handles_[v] = t;
    return v;
  }

  void applied(const Op& op, const Params& params, Inputs in, std::span<const Tensor> out) override {
    Node n{&op, params, {}, {}};
    std::vector<int> found;
    bool depends = false;
    for (const auto& t : in) {
      found.push_back(find(t));
      depends = depends || found.back() >= 0;
    }
    if (&op == &op_random)
      throw NotImplemented("compile", "random draws new numbers at every call, a plan would repeat those of the trace", "Call net.eval() first.");
    if (!depends) return;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (found[i] >= 0 && (op.reads & bit(static_cast<int>(i))))
        throw NotImplemented("compile", std::string(op.name) + " checks or sizes its result by the values of input " + std::to_string(i) +
                                            ", which depend on the plan's inputs");
      n.in.push_back(found[i] >= 0 ? found[i] : constant(in[i]));
    }
    for (const auto& t : out) n.out.push_back(add_value(t));
    graph.nodes.push_back(std::move(n));
    release_memory();
  }

  void applied_in_place(const char* name, Inputs in, Inputs out) override {
    for (const auto* side : {&in, &out})
      for (const auto& t : *side)
        if (find(t) >= 0) throw NotImplemented("compile", std::string(name) + " works in place on a value that depends on the plan's inputs");
  }

  // The value of a tensor, -1 for a constant.
  int find(const Tensor& t) const {
    if (const auto it = known_.find(&t.impl()); it != known_.end()) return it->second;
    const auto it = storages_.find(t.storage().get());
    if (it == storages_.end()) return -1;
    for (const int v : it->second) {
      const Tensor& seen = handles_.at(v);
      if (seen.shape() == t.shape() && seen.strides() == t.strides() && seen.storage_offset() == t.storage_offset() && seen.dtype() == t.dtype()) return v;
    }
    throw NotImplemented("compile", "as_strided made a view that no op knows of a value that depends on the plan's inputs (" + describe(t) + ")");
  }

  Graph graph;

 private:
  int constant(const Tensor& t) {
    const auto [it, is_new] = constants_.try_emplace(&t.impl(), -1);
    if (is_new) {
      it->second = graph.add_constant(t.detach());
      kept_.push_back(t);
    }
    return it->second;
  }

  // The memory of values that nobody can read any more; their handles stay, and with them their addresses.
  void release_memory() {
    std::erase_if(storages_, [&](const auto& entry) {
      const std::vector<int>& values = entry.second;
      for (const int v : values)
        if (handles_.at(v).impl().references.load() > 1) return false;
      if (handles_.at(values[0]).storage().use_count() > static_cast<long>(values.size())) return false;
      for (const int v : values) handles_.at(v).impl().storage.reset();
      return true;
    });
  }

  std::map<const TensorImpl*, int> known_, constants_;
  std::map<const Storage*, std::vector<int>> storages_;
  std::map<int, Tensor> handles_;
  std::vector<Tensor> kept_;
};

}  // namespace

Graph trace(const Forward& forward, const std::vector<Tensor>& example) {
  if (example.empty()) throw ValueError("compile", "expects at least one example input");
  const NoGrad guard;
  std::vector<Tensor> inputs;
  for (const auto& t : example) {
    if (!t.defined()) throw ValueError("compile", "an example input is undefined", "Give it a value first.");
    inputs.push_back((t.is_contiguous() || t.is_channels_last() ? clone(t) : contiguous(t)).detach());
  }
  Recorder recorder;
  for (const auto& t : inputs) recorder.graph.inputs.push_back(recorder.add_value(t));
  const auto outputs = forward(inputs);
  if (outputs.empty()) throw ValueError("compile", "forward returned no outputs");
  Graph& g = recorder.graph;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) throw ValueError("compile", "output " + std::to_string(i) + " is undefined");
    const int v = recorder.find(outputs[i]);
    if (v < 0)
      throw ValueError("compile", "output " + std::to_string(i) + " does not depend on any input", "Is it computed from the tensors that forward was given?");
    g.outputs.push_back(v);
  }
  return std::move(g);
}

}  // namespace mien::infer
