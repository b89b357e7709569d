#include <algorithm>
#include <atomic>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "mien/autograd/autograd.h"

namespace mien {
namespace {

struct AccumulateGrad;

struct Meta final : AutogradMeta {
  bool requires_grad = false;                 // leaf
  Tensor gradient;                            // leaf
  Edge made_by;                               // not a leaf
  std::weak_ptr<AccumulateGrad> accumulator;  // leaf: made when the first op uses it
  std::vector<std::function<void(const Tensor&)>> ready_hooks;
  std::vector<std::function<Tensor(const Tensor&)>> leaf_hooks;
};

Meta& meta_of(const Tensor& t) {
  auto& slot = t.impl().autograd;
  if (!slot) slot = std::make_unique<Meta>();
  return static_cast<Meta&>(*slot);
}
const Meta* meta_if(const Tensor& t) { return static_cast<const Meta*>(t.impl().autograd.get()); }

thread_local bool mode_on = true;
thread_local bool anomaly_on = false;
std::atomic<std::uint64_t> next_sequence{1};

// Nobody else holds this memory and it is dense. What is shared (both operands of a sum get the same gradient, a reshape's is a view, the
// caller's own tensor) must not become grad() or be added to: writing into one gradient would change another.
bool only_ours(const Tensor& g, std::int64_t handles) {
  return g.impl().references.load(std::memory_order_relaxed) == handles && g.storage().use_count() == 1 && (g.is_contiguous() || g.is_channels_last()) &&
         g.storage()->bytes() == g.numel() * item_size(g.dtype());
}

// The end of every path: adds to the leaf's gradient.
struct AccumulateGrad final : Node {
  explicit AccumulateGrad(Tensor t) : leaf(std::move(t)) { sequence = 0; }
  const char* name() const noexcept override { return "accumulate_grad"; }
  std::vector<Tensor> backward(std::span<const Tensor> grads, std::span<const Tensor>) override {
    if (!grads[0].defined()) return {};
    Tensor g = grads[0];
    for (const auto& hook : meta_of(leaf).leaf_hooks)
      if (Tensor changed = hook(g); changed.defined()) g = changed;
    Tensor& sum = meta_of(leaf).gradient;
    if (sum.defined()) {
      sum = engine_ops.add(sum, g);
    } else {
      sum = only_ours(g, g.is_same(grads[0]) ? 2 : 1) ? g : engine_ops.clone(g);
    }
    for (const auto& f : meta_of(leaf).ready_hooks) f(leaf);
    return {};
  }
  void release() noexcept override {}
  Tensor leaf;
};

struct Run {
  std::unordered_map<Node*, std::vector<Tensor>> buffers;                   // gradients of the outputs so far
  std::unordered_map<Node*, std::vector<std::pair<int, Tensor*>>> capture;  // (output index, where the gradient goes)
  bool accumulate_leaves = true;
  BackwardOptions options;
};

// Whether gradients may be added to this sum in place.
bool open_to_more(const Run& run, const Tensor& slot) { return slot.defined() && !run.options.create_graph && only_ours(slot, 1); }

std::vector<Tensor> open_sums(const Run& run, const Node& node) {
  std::vector<Tensor> sums(node.inputs.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const Edge& e = node.inputs[i];
    if (const auto found = run.buffers.find(e.node.get()); e.node && found != run.buffers.end())
      if (const Tensor& slot = found->second[static_cast<std::size_t>(e.index)]; open_to_more(run, slot)) sums[i] = slot;
  }
  return sums;
}

void add_to(Run& run, const Edge& edge, Tensor g) {
  auto& slots = run.buffers[edge.node.get()];
  if (slots.empty()) slots.resize(static_cast<std::size_t>(edge.node->outputs));
  Tensor& slot = slots[static_cast<std::size_t>(edge.index)];
  if (!slot.defined()) slot = std::move(g);
  else if (open_to_more(run, slot) && slot.dtype() == g.dtype() && slot.shape() == g.shape()) engine_ops.add_into(slot, g);
  else slot = engine_ops.add(slot, g);
}

// How many edges lead to each node from the roots: a node runs when all of them have delivered.
std::unordered_map<Node*, int> count_edges(std::span<const Edge> roots) {
  std::unordered_map<Node*, int> count;
  std::vector<Node*> stack;
  for (const auto& r : roots)
    if (r.node && count.try_emplace(r.node.get(), 0).second) stack.push_back(r.node.get());
  while (!stack.empty()) {
    Node* n = stack.back();
    stack.pop_back();
    for (const auto& e : n->inputs) {
      if (!e.node) continue;
      const auto [it, fresh] = count.try_emplace(e.node.get(), 0);
      ++it->second;
      if (fresh) stack.push_back(e.node.get());
    }
  }
  return count;
}

void check_finite(const Node& node, const Tensor& g) {
  if (g.defined() && !engine_ops.all_finite(g))
    throw ValueError("backward", std::string("the derivative of ") + node.name() + " made NaN or infinity (" + describe(g) + ")",
                     "Look at the inputs of that op; this check runs because detect_anomaly is on.");
}

void run_node(Run& run, Node& node) {
  auto found = run.buffers.find(&node);
  std::vector<Tensor> grads = found == run.buffers.end() ? std::vector<Tensor>(static_cast<std::size_t>(node.outputs)) : std::move(found->second);
  if (found != run.buffers.end()) run.buffers.erase(found);
  for (const auto& h : node.hooks)
    if (Tensor& g = grads[static_cast<std::size_t>(h.index)]; g.defined())
      if (Tensor changed = h.f(g); changed.defined()) g = changed;
  if (const auto c = run.capture.find(&node); c != run.capture.end())
    for (const auto& [index, target] : c->second) *target = grads[static_cast<std::size_t>(index)];
  const bool leaf = node.sequence == 0;
  if (leaf && !run.accumulate_leaves) return;
  if (std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); })) return;
  std::vector<Tensor> sums = open_sums(run, node);
  const std::vector<Tensor> results = node.backward(grads, sums);
  if (!run.options.retain_graph && !run.options.create_graph) node.release();
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i].defined() || !node.inputs[i].node) continue;
    if (anomaly_on) check_finite(node, results[i]);
    if (sums[i].defined() && results[i].is_same(sums[i])) continue;  // added already
    sums[i] = {};
    add_to(run, node.inputs[i], results[i]);
  }
}

void execute(Run& run, std::span<const Edge> roots) {
  auto waiting = count_edges(roots);
  const auto later = [](const Node* a, const Node* b) { return a->sequence < b->sequence; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(later)> ready(later);
  std::unordered_set<Node*> queued;
  for (const auto& r : roots)
    if (r.node && waiting[r.node.get()] == 0 && queued.insert(r.node.get()).second) ready.push(r.node.get());
  while (!ready.empty()) {
    Node* n = ready.top();
    ready.pop();
    run_node(run, *n);
    for (const auto& e : n->inputs)
      if (e.node && --waiting[e.node.get()] == 0) ready.push(e.node.get());
  }
}

Tensor start_gradient(const Tensor& output, const Tensor& given, const char* op) {
  if (!given.defined()) {
    if (output.numel() != 1)
      throw ShapeError(op, "a gradient must be given for an output of more than one element, got " + describe(output), "Reduce it first, e.g. with mien::mean.");
    return engine_ops.ones_like(output);
  }
  if (!(given.shape() == output.shape()) || given.dtype() != output.dtype())
    throw ShapeError(op, "the gradient must look like the output " + describe(output) + ", got " + describe(given));
  return given;
}

}  // namespace

Node::Node() : sequence(next_sequence.fetch_add(1, std::memory_order_relaxed)) {}

// A chain of nodes is taken apart by the outermost destructor in a loop: no recursion, whatever its depth.
Node::~Node() {
  static thread_local std::vector<std::shared_ptr<Node>>* pending = nullptr;
  if (pending) {
    for (auto& e : inputs)
      if (e.node) pending->push_back(std::move(e.node));
    return;
  }
  std::vector<std::shared_ptr<Node>> mine;
  pending = &mine;
  for (auto& e : inputs)
    if (e.node) mine.push_back(std::move(e.node));
  while (!mine.empty()) {
    const std::shared_ptr<Node> last = std::move(mine.back());
    mine.pop_back();
  }
  pending = nullptr;
}

bool requires_grad(const Tensor& t) {
  const Meta* m = meta_if(t);
  return m && (m->requires_grad || m->made_by.node);
}

bool is_leaf(const Tensor& t) {
  const Meta* m = meta_if(t);
  return !m || !m->made_by.node;
}

void set_requires_grad(Tensor& t, bool on) {
  if (!is_leaf(t)) throw NotDifferentiable("set_requires_grad", "expects a leaf, got the result of an op (" + describe(t) + ")", "Use detach() first.");
  if (on && t.dtype() != DType::f32 && t.dtype() != DType::f64)
    throw DTypeError("set_requires_grad", "gradients exist for f32 and f64, got " + describe(t));
  meta_of(t).requires_grad = on;
}

Tensor grad(const Tensor& leaf) {
  const Meta* m = meta_if(leaf);
  return m ? m->gradient : Tensor();
}

void set_grad(const Tensor& leaf, Tensor gradient) {
  if (gradient.defined() && (!(gradient.shape() == leaf.shape()) || gradient.dtype() != leaf.dtype()))
    throw ShapeError("set_grad", "the gradient must look like the tensor " + describe(leaf) + ", got " + describe(gradient));
  meta_of(leaf).gradient = std::move(gradient);
}

Edge edge_of(const Tensor& t) {
  const Meta* m = meta_if(t);
  if (!m) return {};
  if (m->made_by.node) return m->made_by;
  if (!m->requires_grad) return {};
  Meta& leaf = meta_of(t);
  std::shared_ptr<AccumulateGrad> node = leaf.accumulator.lock();
  if (!node) {
    node = std::make_shared<AccumulateGrad>(t);
    leaf.accumulator = node;
  }
  return {node, 0};
}

void set_edge(Tensor& t, std::shared_ptr<Node> node, int index) { meta_of(t).made_by = {std::move(node), index}; }

void backward(const Tensor& output, Tensor gradient, BackwardOptions options) {
  const Edge root = edge_of(output);
  if (!root.node) throw NotDifferentiable("backward", "the output " + describe(output) + " does not depend on any tensor that requires a gradient");
  Run run;
  run.options = options;
  const GradMode mode(options.create_graph);
  add_to(run, root, start_gradient(output, gradient, "backward"));
  execute(run, {&root, 1});
}

std::vector<Tensor> gradients(std::span<const Tensor> outputs, std::span<const Tensor> inputs, std::span<const Tensor> output_gradients,
                              BackwardOptions options) {
  if (!output_gradients.empty() && output_gradients.size() != outputs.size())
    throw ShapeError("gradients", "expects one gradient per output: " + std::to_string(outputs.size()) + " outputs, " +
                                      std::to_string(output_gradients.size()) + " gradients");
  Run run;
  run.options = options;
  run.accumulate_leaves = false;
  const GradMode mode(options.create_graph);
  std::vector<Tensor> results(inputs.size());
  std::vector<Edge> targets;  // keeps the leaves' accumulators alive
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    targets.push_back(edge_of(inputs[i]));
    if (!targets.back().node) throw NotDifferentiable("gradients", "input " + std::to_string(i) + " (" + describe(inputs[i]) + ") does not require a gradient");
    run.capture[targets.back().node.get()].push_back({targets.back().index, &results[i]});
  }
  std::vector<Edge> roots;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const Edge root = edge_of(outputs[k]);
    if (!root.node) continue;
    add_to(run, root, start_gradient(outputs[k], output_gradients.empty() ? Tensor() : output_gradients[k], "gradients"));
    roots.push_back(root);
  }
  execute(run, roots);
  return results;
}

void register_hook(const Tensor& t, std::function<Tensor(const Tensor&)> f) {
  if (!requires_grad(t)) throw NotDifferentiable("register_hook", describe(t) + " does not require a gradient");
  if (is_leaf(t)) {
    meta_of(t).leaf_hooks.push_back(std::move(f));
  } else {
    const Edge e = edge_of(t);
    e.node->hooks.push_back({e.index, std::move(f)});
  }
}

void on_grad_ready(const Tensor& leaf, std::function<void(const Tensor&)> f) {
  if (!is_leaf(leaf) || !requires_grad(leaf)) throw NotDifferentiable("on_grad_ready", "expects a leaf that requires a gradient, got " + describe(leaf));
  meta_of(leaf).ready_hooks.push_back(std::move(f));
}

bool grad_enabled() noexcept { return mode_on; }
GradMode::GradMode(bool on) noexcept : before_(mode_on) { mode_on = on; }
GradMode::~GradMode() { mode_on = before_; }
void set_detect_anomaly(bool on) noexcept { anomaly_on = on; }
bool detect_anomaly() noexcept { return anomaly_on; }

}  // namespace mien
