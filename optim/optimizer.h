// Optimizers over groups of parameters. A step reads grad() of each parameter (parameters without one are left alone) and writes in place.
//
//   Sgd optimizer({.lr = .01, .momentum = .9, .weight_decay = 5e-4});
//   optimizer.add_group(net.parameters());
//   optimizer.add_group(head.parameters(), {.lr_scale = 10});
//   loss -> backward -> optimizer.step(); optimizer.zero_grad();
//
// Semantics of PyTorch's SGD, Adam, AdamW and Adagrad. State is found by parameter name: names are unique in one optimizer (ValueError).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "mien/layers/module.h"

namespace mien {

struct GroupOptions {
  double lr_scale = 1;       // times the optimizer's rate
  double weight_decay = -1;  // < 0: the optimizer's
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;
  void add_group(std::vector<NamedTensor> parameters, GroupOptions options = {});
  // All parameters or none: when memory runs out on the way, parameters, buffers and steps() are as before. (An error of the device itself can leave both.)
  void step();
  void zero_grad();
  double lr() const noexcept { return lr_; }
  void set_lr(double lr) { lr_ = lr; }
  std::int64_t steps() const noexcept { return steps_; }

  // For checkpoints: the buffers by name ("momentum.conv1.weight"), and the number of steps.
  std::vector<NamedTensor> state_dict() const;
  void load_state_dict(const std::vector<NamedTensor>& state, std::int64_t steps);  // ValueError names what does not fit

 protected:
  explicit Optimizer(double lr) : lr_(lr) {}
  // Everything that a step allocates comes before the first parameter changes.
  virtual void take_step() = 0;
  struct Group {
    std::vector<NamedTensor> parameters;
    GroupOptions options;
  };
  // The buffer `kind` of a parameter, zeros when it is new; `fresh` tells.
  Tensor buffer(const std::string& kind, const NamedTensor& parameter, bool* fresh = nullptr);

  std::vector<Group> groups_;
  std::map<std::string, Tensor> state_;
  double lr_;
  std::int64_t steps_ = 0;

 private:
  std::vector<std::string> fresh_;  // buffers that the step under way has made
};

struct SgdOptions {
  double lr = .01, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;
};
class Sgd final : public Optimizer {
 public:
  explicit Sgd(const SgdOptions& options);  // ValueError: nesterov needs momentum and no dampening

 private:
  void take_step() override;
  SgdOptions options_;
};

struct AdamOptions {
  double lr = 1e-3, beta1 = .9, beta2 = .999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW (Loshchilov and Hutter, 2019)
};
class Adam final : public Optimizer {
 public:
  explicit Adam(const AdamOptions& options) : Optimizer(options.lr), options_(options) {}

 private:
  void take_step() override;
  AdamOptions options_;
};

struct AdagradOptions {
  double lr = .01, lr_decay = 0, weight_decay = 0, eps = 1e-10;
  double initial_accumulator = 0;  // TensorFlow's Adagrad, and so facenet's, starts at .1
};
class Adagrad final : public Optimizer {  // Duchi et al., 2011
 public:
  explicit Adagrad(const AdagradOptions& options) : Optimizer(options.lr), options_(options) {}

 private:
  void take_step() override;
  AdagradOptions options_;
};

// Scales all gradients so that their common norm is at most `max_norm`; returns the norm before. Fixed order: the same bits for any number of threads.
double clip_grad_norm(const std::vector<NamedTensor>& parameters, double max_norm);
void clip_grad_value(const std::vector<NamedTensor>& parameters, double limit);

// Learning rates as functions of the epoch (or step) number: nothing to save.
double step_lr(double base, std::int64_t epoch, std::int64_t every, double gamma = .1);
double multi_step_lr(double base, std::int64_t epoch, const std::vector<std::int64_t>& milestones, double gamma = .1);
// From `base` at step 0 to `end` at step `total`, and `end` from there on (ValueError: total < 1).
double cosine_lr(double base, std::int64_t step, std::int64_t total, double end = 0);                   // half a cosine (Loshchilov and Hutter, SGDR, 2017)
double poly_lr(double base, std::int64_t step, std::int64_t total, double power = 1, double end = 0);   // end + (base - end) (1 - step / total)^power
// Wraps any schedule: its rate times (step + 1) / steps during the first `steps` steps. warm_up_lr(cosine_lr(.1, i, n), i, 500)
double warm_up_lr(double lr, std::int64_t step, std::int64_t steps);

}  // namespace mien
