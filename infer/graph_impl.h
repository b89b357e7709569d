// The graph that infer/ works on: values and the calls of ops between them, in an order that runs. Passes rewrite it; size_graph() gives every value its
// sizes and strides for given inputs. Private to infer/.
#pragma once

#include <string>
#include <vector>

#include "mien/ops/op.h"

namespace mien::infer {

struct Value {
  // As traced. Session sizes are worked out anew (size_graph); a pass may read these.
  Shape shape;
  Strides strides;
  DType dtype = DType::f32;
  // Defined: weights and everything else that does not depend on the inputs.
  Tensor constant;
  // Set: the value lies in the channels [channel, channel + C) of another one that is channels_last: a concat without a copy.
  int inside = -1;
  std::int64_t channel = 0;

  bool is_constant() const noexcept { return constant.defined(); }
};

struct Node {
  const Op* op = nullptr;
  Params params;
  std::vector<int> in, out;  // values

  template <class P>
  const P& get() const noexcept {
    return *static_cast<const P*>(params.data());
  }
};

struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::vector<int> inputs, outputs;
  Device device;  // where it runs

  Value& value(int v) { return values[static_cast<std::size_t>(v)]; }
  const Value& value(int v) const { return values[static_cast<std::size_t>(v)]; }
  Node& node(int n) { return nodes[static_cast<std::size_t>(n)]; }
  const Node& node(int n) const { return nodes[static_cast<std::size_t>(n)]; }
  int node_count() const noexcept { return static_cast<int>(nodes.size()); }

  int add_constant(const Tensor& t);
  // A call whose output values are new, their sizes inferred as the op does it. The caller places the node. Throws what the op throws.
  Node make_node(const Op& op, const Params& params, std::vector<int> in);
  // Index of the node that makes a value; -1 for inputs, constants and values that others lie in.
  int producer(int v) const;
  std::vector<int> users(int v) const;  // indices of nodes, each once
  bool is_output(int v) const;
  // The only reader of a value that is no output of the graph; -1 when there is none or more than one.
  int only_user(int v) const;
  void replace_uses(int from, int to);  // in nodes and outputs
  void forget_unread(int v);            // the memory of a constant that no call reads any more
};

// Tensor of these sizes without memory, for shape rules that look at sizes only.
Tensor without_memory(DType dtype, const Shape& shape, const Strides& strides);
inline bool is_view(const Node& n) { return n.op->view != nullptr; }
// Bytes of all constants that the nodes read, each storage once.
std::int64_t constant_bytes(const Graph& g);
// "conv2d", or the member's name of a family ("relu").
const char* display_name(const Node& n);
std::string dump(const Graph& g);

// --- sizes for given inputs ------------------------------------------------------------------------------------------
struct SizedValue {
  Shape shape;
  Strides strides;
  DType dtype = DType::f32;
  int root = -1;            // the value whose memory this one lies in (itself: memory of its own); -1: not sized (dead, or a constant)
  std::int64_t offset = 0;  // bytes from the root's first element
  std::int64_t bytes() const { return numel(shape) * item_size(dtype); }
};

struct Sizes {
  std::vector<SizedValue> values;
  std::vector<Params> params;  // of every node, with sizes that follow
  std::vector<bool> copies;    // a view node that strides can't say: its elements are copied
};

// Throws the ops' ShapeErrors where a size does not fit. `inputs` one shape for each input of the graph.
Sizes size_graph(const Graph& g, std::span<const Shape> inputs);

}  // namespace mien::infer
