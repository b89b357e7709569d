#include "mien/layers/module.h"

#include <map>
#include <sstream>

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"

namespace mien {

void Visitor::operator()(const std::string& name, Module& child) {
  const std::string before = prefix_;
  prefix_ = before.empty() ? name : before + "." + name;
  on_module(prefix_, child);
  child.visit(*this);
  prefix_ = before;
}

void Visitor::operator()(const std::string& name, Tensor& value, Slot slot) {
  if (value.defined()) on_tensor(prefix_.empty() ? name : prefix_ + "." + name, value, slot);
}

void Visitor::on_module(const std::string&, Module&) {}

namespace {

template <class F>
struct TensorVisitor final : Visitor {
  explicit TensorVisitor(F f) : f_(std::move(f)) {}
  void on_tensor(const std::string& path, Tensor& value, Slot slot) override { f_(path, value, slot); }
  F f_;
};
template <class F>
void each_tensor(Module& m, F f) {
  TensorVisitor<F> v(std::move(f));
  m.visit(v);
}

std::string join(const char* what, const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& l : lines) text += std::string(text.empty() ? what : ", ") + l;
  return text;
}

}  // namespace

// Walks the modules themselves.
struct SetTraining final : Visitor {
  explicit SetTraining(bool on) : on_(on) {}
  void on_tensor(const std::string&, Tensor&, Slot) override {}
  void on_module(const std::string&, Module& module) override { module.training_ = on_; }
  bool on_;
};

std::string LoadReport::message() const {
  std::string text;
  for (const std::string& part : {join("missing: ", missing), join("unexpected: ", unexpected), join("wrong shape: ", misshaped)})
    if (!part.empty()) text += (text.empty() ? "" : "; ") + part;
  return text;
}

std::vector<NamedTensor> Module::parameters() {
  std::vector<NamedTensor> out;
  each_tensor(*this, [&](const std::string& path, Tensor& t, Slot slot) {
    if (slot == Slot::parameter) out.push_back({path, t});
  });
  return out;
}

std::vector<NamedTensor> Module::state_dict() {
  std::vector<NamedTensor> out;
  each_tensor(*this, [&](const std::string& path, Tensor& t, Slot) { out.push_back({path, t.detach()}); });
  return out;
}

std::int64_t Module::parameter_count() {
  std::int64_t n = 0;
  for (const auto& p : parameters()) n += p.value.numel();
  return n;
}

LoadReport Module::check_state_dict(const std::vector<NamedTensor>& state) {
  LoadReport report;
  std::map<std::string, const Tensor*> given;
  for (const auto& s : state) given[s.name] = &s.value;
  each_tensor(*this, [&](const std::string& path, Tensor& t, Slot) {
    const auto it = given.find(path);
    if (it == given.end()) {
      report.missing.push_back(path + " " + describe(t));
    } else {
      if (!(it->second->shape() == t.shape())) report.misshaped.push_back(path + " expects " + to_string(t.shape()) + ", got " + to_string(it->second->shape()));
      given.erase(it);
    }
  });
  for (const auto& [name, t] : given) report.unexpected.push_back(name + " " + describe(*t));
  return report;
}

namespace {
template <class F>
void take_state_dict(Module& m, const std::vector<NamedTensor>& state, const F& take) {
  const LoadReport report = m.check_state_dict(state);
  if (!report.ok()) throw ValueError("load_state_dict", report.message(), "Was the file made for another architecture?");
  const NoGrad guard;
  std::map<std::string, const Tensor*> given;
  for (const auto& s : state) given[s.name] = &s.value;
  each_tensor(m, [&](const std::string& path, Tensor& t, Slot) { take(t, *given[path]); });
}
}  // namespace

void Module::load_state_dict(const std::vector<NamedTensor>& state) {
  take_state_dict(*this, state, [](Tensor& t, const Tensor& given) { copy_into(t, given); });
}
void Module::adopt_state_dict(const std::vector<NamedTensor>& state) {
  take_state_dict(*this, state, [](Tensor& t, const Tensor& given) {
    if (given.dtype() != t.dtype() || !(given.device() == t.device()) || given.strides() != t.strides()) return copy_into(t, given);
    const bool wanted = requires_grad(t);
    t = given.detach();
    if (wanted) set_requires_grad(t);
  });
}

void Module::train(bool on) {
  training_ = on;
  SetTraining v(on);
  visit(v);
}

void Module::require_grad(bool on) {
  each_tensor(*this, [&](const std::string&, Tensor& t, Slot slot) {
    if (slot == Slot::parameter) set_requires_grad(t, on);
  });
}

void Module::zero_grad() {
  each_tensor(*this, [](const std::string&, Tensor& t, Slot) { clear_grad(t); });
}

namespace {
// Every tensor becomes change(tensor), a leaf as it was one.
template <class F>
void replace_tensors(Module& m, const F& change) {
  const NoGrad guard;
  each_tensor(m, [&](const std::string&, Tensor& t, Slot) {
    const Tensor changed = change(t);
    if (changed.is_same(t)) return;
    const bool wanted = requires_grad(t);
    t = changed.detach();
    if (wanted) set_requires_grad(t);
  });
}
}  // namespace

void Module::to(DType dtype) {
  replace_tensors(*this, [&](const Tensor& t) { return is_floating(t.dtype()) ? cast(t, dtype) : t; });
}
void Module::to(Device device) {
  replace_tensors(*this, [&](const Tensor& t) { return mien::to(t, device); });
}

std::string Module::summary() {
  struct Rows final : Visitor {
    void on_tensor(const std::string& path, Tensor& t, Slot slot) override {
      out << "  " << path << "  " << describe(t) << (slot == Slot::buffer ? "  (buffer)" : "") << "\n";
    }
    void on_module(const std::string& path, Module& m) override {
      if (!m.label().empty()) out << path << ": " << m.label() << "\n";
    }
    std::ostringstream out;
  } rows;
  visit(rows);
  rows.out << parameter_count() << " parameters\n";
  return rows.out.str();
}

}  // namespace mien
