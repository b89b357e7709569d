#include <algorithm>

#include "mien/infer/program_impl.h"
#include "mien/ops/copy.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

const SizedValue& sized(const Sizes& s, int v) { return s.values[static_cast<std::size_t>(v)]; }

// The first of the inputs whose memory the output of a call may take when they die there; -1 for none. Elementwise kernels read element i before they write
// element i and nothing else; a bf16 convolution does so with its residual, the last input. (Written elsewhere, the sum would push its map out of the cache.)
int first_in_place(const Node& n, DType dtype) {
  if (n.op == &op_unary || n.op == &op_binary) return 0;
  return n.op == &op_packed_conv2d && n.get<PackedConvOpParams>().residual && dtype == DType::bf16 ? static_cast<int>(n.in.size()) - 1 : -1;
}

}  // namespace

Program::Program(const Graph& g, std::shared_ptr<const Sizes> sizes, int first, int last) : g_(&g), sizes_(std::move(sizes)), first_(first), last_(last) {
  for (int n = first_; n < last_; ++n) add_step(n);
  plan_memory();
}

void Program::push_view(const View& v, int root, std::int64_t offset) {
  views_.push_back(v);
  places_.push_back({root, offset});
}

void Program::add_step(int n) {
  const Node& node = g_->node(n);
  const bool copies = sizes_->copies[static_cast<std::size_t>(n)];
  if (is_view(node) && !copies) return;
  const auto view_of = [&](int v) {
    const SizedValue& s = sized(*sizes_, v);
    return View{nullptr, s.dtype, s.shape, s.strides, g_->device};
  };
  Step step{n, nullptr, sizes_->params[static_cast<std::size_t>(n)].data(), static_cast<std::int32_t>(views_.size()), 0, 0, -1};
  const Shape& whole = sized(*sizes_, node.out[0]).shape;
  for (const int v : node.in) {
    if (const Tensor& t = g_->value(v).constant; t.defined())
      push_view(broadcast_view(*node.op, t.view(), whole), -1, 0);
    else
      push_view(copies ? view_of(v) : broadcast_view(*node.op, view_of(v), whole), sized(*sizes_, v).root, sized(*sizes_, v).offset);
  }
  step.out = static_cast<std::int32_t>(views_.size());
  for (const int v : node.out) {
    View y = view_of(v);
    if (copies) {  // the input's shape over the output's memory
      y.shape = sized(*sizes_, node.in[0]).shape;
      y.strides = contiguous_strides(y.shape);
    }
    push_view(y, sized(*sizes_, v).root, sized(*sizes_, v).offset);
  }
  step.end = static_cast<std::int32_t>(views_.size());
  const auto span = [&](std::int32_t a, std::int32_t b) {
    return std::span<const View>(views_).subspan(static_cast<std::size_t>(a), static_cast<std::size_t>(b - a));
  };
  KernelArgs args{span(step.in, step.out), span(step.out, step.end), step.params, nullptr};
  const Op& op = copies ? op_copy : *node.op;
  step.entry = &choose_kernel(op.name, op.kernels, args);
  if (const std::int64_t bytes = step.entry->workspace ? step.entry->workspace(args) : 0; bytes > 0) {
    step.scratch = static_cast<std::int32_t>(blocks_.size());
    const int at = static_cast<int>(steps_.size());
    blocks_.push_back({-1, {bytes, at, at, 0}});
  }
  steps_.push_back(step);
}

// The root of an input whose memory the output of step k may take, -1 for none: it lies just as the output, and no one reads it afterwards.
int Program::root_that_dies(int k, const std::vector<int>& last) const {
  const Step& s = steps_[static_cast<std::size_t>(k)];
  const int from = first_in_place(g_->node(s.node), views_[static_cast<std::size_t>(s.out)].dtype);
  if (from < 0 || s.end - s.out != 1) return -1;
  const auto fits = [&](std::int32_t j) {
    const auto in = static_cast<std::size_t>(j), out = static_cast<std::size_t>(s.out);
    const View &x = views_[in], &y = views_[out];
    return places_[in].offset == places_[out].offset && x.dtype == y.dtype && x.shape == y.shape && x.strides == y.strides;
  };
  for (std::int32_t j = s.in + from; j < s.out; ++j) {
    const int root = places_[static_cast<std::size_t>(j)].root;
    if (root < 0 || block_of_[static_cast<std::size_t>(root)] < 0 || last[static_cast<std::size_t>(root)] != k) continue;
    bool all = true;  // also where the other operand reads the same memory
    for (std::int32_t i = s.in; i < s.out; ++i) all = all && (places_[static_cast<std::size_t>(i)].root != root || (i >= s.in + from && fits(i)));
    if (all) return root;
  }
  return -1;
}

void Program::plan_memory() {
  // When each root's memory is first written and last read, in steps.
  const std::size_t count = g_->values.size();
  std::vector<int> first(count, -1), last(count, -1);
  block_of_.assign(count, -1);
  for (std::size_t k = 0; k < steps_.size(); ++k)
    for (std::int32_t i = steps_[k].in; i < steps_[k].end; ++i)
      if (const int root = places_[static_cast<std::size_t>(i)].root; root >= 0) {
        const auto r = static_cast<std::size_t>(root);
        if (first[r] < 0) first[r] = static_cast<int>(k);
        last[r] = static_cast<int>(k);
      }
  // Roots that the rest of the graph, or the caller, reads or wrote.
  std::vector<bool> outside(count);
  const auto mark = [&](int v) {
    if (const int root = sized(*sizes_, v).root; root >= 0) outside[static_cast<std::size_t>(root)] = true;
  };
  for (const int v : g_->inputs) mark(v);
  for (const int v : g_->outputs) mark(v);
  for (int n = 0; n < g_->node_count(); ++n) {
    if (n >= first_ && n < last_) continue;
    for (const auto* side : {&g_->node(n).in, &g_->node(n).out})
      for (const int v : *side) mark(v);
  }
  for (std::size_t k = 0; k < steps_.size(); ++k) {
    const Step& s = steps_[k];
    for (std::int32_t i = s.out; i < s.end; ++i) {
      const auto r = static_cast<std::size_t>(places_[static_cast<std::size_t>(i)].root);
      if (outside[r] || block_of_[r] >= 0) continue;
      const std::int64_t bytes = sized(*sizes_, static_cast<int>(r)).bytes();
      unplanned_ += bytes;
      // In place: the input's block lives on as the output's.
      if (const int dying = root_that_dies(static_cast<int>(k), last); dying >= 0 && sized(*sizes_, dying).bytes() == bytes) {
        block_of_[r] = block_of_[static_cast<std::size_t>(dying)];
        Block& b = blocks_[static_cast<std::size_t>(block_of_[r])].block;
        b.last = std::max(b.last, last[r]);
        continue;
      }
      block_of_[r] = static_cast<int>(blocks_.size());
      blocks_.push_back({static_cast<int>(r), {bytes, first[r], last[r], 0}});
    }
  }
  for (std::size_t r = 0; r < count; ++r)
    if (outside[r] && first[r] >= 0) externals_.push_back(static_cast<int>(r));
  std::vector<Block> blocks;
  for (const auto& p : blocks_) {
    blocks.push_back(p.block);
    if (p.value < 0) unplanned_ += p.block.bytes;
  }
  arena_bytes_ = place_blocks(blocks);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks_[i].block.offset = blocks[i].offset;
}

void Program::bind_arena(void* data) {
  auto* base = static_cast<std::byte*>(data);
  for (std::size_t i = 0; i < views_.size(); ++i) {
    const Place& p = places_[i];
    if (p.root < 0) continue;
    if (const int b = block_of_[static_cast<std::size_t>(p.root)]; b >= 0)
      views_[i].data = base + blocks_[static_cast<std::size_t>(b)].block.offset + p.offset;
  }
  scratch_.assign(steps_.size(), nullptr);
  for (std::size_t k = 0; k < steps_.size(); ++k)
    if (steps_[k].scratch >= 0) scratch_[k] = base + blocks_[static_cast<std::size_t>(steps_[k].scratch)].block.offset;
}

void Program::bind_external(int root, void* data) {
  for (std::size_t i = 0; i < views_.size(); ++i)
    if (places_[i].root == root) views_[i].data = static_cast<std::byte*>(data) + places_[i].offset;
}

void Program::run() const {
  make_current(g_->device);
  void* const stream = current_stream(g_->device).handle;
  for (std::size_t k = 0; k < steps_.size(); ++k) {
    const Step& s = steps_[k];
    const View* views = views_.data();
    s.entry->run({{views + s.in, static_cast<std::size_t>(s.out - s.in)}, {views + s.out, static_cast<std::size_t>(s.end - s.out)}, s.params, scratch_[k],
                   Precision::f32, stream});
  }
}

}  // namespace mien::infer
