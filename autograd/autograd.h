// Reverse-mode differentiation on an eager tape. Knows no op: ops/ records nodes, this folder walks them.
//
//   Tensor w = randn({3, 4}); set_requires_grad(w);
//   backward(sum(square(w)));
//   Tensor g = grad(w);                 // 2 w
//
// The graph is iterative everywhere (engine and destruction): a chain of 100,000 ops is fine.
// Thread safety: one graph belongs to one thread; grad mode is per thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

class Node;

// Output `index` of `node`. An empty node means: no gradient flows here.
struct Edge {
  std::shared_ptr<Node> node;
  int index = 0;
};

// What happened to make a tensor: its inputs' edges and how to differentiate it.
class Node : public std::enable_shared_from_this<Node> {
 public:
  Node();
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual const char* name() const noexcept = 0;
  // grads[i] belongs to output i and may be undefined (= zero). Returns one tensor per input edge, undefined where none is needed.
  // sums[i]: what others gave to input i so far, where this node may add to it in place; else undefined. A result that is sums[i] itself holds the whole sum.
  virtual std::vector<Tensor> backward(std::span<const Tensor> grads, std::span<const Tensor> sums) = 0;
  // Drops what was saved for backward; a second backward then throws.
  virtual void release() noexcept = 0;

  std::vector<Edge> inputs;
  int outputs = 1;
  std::uint64_t sequence;  // later nodes have larger numbers: a topological order
  struct Hook {
    int index;
    std::function<Tensor(const Tensor&)> f;
  };
  std::vector<Hook> hooks;  // run on the gradient of output `index` before backward()
};

// --- what users call -------------------------------------------------------------------------------------------------

bool requires_grad(const Tensor& t);                     // true for leaves that were asked for it and everything made from them
void set_requires_grad(Tensor& t, bool on = true);       // leaves only (NotDifferentiable otherwise); f32 or f64 (DTypeError)
bool is_leaf(const Tensor& t);
Tensor grad(const Tensor& leaf);                         // the accumulated gradient, undefined if there is none
void set_grad(const Tensor& leaf, Tensor gradient);      // ShapeError if it doesn't fit; an undefined tensor clears it
inline void clear_grad(const Tensor& leaf) { set_grad(leaf, Tensor()); }

struct BackwardOptions {
  bool retain_graph = false;  // keep what was saved, for another backward
  bool create_graph = false;  // record the derivative's own ops: derivatives of derivatives
};
// Adds d(output)/d(leaf) to grad() of every leaf. `gradient` defaults to 1 and is then only allowed for one element (ShapeError).
void backward(const Tensor& output, Tensor gradient = {}, BackwardOptions options = {});
// Gradients of sum_k <outputs[k], gradients[k]> with respect to `inputs` (leaves or not); nothing is accumulated. Undefined where no path leads.
std::vector<Tensor> gradients(std::span<const Tensor> outputs, std::span<const Tensor> inputs, std::span<const Tensor> output_gradients = {},
                              BackwardOptions options = {});

// Runs f on the gradient of t when it is known; what f returns replaces it (an undefined tensor leaves it).
void register_hook(const Tensor& t, std::function<Tensor(const Tensor&)> f);
// Runs f after the gradient of this leaf was accumulated: clipping, exchange between processes.
void on_grad_ready(const Tensor& leaf, std::function<void(const Tensor& leaf)> f);

bool grad_enabled() noexcept;
class GradMode {  // RAII
 public:
  explicit GradMode(bool on) noexcept;
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};
class NoGrad : public GradMode {
 public:
  NoGrad() noexcept : GradMode(false) {}
};
// Checks every gradient for NaN and infinity and throws a ValueError that names the op whose derivative made it. Slow; per thread.
void set_detect_anomaly(bool on) noexcept;
bool detect_anomaly() noexcept;

// --- what ops call ---------------------------------------------------------------------------------------------------

Edge edge_of(const Tensor& t);                            // empty when t needs no gradient
void set_edge(Tensor& t, std::shared_ptr<Node> node, int index);

// A tensor saved by a node: data without a graph of its own, and the version it had; inside checkpoint() only its place in what a second run will save.
class SavedTensor {
 public:
  SavedTensor() = default;
  explicit SavedTensor(const Tensor& t);
  bool defined() const noexcept { return frame_ || data_.defined(); }
  // Throws when it was changed in place since. With an edge, the result takes part in the graph again (for derivatives of derivatives).
  Tensor unpack(const char* op, const Edge& edge) const;

 private:
  Tensor data_;
  std::uint32_t version_ = 0;
  std::shared_ptr<class CheckpointFrame> frame_;
  std::size_t index_ = 0;
};

// The few ops that the engine itself needs. ops/engine_ops.cpp defines them: forgetting is a link error.
struct EngineOps {
  Tensor (*add)(const Tensor&, const Tensor&);
  void (*add_into)(const Tensor& sum, const Tensor&);  // sum += ..., of like tensors, outside of any graph
  Tensor (*ones_like)(const Tensor&);
  Tensor (*clone)(const Tensor&);
  bool (*all_finite)(const Tensor&);
};
extern const EngineOps engine_ops;

}  // namespace mien
