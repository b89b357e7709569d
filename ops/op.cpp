#include "mien/ops/op.h"

#include <optional>

namespace mien {
namespace {

const char* display_name(const Op& op, const Params& params) { return op.member ? op.member(params.data()) : op.name; }

constexpr std::size_t max_inputs = 32;  // one bit each in save_inputs

// One recorded call. What it saved holds no graph of its own, so a chain of nodes is the only long structure.
class OpNode final : public Node {
 public:
  OpNode(const Op& op, const Params& params, Inputs in)
      : op_(op), params_(params), saves_(op.saves ? op.saves(params.data()) : Saves{op.save_inputs, op.save_outputs}), saved_inputs_(in.size()) {
    internal_check(in.size() <= max_inputs, "an op takes at most 32 inputs");
    for (std::size_t i = 0; i < in.size(); ++i) {
      inputs.push_back(edge_of(in[i]));
      specs_.push_back({in[i].shape(), in[i].dtype(), layout_like(in[i]), in[i].device()});
      if (saves_.inputs & bit(static_cast<int>(i))) saved_inputs_[i] = SavedTensor(in[i]);
    }
  }
  void save_outputs(std::span<const Tensor> out) {
    outputs = static_cast<int>(out.size());
    saved_outputs_.resize(out.size());
    for (std::size_t i = 0; i < out.size(); ++i)
      if (saves_.outputs & bit(static_cast<int>(i))) saved_outputs_[i] = SavedTensor(out[i]);
  }
  const char* name() const noexcept override { return display_name(op_, params_); }

  std::vector<Tensor> backward(std::span<const Tensor> grads, std::span<const Tensor> sums) override {
    if (released_)
      throw ValueError("backward", std::string("what ") + name() + " saved was already released", "Pass retain_graph = true to the first backward.");
    std::vector<Tensor> in(saved_inputs_.size()), out(saved_outputs_.size()), result(saved_inputs_.size());
    for (std::size_t i = 0; i < in.size(); ++i)
      if (saved_inputs_[i].defined()) in[i] = saved_inputs_[i].unpack(name(), inputs[i]);
    for (std::size_t i = 0; i < out.size(); ++i)
      if (saved_outputs_[i].defined()) out[i] = saved_outputs_[i].unpack(name(), {shared_from_this(), static_cast<int>(i)});
    std::array<bool, max_inputs> needs{};
    for (std::size_t i = 0; i < inputs.size(); ++i) needs[i] = inputs[i].node != nullptr;
    op_.vjp({name(), grads, in, out, specs_, std::span<const bool>(needs.data(), inputs.size()), params_.data(), result, sums});
    return result;
  }

  void release() noexcept override {
    released_ = true;
    for (auto& s : saved_inputs_) s = {};
    for (auto& s : saved_outputs_) s = {};
  }

 private:
  const Op& op_;
  Params params_;
  Saves saves_;
  std::vector<OutputSpec> specs_;
  std::vector<SavedTensor> saved_inputs_, saved_outputs_;
  bool released_ = false;
};

View expand_view(View v, const Shape& to) {
  View out{v.data, v.dtype, to, Shape::filled(to.rank(), 0), v.device};
  const int shift = to.rank() - v.rank();
  for (int d = 0; d < v.rank(); ++d) out.strides[shift + d] = v.shape[d] == 1 && to[shift + d] != 1 ? 0 : v.strides[d];
  return out;
}

thread_local OpListener* listener = nullptr;

void check_devices(const char* op, Inputs in) {
  for (const auto& t : in)
    if (!(t.device() == in[0].device()))
      throw DeviceError(op, "operands are on different devices: " + to_string(in[0].device()) + " and " + to_string(t.device()), "Move one of them with mien::to(x, device).");
}

// A view op changes strides and where the first element lies, never the storage.
Tensor view_of(const Op& op, const Tensor& x, const Params& params) {
  View v = x.view();
  internal_check(op.view(v, params.data()), "a view was asked for that strides can't say");
  const std::int64_t moved = (static_cast<std::byte*>(v.data) - static_cast<std::byte*>(x.raw_data())) / item_size(x.dtype());
  return x.as_strided(v.shape, v.strides, x.storage_offset() + moved);
}

}  // namespace

View broadcast_view(const Op& op, View v, const Shape& output) {
  if (op.broadcast == Broadcast::full) return expand_view(v, output);
  if (op.broadcast == Broadcast::batch && v.rank() >= 2) {
    Shape to = output;
    to[to.rank() - 2] = v.shape[v.rank() - 2];
    to[to.rank() - 1] = v.shape[v.rank() - 1];
    return expand_view(v, to);
  }
  return v;
}

OpListener::OpListener() noexcept : before_(listener) { listener = this; }
OpListener::~OpListener() { listener = before_; }

std::vector<Tensor> apply_all(const Op& op, Inputs in, const Params& params) {
  for (const auto& t : in)
    if (!t.defined()) throw ValueError(display_name(op, params), "an undefined tensor was given", "Give it a value first.");
  check_devices(op.name, in);
  std::vector<Tensor> out;
  if (op.view) {
    out.push_back(view_of(op, in[0], params));
  } else {
    Outputs specs;
    op.infer(in, params.data(), specs);
    std::vector<View> in_views, out_views;
    for (const auto& t : in) in_views.push_back(broadcast_view(op, t.view(), specs.empty() ? Shape{} : specs[0].shape));
    for (const auto& s : specs) {
      out.push_back(Tensor::empty(s.shape, s.dtype, s.layout, s.device ? *s.device : in.empty() ? Device::cpu() : in[0].device()));
      out_views.push_back(out.back().view());
    }
    run_kernel(op.name, op.kernels, in_views, out_views, params.data());
  }
  if (listener) listener->applied(op, params, in, out);
  if (op.vjp && grad_enabled()) {
    bool any = false;
    for (const auto& t : in) any = any || requires_grad(t);
    if (any) {
      auto node = std::make_shared<OpNode>(op, params, in);
      node->save_outputs(out);
      for (std::size_t i = 0; i < out.size(); ++i)
        if (is_floating(out[i].dtype())) set_edge(out[i], node, static_cast<int>(i));
    }
  }
  return out;
}

Tensor apply(const Op& op, Inputs inputs, const Params& params) { return std::move(apply_all(op, inputs, params)[0]); }

void apply_in_place(const char* name, const KernelList& kernels, Inputs in, Inputs out, const Params& params) {
  std::vector<View> in_views, out_views;
  for (const auto& t : in) in_views.push_back(t.view());
  for (const auto& t : out) {
    if (grad_enabled() && requires_grad(t)) throw NotDifferentiable(name, "writes in place into a tensor that requires a gradient (" + describe(t) + ")", "Use a NoGrad guard.");
    out_views.push_back(t.view());
    t.storage()->bump_version();
  }
  run_kernel(name, kernels, in_views, out_views, params.data());
  if (listener) listener->applied_in_place(name, in, out);
}

void check_rank(const char* op, const char* what, const Tensor& t, int rank) {
  if (t.rank() != rank) throw ShapeError(op, std::string(what) + " expects " + std::to_string(rank) + (rank == 1 ? " dimension, got " : " dimensions, got ") + describe(t));
}

void check_floating(const char* op, const Tensor& t) {
  if (!is_floating(t.dtype())) throw DTypeError(op, "expects f32 or f64, got " + describe(t), "Cast with mien::cast(x, DType::f32).");
}

void check_same_dtype(const char* op, Inputs in) {
  for (const auto& t : in)
    if (t.dtype() != in[0].dtype())
      throw DTypeError(op, "expects operands of one dtype, got " + describe_all(in), std::string("Cast with mien::cast(x, DType::") + name(in[0].dtype()) + ").");
}

DType parameter_dtype(const Tensor& x) { return x.dtype() == DType::bf16 || x.dtype() == DType::f16 ? DType::f32 : x.dtype(); }

void check_parameters(const char* op, const Tensor& x, Inputs parameters) {
  for (const auto& t : parameters)
    if (t.dtype() != parameter_dtype(x))
      throw DTypeError(op, std::string("expects parameters in ") + name(parameter_dtype(x)) + " for a map in " + name(x.dtype()) + ", got " + describe(t),
                       std::string("Cast with mien::cast(x, DType::") + name(parameter_dtype(x)) + ").");
}

void check_same_shape(const char* op, const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) throw ShapeError(op, "expects equal shapes, got " + describe(a) + " and " + describe(b));
}

Layout layout_like(const Tensor& t) { return t.is_channels_last() && !t.is_contiguous() ? Layout::channels_last : Layout::contiguous; }
OutputSpec spec_like(const Tensor& t) { return {t.shape(), t.dtype(), layout_like(t)}; }

std::string describe_all(Inputs in) {
  std::string text;
  for (const auto& t : in) text += (text.empty() ? "" : ", ") + describe(t);
  return text;
}

}  // namespace mien
