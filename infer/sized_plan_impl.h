// What a session is for inputs of certain shapes: programs, their arena, and on a GPU the recording of a run. Private to infer/.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "mien/infer/plan_impl.h"
#include "mien/infer/recording_impl.h"
#include "mien/kernels/parallel.h"

namespace mien::infer {

class SizedPlan {
 public:
  explicit SizedPlan(std::shared_ptr<const Plan> plan) : plan_(std::move(plan)) {}

  // Makes it ready for these shapes, in the memory that it has if that is enough. After an exception it is for no shapes.
  void size(std::span<const Shape> shapes);
  template <class Shapes>  // Tensors or Shapes
  bool is_for(const Shapes& in) const {
    if (threads_ != num_threads() || in.size() != shapes_.size()) return false;
    for (std::size_t i = 0; i < in.size(); ++i)
      if (!(shape_of(in[i]) == shapes_[i])) return false;
    return true;
  }
  static const Shape& shape_of(const Tensor& t) { return t.shape(); }
  static const Shape& shape_of(const Shape& s) { return s; }

  void take_inputs(std::span<const Tensor> inputs);
  void run();
  const std::vector<Tensor>& outputs() const noexcept { return outputs_; }  // in the arena

  bool holds(const Tensor& t) const { return arena_.defined() && t.storage() == arena_.storage(); }
  void take_arena(SizedPlan& from) { arena_ = std::move(from.arena_); }
  std::int64_t arena_bytes() const noexcept { return arena_.defined() ? arena_.numel() : 0; }
  std::int64_t held_bytes() const noexcept;  // of the arena and of what inputs are copied to

 private:
  // Full groups and the rest of the batch have programs of their own.
  struct Part {
    std::int64_t images = 0;
    std::unique_ptr<Program> late;
  };
  // One thread's programs.
  struct Worker {
    std::unique_ptr<Program> early;      // one image; null when the cut is at the beginning or nothing is cut
    std::array<Part, 2> parts;           // a full group, the rest
    std::vector<std::int64_t> crossing;  // offset of each value between the two, in order of `between_`
    std::atomic<bool> taken{false};
  };
  struct External {
    int root;
    int input = -1;  // its number; -1: an output, at `offset` of the arena
    std::int64_t offset = 0, image_bytes = 0;
  };

  const Graph& graph() const { return plan_->impl().graph; }
  const SizedValue& sized(int v) const { return sizes_->values[static_cast<std::size_t>(v)]; }
  std::int64_t place_externals();
  std::int64_t make_worker(bool in_groups, const std::vector<Shape>& whole);
  void bind(Worker& w, std::byte* base);
  Tensor output(int v) const;
  void* address(const External& e, std::int64_t first) const;
  void run_group(Worker& w, std::int64_t first);

  std::shared_ptr<const Plan> plan_;
  std::vector<Shape> shapes_;  // sized for; empty: not yet
  int threads_ = 0;            // sized for
  std::int64_t batch_ = 0, group_ = 0;
  std::shared_ptr<const Sizes> sizes_;  // of the whole batch
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<External> externals_;  // inputs and outputs
  std::vector<int> between_;         // roots that early writes and late reads
  Tensor arena_;
  std::vector<Tensor> outputs_, staging_;
  std::vector<void*> input_data_;
  std::unique_ptr<Recording> recording_;  // of a run on a GPU for these shapes
};

}  // namespace mien::infer
