// Exponential moving average of a model's values ("shadow weights"; Polyak and Juditsky, 1992): evaluated and saved in place of the last ones.
//
//   Ema ema(net.parameters(), {.decay = .9999, .warm_up = true});
//   each step: optimizer.step(); ema.update();
//   ema.swap(); evaluate(net); ema.swap();      // the net has the averages in between
#pragma once

#include <string>
#include <vector>

#include "mien/layers/module.h"

namespace mien {

struct EmaOptions {
  double decay = .9999;   // 0 <= decay < 1 (ValueError)
  bool warm_up = false;   // min(decay, (1 + t) / (10 + t)) after t updates (TensorFlow's): the first values are forgotten sooner
};

// Averages parameters (net.parameters()) or, with running statistics, everything (net.state_dict()). Starts from the present values. Not thread-safe.
class Ema {
 public:
  explicit Ema(std::vector<NamedTensor> values, const EmaOptions& options = {});
  // shadow = decay * shadow + (1 - decay) * value. ValueError while swapped.
  void update();
  // Exchanges values and averages, in place; a second call undoes the first.
  void swap();
  bool swapped() const noexcept { return swapped_; }
  std::int64_t updates() const noexcept { return updates_; }

  // For checkpoints, beside an optimizer's: the averages as "ema.conv1.weight", whether swapped or not, and the number of updates.
  std::vector<NamedTensor> state_dict() const;
  // ValueError names what is missing, unknown or of another shape (then nothing was changed), or when swapped.
  void load_state_dict(const std::vector<NamedTensor>& state, std::int64_t updates);

 private:
  std::vector<NamedTensor> values_;
  std::vector<Tensor> shadow_;
  EmaOptions options_;
  std::int64_t updates_ = 0;
  bool swapped_ = false;
};

}  // namespace mien
