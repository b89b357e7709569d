#include "mien/optim/ema.h"

#include <algorithm>
#include <map>

#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"

namespace mien {
namespace {
constinit const KernelList sgd_kernels{&ref::sgd_entry, &KernelTable::sgd};
}

Ema::Ema(std::vector<NamedTensor> values, const EmaOptions& options) : values_(std::move(values)), options_(options) {
  if (!(options.decay >= 0 && options.decay < 1)) throw ValueError("Ema", "expects 0 <= decay < 1, got " + std::to_string(options.decay));
  const NoGrad guard;
  for (const auto& v : values_) {
    check_floating("Ema", v.value);
    shadow_.push_back(clone(v.value.detach()));
  }
}

// The average takes a step of gradient descent on |shadow - value|^2 / 2 with rate 1 - decay: the gradient is shadow - value, which the SGD kernel reads as
// the "gradient" value plus weight decay -1 times shadow, with the sign in the rate.
void Ema::update() {
  if (swapped_) throw ValueError("Ema", "update while the averages are in the model", "Call swap() first.");
  const NoGrad guard;
  const double t = static_cast<double>(updates_++);
  const double decay = options_.warm_up ? std::min(options_.decay, (1 + t) / (10 + t)) : options_.decay;
  for (std::size_t i = 0; i < values_.size(); ++i)
    apply_in_place("ema", sgd_kernels, {values_[i].value.detach()}, {shadow_[i], shadow_[i]}, SgdParams{.lr = decay - 1, .weight_decay = -1});
}

void Ema::swap() {
  const NoGrad guard;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const Tensor kept = clone(values_[i].value.detach());
    copy_into(values_[i].value, shadow_[i]);
    copy_into(shadow_[i], kept);
  }
  swapped_ = !swapped_;
}

std::vector<NamedTensor> Ema::state_dict() const {
  std::vector<NamedTensor> out;
  for (std::size_t i = 0; i < values_.size(); ++i) out.push_back({"ema." + values_[i].name, swapped_ ? values_[i].value.detach() : shadow_[i]});
  return out;
}

void Ema::load_state_dict(const std::vector<NamedTensor>& state, std::int64_t updates) {
  if (swapped_) throw ValueError("Ema", "load_state_dict while the averages are in the model", "Call swap() first.");
  std::map<std::string, Tensor> given;
  for (const auto& s : state) given[s.name] = s.value;
  for (const auto& v : values_) {
    const auto it = given.find("ema." + v.name);
    if (it == given.end()) throw ValueError("Ema", "the saved state has no ema." + v.name, "Was it saved by another model?");
    if (!(it->second.shape() == v.value.shape())) throw ValueError("Ema", "the saved state " + it->first + " is " + describe(it->second) + ", the model's is " + describe(v.value));
  }
  for (const auto& s : state)
    if (std::none_of(values_.begin(), values_.end(), [&](const auto& v) { return "ema." + v.name == s.name; }))
      throw ValueError("Ema", "the saved state " + s.name + " belongs to no value here", "Was it saved by another model?");
  const NoGrad guard;
  for (std::size_t i = 0; i < values_.size(); ++i) copy_into(shadow_[i], given.at("ema." + values_[i].name));
  updates_ = updates;
}

}  // namespace mien
