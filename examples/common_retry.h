// What a training does when memory runs out in a step.
#pragma once

#include "common_train.h"
#include "mien/data/prefetch.h"

namespace mien::example {

// Takes steps. One that runs out of memory is taken once more from the state that it began with (running statistics, the generator's position, the scale of the loss), after
// gradients and all memory kept for reuse went back: if it passes then, nothing in the run tells that it failed once.
class Stepper {
 public:
  Stepper(const TrainTask& task, const TrainOptions& options);
  // OutOfMemory when the second try fails as well: the allocator's words, and the largest batch that passed a trial then. The weights are of no use afterwards.
  Metrics step(const StagedBatch& batch);

 private:
  void remember();
  void go_back();
  Metrics take(const Batch& batch_there);
  std::int64_t batch_that_fits(const Batch& batch);

  const TrainTask& task_;
  const Device device_;
  const DType autocast_;
  std::vector<Tensor> buffers_, remembered_;  // running statistics, which the forward pass changes in place
  std::uint64_t seed_ = 0, position_ = 0;
  std::int64_t optimizer_steps_ = 0;
  std::optional<LossScaler> scaler_;
};

// An error's words without its op and without what to do about it.
std::string words_of(const Error& e);

}  // namespace mien::example
