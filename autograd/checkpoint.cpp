#include "mien/autograd/checkpoint.h"

#include <string>
#include <utility>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/tensor/generator.h"

namespace mien {

// What one region would have saved, in the order in which its ops ask: versions at first, tensors once it ran again.
class CheckpointFrame {
 public:
  CheckpointFrame(std::function<Tensor(const Tensor&)> f, const Tensor& x)
      : f_(std::move(f)), x_(x.detach()), x_needs_(requires_grad(x)), x_version_(x.version()), seed_(default_generator().seed()), position_(default_generator().position()) {}

  std::size_t keep(const Tensor& t) {
    if (!recomputing()) {
      versions_.push_back(t.version());
      return versions_.size() - 1;
    }
    const std::size_t index = saved_.size();
    if (index < versions_.size() && versions_[index] != t.version()) refuse("a tensor that it reads (" + describe(t) + ") was changed in place since");
    saved_.push_back(t.detach());
    return index;
  }
  const Tensor& get(std::size_t index) {
    if (x_.defined()) run_again();
    return saved_[index];
  }

 private:
  void run_again();
  [[noreturn]] static void refuse(const std::string& why) {
    throw ValueError("checkpoint", "a region can't run again: " + why, "f must do the same both times: change parameters after backward, or copies.");
  }
  std::function<Tensor(const Tensor&)> f_;
  Tensor x_;  // undefined once the region ran again
  bool x_needs_;
  std::uint32_t x_version_;
  std::uint64_t seed_, position_;
  std::vector<std::uint32_t> versions_;
  std::vector<Tensor> saved_;
};

namespace {
thread_local std::shared_ptr<CheckpointFrame> current;  // the region that runs
thread_local bool again = false;

struct Region {
  Region(std::shared_ptr<CheckpointFrame> frame, bool second) : frame_before(std::exchange(current, std::move(frame))), again_before(std::exchange(again, second)) {}
  ~Region() {
    current = std::move(frame_before);
    again = again_before;
  }
  std::shared_ptr<CheckpointFrame> frame_before;
  bool again_before;
};

// Puts the random numbers back to where the region began, and forward again afterwards.
struct Rewind {
  Rewind(std::uint64_t seed, std::uint64_t position) : seed_before(default_generator().seed()), position_before(default_generator().position()) { default_generator().restore(seed, position); }
  ~Rewind() { default_generator().restore(seed_before, position_before); }
  std::uint64_t seed_before, position_before;
};
}  // namespace

void CheckpointFrame::run_again() {
  if (x_.version() != x_version_) refuse("its input (" + describe(x_) + ") was changed in place since");
  saved_.clear();
  {
    // The graph of the second run is thrown away; what it saves comes to this frame, which lives long enough without being counted.
    const Region region(std::shared_ptr<CheckpointFrame>(this, [](CheckpointFrame*) {}), true);
    const Rewind rewind(seed_, position_);
    const GradMode on(true);
    Tensor x = x_.detach();
    if (x_needs_) set_requires_grad(x);
    f_(x);
  }
  if (saved_.size() != versions_.size()) refuse("the second run saved " + std::to_string(saved_.size()) + " tensors, the first " + std::to_string(versions_.size()));
  x_ = Tensor();
}

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  if (!grad_enabled()) return f(x);
  if (current) throw ValueError("checkpoint", "a region may not be inside another one", "Checkpoint the outer or the inner one.");
  const Region region(std::make_shared<CheckpointFrame>(f, x), false);
  return f(x);
}

bool recomputing() noexcept { return again; }

SavedTensor::SavedTensor(const Tensor& t) : version_(t.version()) {
  if (!current) {
    data_ = t.detach();
    return;
  }
  index_ = current->keep(t);
  if (!again) frame_ = current;
}

Tensor SavedTensor::unpack(const char* op, const Edge& edge) const {
  if (!defined()) throw ValueError("backward", std::string("what ") + op + " saved was already released", "Pass retain_graph = true to the first backward.");
  const Tensor& data = frame_ ? frame_->get(index_) : data_;
  if (!frame_ && data.version() != version_)
    throw ValueError("backward", std::string("a tensor that ") + op + " saved (" + describe(data) + ") was changed in place since (version " +
                                     std::to_string(version_) + " -> " + std::to_string(data.version()) + ")",
                     "Change it after backward, or change a copy.");
  Tensor t = data.detach();
  if (edge.node && grad_enabled()) set_edge(t, edge.node, edge.index);
  return t;
}

}  // namespace mien
