#include "common_retry.h"

#include <algorithm>
#include <chrono>

#include "mien/autograd/autograd.h"
#include "mien/ops/autocast.h"
#include "mien/ops/copy.h"
#include "mien/tensor/generator.h"

namespace mien::example {
namespace {

// Tensors of the first `n` samples. What does not count samples stays whole.
Batch first_samples(const Batch& batch, std::int64_t n) {
  Batch out;
  for (const auto& t : batch) {
    if (t.rank() == 0 || t.size(0) != batch[0].size(0)) {
      out.push_back(t);
      continue;
    }
    Shape shape = t.shape();
    shape[0] = n;
    out.push_back(t.as_strided(shape, t.strides(), t.impl().offset));
  }
  return out;
}

}  // namespace

std::string words_of(const Error& e) {
  std::string text = e.what();
  if (text.starts_with(e.op() + ": ")) text.erase(0, e.op().size() + 2);
  if (text.ends_with(e.hint())) text.resize(text.size() - e.hint().size());
  text.resize(text.find_last_not_of(" .") + 1);
  return text;
}

Stepper::Stepper(const TrainTask& task, const TrainOptions& options) : task_(task), device_(options.device), autocast_(options.autocast) {
  struct Find final : Visitor {
    void on_tensor(const std::string&, Tensor& t, Slot slot) override {
      if (slot == Slot::buffer) found.push_back(t);
    }
    std::vector<Tensor> found;
  } find;
  task.model.visit(find);
  buffers_ = std::move(find.found);
  for (const auto& b : buffers_) remembered_.push_back(clone(b));
}

void Stepper::remember() {
  for (std::size_t i = 0; i < buffers_.size(); ++i) copy_into(remembered_[i], buffers_[i]);
  seed_ = default_generator().seed();
  position_ = default_generator().position();
  optimizer_steps_ = task_.optimizer.steps();
  if (task_.scaler) scaler_ = *task_.scaler;
}

void Stepper::go_back() {
  task_.optimizer.zero_grad();
  task_.model.zero_grad();
  for (std::size_t i = 0; i < buffers_.size(); ++i) copy_into(buffers_[i], remembered_[i]);
  default_generator().restore(seed_, position_);
  if (scaler_) *task_.scaler = *scaler_;
  allocator_of(device_)->release_cached();
  cpu_allocator()->release_cached();
}

Metrics Stepper::take(const Batch& batch_there) {
  const Autocast guard(autocast_);
  return task_.step(batch_there);
}

Metrics Stepper::step(const StagedBatch& batch) {
  remember();
  std::string said;
  for (int tries = 0; tries < 2; ++tries) {
    try {
      return take(batch.there.empty() ? on_device(batch.host, device_) : batch.there);
    } catch (const OutOfMemory& e) {  // what the step held is gone here
      said = e.op() + ": " + words_of(e);
    }
    if (task_.optimizer.steps() != optimizer_steps_) break;  // the weights have taken this step: it can't be taken again
    go_back();
  }
  const std::int64_t wanted = batch.host[0].size(0), fits = batch_that_fits(batch.host);
  throw OutOfMemory("train", said + "; that was in a step with a batch of " + std::to_string(wanted) +
                                 (fits > 0 ? ", a trial with " + std::to_string(fits) + " passed" : ""),
                    fits > 0 ? "Start anew with --batch " + std::to_string(fits) + "." : "Use a smaller batch.");
}

// By bisection with real steps: how memory grows with the batch depends on the net, the kernels and their workspace. 0: none passed, or the step takes no other
// size.
std::int64_t Stepper::batch_that_fits(const Batch& batch) {
  const auto start = std::chrono::steady_clock::now();
  task_.optimizer.set_lr(0);
  std::int64_t fits = 0, fails = batch[0].size(0);
  try {
    while (fails - fits > std::max<std::int64_t>(1, fails / 8) && !signal_received() && std::chrono::steady_clock::now() - start < std::chrono::seconds(30)) {
      const std::int64_t n = (fits + fails) / 2;
      go_back();
      try {
        take(on_device(first_samples(batch, n), device_));
        fits = n;
      } catch (const OutOfMemory&) {
        fails = n;
      }
    }
  } catch (const std::exception&) {
  }
  return fits;
}

}  // namespace mien::example
