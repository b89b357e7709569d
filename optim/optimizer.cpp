#include "mien/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {
constinit const KernelList sgd_kernels{&ref::sgd_entry, &KernelTable::sgd};
constinit const KernelList adam_kernels{&ref::adam_entry, &KernelTable::adam};
constinit const KernelList adagrad_kernels{&ref::adagrad_entry, &KernelTable::adagrad};

bool equal(const SgdParams& a, const SgdParams& b) {
  return a.lr == b.lr && a.momentum == b.momentum && a.dampening == b.dampening && a.weight_decay == b.weight_decay && a.nesterov == b.nesterov && a.first_step == b.first_step;
}
bool equal(const AdamParams& a, const AdamParams& b) {
  return a.lr == b.lr && a.beta1 == b.beta1 && a.beta2 == b.beta2 && a.eps == b.eps && a.weight_decay == b.weight_decay && a.step == b.step && a.decoupled == b.decoupled;
}

bool equal(const AdagradParams& a, const AdagradParams& b) { return a.lr == b.lr && a.eps == b.eps && a.weight_decay == b.weight_decay; }

// Steps of many parameters, which wait until the memory of all of them is there. On a GPU those with equal options go as one call: their kernel steps dozens a
// launch, and a launch takes longer than most parameters.
template <class P>
class Steps {
 public:
  Steps(const char* name, const KernelList& kernels) : name_(name), kernels_(kernels) {}
  void add(const Tensor& gradient, std::initializer_list<Tensor> out, const P& params) {
    const Tensor& first = *out.begin();
    Waiting* found = nullptr;
    if (!gradient.device().is_cpu())
      for (auto& w : waiting_)
        if (equal(w.params, params) && w.out[0].dtype() == first.dtype() && w.out[0].device() == first.device()) found = &w;
    if (!found) found = &waiting_.emplace_back(Waiting{params, {}, {}});
    found->in.push_back(gradient);
    found->out.insert(found->out.end(), out.begin(), out.end());
  }
  void run() {
    for (const auto& w : waiting_) apply_in_place(name_, kernels_, w.in, w.out, w.params);
    waiting_.clear();
  }

 private:
  struct Waiting {
    P params;
    std::vector<Tensor> in, out;
  };
  const char* name_;
  const KernelList& kernels_;
  std::vector<Waiting> waiting_;
};
}  // namespace

void Optimizer::add_group(std::vector<NamedTensor> parameters, GroupOptions options) {
  std::set<std::string> names;
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) names.insert(p.name);
  for (const auto& p : parameters)
    if (!names.insert(p.name).second) throw ValueError("optimizer", "two parameters are called " + p.name, "Give each group's names a prefix of its own.");
  groups_.push_back({std::move(parameters), options});
}

void Optimizer::zero_grad() {
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) clear_grad(p.value);
}

void Optimizer::step() {
  const NoGrad guard;
  const std::int64_t before = steps_;
  fresh_.clear();
  try {
    take_step();
  } catch (const OutOfMemory&) {
    steps_ = before;
    for (const auto& name : fresh_) state_.erase(name);
    throw;
  }
}

Tensor Optimizer::buffer(const std::string& kind, const NamedTensor& parameter, bool* fresh) {
  const std::string name = kind + "." + parameter.name;
  const auto found = state_.find(name);
  if (fresh) *fresh = found == state_.end();
  if (found != state_.end()) return found->second;
  fresh_.push_back(name);
  return state_[name] = zeros_like(parameter.value);
}

std::vector<NamedTensor> Optimizer::state_dict() const {
  std::vector<NamedTensor> out;
  for (const auto& [name, value] : state_) out.push_back({name, value});
  return out;
}

void Optimizer::load_state_dict(const std::vector<NamedTensor>& state, std::int64_t steps) {
  std::map<std::string, const NamedTensor*> parameters;
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) parameters[p.name] = &p;
  std::map<std::string, Tensor> loaded;
  for (const auto& s : state) {
    const auto dot = s.name.find('.');
    const auto it = dot == std::string::npos ? parameters.end() : parameters.find(s.name.substr(dot + 1));
    if (it == parameters.end()) throw ValueError("optimizer", "the saved state " + s.name + " belongs to no parameter here", "Was it saved by another model?");
    if (!(it->second->value.shape() == s.value.shape()))
      throw ValueError("optimizer", "the saved state " + s.name + " is " + describe(s.value) + ", the parameter is " + describe(it->second->value));
    loaded[s.name] = clone(to(cast(s.value, it->second->value.dtype()), it->second->value.device()));
  }
  state_ = std::move(loaded);
  steps_ = steps;
}

Sgd::Sgd(const SgdOptions& options) : Optimizer(options.lr), options_(options) {
  if (options.nesterov && (options.momentum <= 0 || options.dampening != 0))
    throw ValueError("Sgd", "nesterov needs momentum > 0 and dampening 0, got momentum " + std::to_string(options.momentum) + " and dampening " + std::to_string(options.dampening));
}

void Sgd::take_step() {
  Steps<SgdParams> steps("sgd", sgd_kernels);
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) {
      const Tensor gradient = grad(p.value);
      if (!gradient.defined()) continue;
      SgdParams params{.lr = lr_ * g.options.lr_scale, .momentum = options_.momentum, .dampening = options_.dampening,
                       .weight_decay = g.options.weight_decay < 0 ? options_.weight_decay : g.options.weight_decay, .nesterov = options_.nesterov};
      const Tensor momentum = options_.momentum != 0 ? buffer("momentum", p, &params.first_step) : p.value;  // unused without momentum
      steps.add(contiguous(gradient), {p.value, momentum}, params);
    }
  steps.run();
  ++steps_;
}

void Adam::take_step() {
  Steps<AdamParams> steps("adam", adam_kernels);
  ++steps_;
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) {
      const Tensor gradient = grad(p.value);
      if (!gradient.defined()) continue;
      const AdamParams params{.lr = lr_ * g.options.lr_scale, .beta1 = options_.beta1, .beta2 = options_.beta2, .eps = options_.eps,
                              .weight_decay = g.options.weight_decay < 0 ? options_.weight_decay : g.options.weight_decay, .step = steps_, .decoupled = options_.decoupled};
      steps.add(contiguous(gradient), {p.value, buffer("m", p), buffer("v", p)}, params);
    }
  steps.run();
}

void Adagrad::take_step() {
  Steps<AdagradParams> steps("adagrad", adagrad_kernels);
  const double slowed = lr_ / (1 + static_cast<double>(steps_++) * options_.lr_decay);
  for (const auto& g : groups_)
    for (const auto& p : g.parameters) {
      const Tensor gradient = grad(p.value);
      if (!gradient.defined()) continue;
      bool fresh = false;
      const Tensor squares = buffer("sum", p, &fresh);
      if (fresh) fill(squares, options_.initial_accumulator);
      const AdagradParams params{.lr = slowed * g.options.lr_scale, .eps = options_.eps, .weight_decay = g.options.weight_decay < 0 ? options_.weight_decay : g.options.weight_decay};
      steps.add(contiguous(gradient), {p.value, squares}, params);
    }
  steps.run();
}

double clip_grad_norm(const std::vector<NamedTensor>& parameters, double max_norm) {
  const NoGrad guard;
  double total = 0;
  for (const auto& p : parameters)
    if (const Tensor g = grad(p.value); g.defined()) total += sum(square(g)).item();
  const double norm = std::sqrt(total);
  if (norm > max_norm)
    for (const auto& p : parameters)
      if (const Tensor g = grad(p.value); g.defined()) set_grad(p.value, affine(g, max_norm / (norm + 1e-6), 0));
  return norm;
}

void clip_grad_value(const std::vector<NamedTensor>& parameters, double limit) {
  const NoGrad guard;
  for (const auto& p : parameters)
    if (const Tensor g = grad(p.value); g.defined()) set_grad(p.value, clamp(g, -limit, limit));
}

double step_lr(double base, std::int64_t epoch, std::int64_t every, double gamma) {
  return base * std::pow(gamma, static_cast<double>(epoch / every));
}

double multi_step_lr(double base, std::int64_t epoch, const std::vector<std::int64_t>& milestones, double gamma) {
  double lr = base;
  for (const auto m : milestones)
    if (epoch >= m) lr *= gamma;
  return lr;
}

// The part of the way that is gone, 0 to 1.
static double progress(const char* op, std::int64_t step, std::int64_t total) {
  if (total < 1) throw ValueError(op, "expects total >= 1, got " + std::to_string(total));
  return std::clamp(static_cast<double>(step) / static_cast<double>(total), 0.0, 1.0);
}

double cosine_lr(double base, std::int64_t step, std::int64_t total, double end) {
  return end + (base - end) * (1 + std::cos(std::numbers::pi * progress("cosine_lr", step, total))) / 2;
}

double poly_lr(double base, std::int64_t step, std::int64_t total, double power, double end) {
  return end + (base - end) * std::pow(1 - progress("poly_lr", step, total), power);
}

double warm_up_lr(double lr, std::int64_t step, std::int64_t steps) {
  return step < steps ? lr * static_cast<double>(step + 1) / static_cast<double>(steps) : lr;
}

}  // namespace mien
