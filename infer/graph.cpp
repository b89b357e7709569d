#include <algorithm>
#include <set>

#include "mien/infer/graph_impl.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::infer {

int Graph::add_constant(const Tensor& t) {
  values.push_back({t.shape(), t.strides(), t.dtype(), t, -1, 0});
  return static_cast<int>(values.size()) - 1;
}

Tensor without_memory(DType dtype, const Shape& shape, const Strides& strides) {
  Tensor t = Tensor::empty({0}, dtype);
  t.impl().shape = shape;
  t.impl().strides = strides;
  return t;
}

namespace {

Strides strides_of(const Shape& shape, Layout layout) { return layout == Layout::channels_last ? channels_last_strides(shape) : contiguous_strides(shape); }

// What the op's shape rule says; constants come with their elements.
Outputs infer_outputs(const Node& n, const Params& params, const std::vector<Tensor>& in) {
  Outputs out;
  n.op->infer(in, params.data(), out);
  return out;
}

}  // namespace

Node Graph::make_node(const Op& op, const Params& params, std::vector<int> in) {
  Node n{&op, params, std::move(in), {}};
  const auto add = [&](const Shape& shape, const Strides& strides, DType dtype) {
    n.out.push_back(static_cast<int>(values.size()));
    values.push_back({shape, strides, dtype, {}, -1, 0});
  };
  if (op.view) {
    const Value& x = value(n.in[0]);
    std::byte origin{};
    View v{&origin, x.dtype, x.shape, x.strides};
    if (!op.view(v, params.data())) {
      v.shape = static_cast<const ShapeParams*>(params.data())->shape;
      v.strides = contiguous_strides(v.shape);
    }
    add(v.shape, v.strides, x.dtype);
    return n;
  }
  std::vector<Tensor> metas;
  for (const int v : n.in) metas.push_back(value(v).is_constant() ? value(v).constant : without_memory(value(v).dtype, value(v).shape, value(v).strides));
  for (const auto& s : infer_outputs(n, params, metas)) add(s.shape, strides_of(s.shape, s.layout), s.dtype);
  return n;
}

int Graph::producer(int v) const {
  for (int n = 0; n < node_count(); ++n)
    if (std::find(node(n).out.begin(), node(n).out.end(), v) != node(n).out.end()) return n;
  return -1;
}

std::vector<int> Graph::users(int v) const {
  std::vector<int> found;
  for (int n = 0; n < node_count(); ++n)
    if (std::find(node(n).in.begin(), node(n).in.end(), v) != node(n).in.end()) found.push_back(n);
  return found;
}

bool Graph::is_output(int v) const { return std::find(outputs.begin(), outputs.end(), v) != outputs.end(); }

int Graph::only_user(int v) const {
  const auto found = users(v);
  return found.size() == 1 && !is_output(v) && value(v).inside < 0 ? found[0] : -1;
}

void Graph::replace_uses(int from, int to) {
  for (auto& n : nodes) std::replace(n.in.begin(), n.in.end(), from, to);
  std::replace(outputs.begin(), outputs.end(), from, to);
}

void Graph::forget_unread(int v) {
  if (value(v).is_constant() && users(v).empty() && !is_output(v)) value(v).constant = Tensor();
}

std::int64_t constant_bytes(const Graph& g) {
  std::set<const Storage*> seen;
  std::int64_t bytes = 0;
  for (const auto& n : g.nodes)
    for (const int v : n.in)
      if (const Tensor& t = g.value(v).constant; t.defined() && seen.insert(t.storage().get()).second) bytes += t.numel() * item_size(t.dtype());
  return bytes;
}

const char* display_name(const Node& n) { return n.op->member ? n.op->member(n.params.data()) : n.op->name; }

std::string dump(const Graph& g) {
  const auto type = [](const Value& v) {
    const View view{nullptr, v.dtype, v.shape, v.strides};
    const char* order = view.is_contiguous() ? "" : view.is_channels_last() ? " channels_last" : " strided";
    return std::string(name(v.dtype)) + to_string(v.shape) + order;
  };
  const auto label = [&](int v) { return std::string(g.value(v).is_constant() ? "c" : "v").append(std::to_string(v)); };
  std::string text;
  for (const int v : g.inputs) text += label(v) + ": " + type(g.value(v)) + " = input\n";
  for (const auto& n : g.nodes) {
    for (std::size_t i = 0; i < n.out.size(); ++i) {
      const Value& v = g.value(n.out[i]);
      text.append(i ? ", " : "").append(label(n.out[i])).append(": ").append(type(v));
      if (v.inside >= 0) text += " in " + label(v.inside) + "[" + std::to_string(v.channel) + ":" + std::to_string(v.channel + v.shape[1]) + "]";
    }
    text += std::string(" = ") + display_name(n) + "(";
    for (std::size_t i = 0; i < n.in.size(); ++i) {
      text.append(i ? ", " : "").append(label(n.in[i]));
      if (g.value(n.in[i]).is_constant()) text.append(" ").append(type(g.value(n.in[i])));
    }
    text += ")\n";
  }
  text += "return";
  for (const int v : g.outputs) text.append(" ").append(label(v));
  return text + "\n";
}

// --- sizes -----------------------------------------------------------------------------------------------------------
namespace {

class Sizer {
 public:
  Sizer(const Graph& g, std::span<const Shape> inputs) : g_(g) {
    s_.values.resize(g.values.size());
    s_.copies.resize(g.nodes.size());
    for (std::size_t i = 0; i < g.inputs.size(); ++i) {
      const Value& v = g.value(g.inputs[i]);
      const View traced{nullptr, v.dtype, v.shape, v.strides};
      set(g.inputs[i], inputs[i], strides_of(inputs[i], traced.is_contiguous() ? Layout::contiguous : Layout::channels_last), v.dtype);
    }
  }

  Sizes run() {
    for (int n = 0; n < g_.node_count(); ++n) {
      const Node& node = g_.node(n);
      s_.params.push_back(node.params);
      Params& params = s_.params.back();
      if (node.op->follow) node.op->follow(params.data(), g_.value(node.in[0]).shape, shape_of(node.in[0]));
      if (is_view(node))
        view(n, params);
      else
        call(node, params);
    }
    return std::move(s_);
  }

 private:
  SizedValue& at(int v) { return s_.values[static_cast<std::size_t>(v)]; }
  const Shape& shape_of(int v) { return g_.value(v).is_constant() ? g_.value(v).shape : at(v).shape; }
  void set(int v, const Shape& shape, const Strides& strides, DType dtype) { at(v) = {shape, strides, dtype, v, 0}; }

  Tensor meta(int v) {
    const Value& value = g_.value(v);
    return value.is_constant() ? value.constant : without_memory(at(v).dtype, at(v).shape, at(v).strides);
  }

  void call(const Node& node, const Params& params) {
    std::vector<Tensor> in;
    for (const int v : node.in) in.push_back(meta(v));
    const Outputs specs = infer_outputs(node, params, in);
    for (std::size_t i = 0; i < node.out.size(); ++i) {  // fewer outputs than specs: the rest is not wanted
      const int v = node.out[i];
      set(v, specs[i].shape, strides_of(specs[i].shape, specs[i].layout), specs[i].dtype);
      if (g_.value(v).inside >= 0) place_inside(v);
    }
  }

  // The wide value takes its sizes from the first that lies in it; its channels are known from the trace.
  void place_inside(int v) {
    const int wide = g_.value(v).inside;
    SizedValue& self = at(v);
    Shape whole = self.shape;
    whole[1] = g_.value(wide).shape[1];
    if (at(wide).root < 0) {
      set(wide, whole, channels_last_strides(whole), self.dtype);
      if (g_.value(wide).inside >= 0) place_inside(wide);
    }
    const SizedValue& w = at(wide);
    if (!(w.shape == whole))
      throw ShapeError("concat", "expects equal sizes in all dimensions but 1, got " + std::string(name(self.dtype)) + to_string(self.shape) + " for " +
                                     to_string(w.shape));
    self.strides = w.strides;
    self.root = w.root;
    self.offset = w.offset + g_.value(v).channel * w.strides[1] * item_size(w.dtype);
  }

  // Views have no shape rule: this is what their public functions check, once more for sizes that could not follow (Note [Sizes that follow]).
  static void check_view(const Node& node, const Params& params, const SizedValue& x) {
    if (node.op != &op_reshape && node.op != &op_expand) return;
    const Shape& to = static_cast<const ShapeParams*>(params.data())->shape;
    const auto seen = [&] { return std::string(name(x.dtype)) + to_string(x.shape); };
    if (node.op == &op_reshape && numel(to) != numel(x.shape))
      throw ShapeError("reshape", "expects a shape of " + std::to_string(numel(x.shape)) + " elements, got " + to_string(to) + " for " + seen());
    for (int i = 0, shift = to.rank() - x.shape.rank(); node.op == &op_expand && i < x.shape.rank(); ++i)
      if (x.shape[i] != 1 && x.shape[i] != to[shift + i]) throw ShapeError("expand", seen() + " does not expand to " + to_string(to));
  }

  void view(int n, const Params& params) {
    const Node& node = g_.node(n);
    const SizedValue x = at(node.in[0]);
    check_view(node, params, x);
    std::byte origin{};
    View v{&origin, x.dtype, x.shape, x.strides};
    if (node.op->view(v, params.data())) {
      at(node.out[0]) = {v.shape, v.strides, x.dtype, x.root, x.offset + (static_cast<std::byte*>(v.data) - &origin)};
    } else {
      s_.copies[static_cast<std::size_t>(n)] = true;
      const Shape& to = static_cast<const ShapeParams*>(params.data())->shape;
      set(node.out[0], to, contiguous_strides(to), x.dtype);
    }
  }

  const Graph& g_;
  Sizes s_;
};

}  // namespace

Sizes size_graph(const Graph& g, std::span<const Shape> inputs) { return Sizer(g, inputs).run(); }

}  // namespace mien::infer
