// A stretch of a graph made ready to run for given sizes: kernels chosen, scratch booked, every view at its place. Private to infer/.
#pragma once

#include <memory>

#include "mien/infer/graph_impl.h"
#include "mien/infer/memory_impl.h"

namespace mien::infer {

class Program {
 public:
  // Nodes [first, last) of `g`, which must live as long as the program. Values that come from outside of them or are read outside are external: their memory is
  // the caller's. NotImplemented when no kernel takes a call.
  Program(const Graph& g, std::shared_ptr<const Sizes> sizes, int first, int last);
  Program(Program&&) noexcept = default;
  Program& operator=(Program&&) noexcept = default;

  std::int64_t arena_bytes() const noexcept { return arena_bytes_; }
  // Bytes that the internal values and scratch would take without sharing.
  std::int64_t unplanned_bytes() const noexcept { return unplanned_; }
  const std::vector<int>& externals() const noexcept { return externals_; }  // roots
  const Sizes& sizes() const noexcept { return *sizes_; }

  void bind_arena(void* data);  // 64-byte aligned, arena_bytes() bytes
  void bind_external(int root, void* data);
  void run() const;

  // For pictures: each block of the arena and the value that lives there (-1: scratch).
  struct Placed {
    int value;
    Block block;
  };
  const std::vector<Placed>& blocks() const noexcept { return blocks_; }

 private:
  struct Step {
    int node;
    const KernelEntry* entry;
    const void* params;
    std::int32_t in, out, end;  // views [in, out) are read, [out, end) written
    std::int32_t scratch = -1;  // block
  };
  struct Place {  // where a view's first element lies
    int root;     // -1: a constant, the view has its address
    std::int64_t offset;
  };

  void add_step(int n);
  int root_that_dies(int k, const std::vector<int>& last) const;
  void plan_memory();
  void push_view(const View& v, int root, std::int64_t offset);

  const Graph* g_;
  std::shared_ptr<const Sizes> sizes_;
  int first_, last_;
  std::vector<Step> steps_;
  std::vector<View> views_;
  std::vector<Place> places_;
  std::vector<void*> scratch_;  // one pointer a step
  std::vector<int> externals_;
  std::vector<int> block_of_;  // by root; -1: external or not used here
  std::vector<Placed> blocks_;
  std::int64_t arena_bytes_ = 0, unplanned_ = 0;
};

}  // namespace mien::infer
