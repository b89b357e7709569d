#include <algorithm>
#include <utility>

#include "mien/infer/sized_plan_impl.h"

namespace mien::infer {

// Note [Recent shapes]: on the CPU sizing takes microseconds and memory is what counts, so a session is sized anew when shapes change and keeps one arena. On a
// GPU it would lose the recording, which takes two runs to come back: there it keeps those of the shapes that were used last, up to `most_shapes` and
// `most_bytes` together (the one in use is kept whatever its size).
struct Session::Impl {
  static constexpr std::size_t most_shapes = 8;
  static constexpr std::int64_t most_bytes = std::int64_t{512} << 20;

  std::shared_ptr<const Plan> plan;
  std::vector<std::unique_ptr<SizedPlan>> recent;  // the one in use first; one alone on the CPU
  std::atomic<bool> running{false};

  const Graph& graph() const { return plan->impl().graph; }

  // The state for these shapes (Tensors or Shapes), sized if it must be.
  template <class Shapes>
  SizedPlan& use(const Shapes& in) {
    for (auto r = recent.begin(); r != recent.end(); ++r)
      if ((*r)->is_for(in)) {
        std::rotate(recent.begin(), r, r + 1);
        return *recent.front();
      }
    std::vector<Shape> shapes;
    for (const auto& x : in) shapes.push_back(SizedPlan::shape_of(x));
    return resize(shapes);
  }

  SizedPlan& resize(std::span<const Shape> shapes) {
    if (graph().device.is_cpu()) {
      if (recent.empty()) recent.push_back(std::make_unique<SizedPlan>(plan));
      recent.front()->size(shapes);
      return *recent.front();
    }
    plan->impl().check_shapes(shapes);
    auto next = std::make_unique<SizedPlan>(plan);
    if (recent.size() == most_shapes) {
      next->take_arena(*recent.back());
      recent.pop_back();
    }
    if (!sized(*next, shapes)) {  // once more with the memory of the others
      recent.clear();
      next->size(shapes);
    }
    recent.insert(recent.begin(), std::move(next));
    while (recent.size() > 1 && sum_of(&SizedPlan::held_bytes) > most_bytes) recent.pop_back();
    return *recent.front();
  }
  bool sized(SizedPlan& s, std::span<const Shape> shapes) const {
    try {
      s.size(shapes);
      return true;
    } catch (const OutOfMemory&) {
      if (recent.empty()) throw;
      return false;
    }
  }

  std::int64_t sum_of(std::int64_t (SizedPlan::*bytes)() const noexcept) const noexcept {
    std::int64_t n = 0;
    for (const auto& r : recent) n += ((*r).*bytes)();
    return n;
  }
};

namespace {
// One thread at a time.
class Busy {
 public:
  explicit Busy(std::atomic<bool>& flag) : flag_(flag) {
    if (flag_.exchange(true))
      throw ValueError("infer", "a session was used by two threads at once", "Give each thread a session of its own, or take them from a SessionPool.");
  }
  ~Busy() { flag_.store(false); }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  std::atomic<bool>& flag_;
};
}  // namespace

Session::Session(std::shared_ptr<const Plan> plan) : impl_(std::make_unique<Impl>()) {
  if (!plan) throw ValueError("infer", "a session needs a plan");
  impl_->plan = std::move(plan);
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::resize(std::span<const Shape> inputs) {
  const Busy busy(impl_->running);
  impl_->use(inputs);
}

std::span<const Tensor> Session::run(std::span<const Tensor> inputs) {
  const Busy busy(impl_->running);
  if (inputs.size() != impl_->graph().inputs.size())
    throw ValueError("infer", "the plan takes " + std::to_string(impl_->graph().inputs.size()) + " inputs, got " + std::to_string(inputs.size()));
  for (std::size_t i = 0; i < inputs.size(); ++i)  // before anything changes
    for (const auto& r : impl_->recent)
      if (r->holds(inputs[i]))
        throw ValueError("infer", "input " + std::to_string(i) + " " + describe(inputs[i]) + " lies in the session's own memory, which the run overwrites",
                         "clone() it first.");
  SizedPlan& now = impl_->use(inputs);
  now.take_inputs(inputs);
  now.run();
  return now.outputs();
}

std::int64_t Session::arena_bytes() const noexcept { return impl_->sum_of(&SizedPlan::arena_bytes); }
const Plan& Session::plan() const noexcept { return *impl_->plan; }

SessionPool::Loan SessionPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto session = std::move(free_.back());
      free_.pop_back();
      return {*this, std::move(session)};
    }
  }
  return {*this, std::make_unique<Session>(plan_)};
}
void SessionPool::put_back(std::unique_ptr<Session> session) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(session));
}

}  // namespace mien::infer
