// Inference, planned: the forward pass is traced once, rewritten by passes, laid out in one block of memory, and then run without any allocation.
//
//   MobileFaceNet net;                                    // with its weights
//   net.eval();
//   auto plan = mien::infer::compile(net, mien::zeros({1, 3, 112, 112}));
//   mien::infer::Session session(plan);                   // one thread's memory
//   const Tensor& embeddings = session(faces);            // [N, 3, 112, 112] -> [N, 512]; valid until the session runs again
//
// Training is eager, inference is planned. A plan holds what it needs of the weights: changing the module afterwards changes no plan.
//
// What can be traced: forward passes made of ops of ops/table.h whose path does not depend on the values in a tensor. What does not depend on the inputs is
// computed once, while tracing. NotImplemented names the op that cannot be recorded: one that draws random numbers, writes in place or has shapes that depend
// on values. A value that forward reads out of a tensor (item, data) and computes with by itself is frozen: no one can see that.
//
// Thread safety: a Plan is immutable and shared by any number of threads. A Session belongs to one thread at a time; a second one that runs it meanwhile
// gets a ValueError. SessionPool lends sessions to threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "mien/layers/module.h"
#include "mien/tensor/tensor.h"

namespace mien::infer {

struct Options {
  // Batch norm and scales folded into weights, activations and residuals into convolutions, siblings merged, concat without a copy. Off: the plan's
  // results equal those of eager forward bit for bit. On: they differ by rounding (some 1e-6 of the largest value).
  bool fuse = true;
  // Maps as channels_last, weights packed for it; outputs keep the memory order of eager forward. `fuse` without it folds weights only.
  bool layout = true;
  // bf16: maps and packed weights between convolutions are stored in 16 bits, sums are f32; inputs and outputs stay f32. Needs fuse and layout. It is a
  // permission: where the CPU has no tile units (level amx), a plan computes in f32, which is faster there; Plan::options() tells.
  // A plan's arithmetic is its own: set_matmul_precision() is for eager ops.
  DType dtype = DType::f32;
  // Where the plan runs: its weights lie there, its inputs must be there, its outputs are. Tracing and the passes work on the CPU, so the module and the
  // example are given there. On a GPU plans compute in f32, and a session's second run of the same shapes records a graph that all later ones replay.
  Device device = {};
  // Sizes other than the batch may change too (the pyramid of a detector). Otherwise only the first dimension of every input may.
  bool any_size = false;
  // Prints the graph before and after every pass to stderr. MIEN_VERBOSE=plan sets it.
  bool dump = false;
};

// Memory in bytes for given input shapes.
struct Report {
  std::int64_t peak = 0;       // of the maps and scratch of one run, laid out by lifetime
  std::int64_t unplanned = 0;  // the same, each map on its own
  std::int64_t weights = 0;    // constants, packed ones as they are packed
  int nodes = 0;
  std::string text() const;
};

class Plan {
 public:
  ~Plan();
  // The plan as text: one line a call, "v5: f32[1, 64, 77, 77] channels_last = conv2d(v4, c1 f32[64, 32, 3, 3])".
  std::string dump() const;
  // A picture: the calls from top to bottom, and beside them which bytes of the arena each value has for how long.
  std::string svg() const;
  // For the shapes of the example, one run of the whole batch.
  Report report() const;
  std::vector<Shape> input_shapes() const;  // of the example
  const Options& options() const noexcept;

  struct Impl;
  const Impl& impl() const noexcept { return *impl_; }
  explicit Plan(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

using Forward = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

// Runs `forward` once on the example without gradients and records it. The example's values don't matter, its shapes, dtypes and memory order do
// (an input in another order is copied first). ValueError when an output does not depend on any input.
std::shared_ptr<const Plan> compile(const Forward& forward, const std::vector<Tensor>& example, const Options& options = {});

// A module with `Tensor forward(const Tensor&)`. ValueError in training mode.
template <class M>
requires std::is_base_of_v<Module, M> std::shared_ptr<const Plan> compile(M& net, const Tensor& example, const Options& options = {}) {
  if (net.training()) throw ValueError("compile", "expects a module in eval mode", "Call net.eval() first.");
  return compile([&](std::span<const Tensor> x) { return std::vector<Tensor>{net.forward(x[0])}; }, std::vector<Tensor>{example}, options);
}

// The module goes when it is recorded, so that its weights are in memory once while the plan is made, not twice.
template <class M>
requires std::is_base_of_v<Module, M> std::shared_ptr<const Plan> compile(std::unique_ptr<M> net, const Tensor& example, const Options& options = {}) {
  if (net->training()) throw ValueError("compile", "expects a module in eval mode", "Call net.eval() first.");
  return compile(
      [&](std::span<const Tensor> x) {
        std::vector<Tensor> out{net->forward(x[0])};
        net.reset();
        return out;
      },
      std::vector<Tensor>{example}, options);
}

// One thread's memory for a plan. With Options::layout, batches of two and more images are cut into groups that run side by side, each on one thread from the
// first op to the last; results don't depend on the number of threads, with or without. A batch of 0 gives empty outputs. A session that was moved from may be
// destroyed or assigned to, nothing else.
class Session {
 public:
  explicit Session(std::shared_ptr<const Plan> plan);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // One tensor for each input of the plan, any batch; other shapes as Options say (ShapeError names both). Sizes the session first when they differ from
  // the last ones; with the same shapes nothing is allocated. The outputs lie in the session's memory: the next run overwrites them (clone() keeps one), and
  // takes none of them as an input (ValueError).
  std::span<const Tensor> run(std::span<const Tensor> inputs);
  const Tensor& operator()(const Tensor& x) { return run(std::span<const Tensor>(&x, 1))[0]; }  // of a plan with one input: its first output
  // Shapes and offsets for other inputs, without a new trace. OutOfMemory names the bytes.
  void resize(std::span<const Shape> inputs);
  void resize(const Shape& input) { resize(std::span<const Shape>(&input, 1)); }

  // Allocated: grows to the largest size seen. On a GPU that of up to 8 shapes, which are kept with the recordings of their runs: the least recently used go.
  std::int64_t arena_bytes() const noexcept;
  const Plan& plan() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Sessions of one plan for any number of threads: take() lends one that is free or makes one; it comes back when the loan ends, which must be before the pool does.
// A loan that was moved from holds no session.
class SessionPool {
 public:
  explicit SessionPool(std::shared_ptr<const Plan> plan) : plan_(std::move(plan)) {}

  class Loan {
   public:
    Loan(SessionPool& pool, std::unique_ptr<Session> session) : pool_(&pool), session_(std::move(session)) {}
    ~Loan() {
      if (session_) pool_->put_back(std::move(session_));
    }
    Loan(Loan&&) noexcept = default;
    Loan& operator=(Loan&&) = delete;
    Session& operator*() const noexcept { return *session_; }
    Session* operator->() const noexcept { return session_.get(); }

   private:
    SessionPool* pool_;
    std::unique_ptr<Session> session_;
  };
  Loan take();
  const std::shared_ptr<const Plan>& plan() const noexcept { return plan_; }

 private:
  void put_back(std::unique_ptr<Session> session);
  std::shared_ptr<const Plan> plan_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Session>> free_;
};

}  // namespace mien::infer
