#include "mien/infer/sized_plan_impl.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "mien/kernels/parallel.h"
#include "mien/ops/table.h"

namespace mien::infer {
namespace {

std::int64_t padded(std::int64_t bytes) { return (bytes + block_alignment - 1) / block_alignment * block_alignment; }

// A block of the allocator as a tensor, so that outputs share its life. Blocks of 8 MiB and more get huge pages there.
Tensor allocate(std::int64_t bytes, const std::vector<Shape>& shapes, Device device) {
  try {
    return Tensor::empty({std::max<std::int64_t>(bytes, 1)}, DType::u8, Layout::contiguous, device);
  } catch (const OutOfMemory& e) {
    std::string sizes;
    for (const auto& s : shapes) sizes += (sizes.empty() ? "" : ", ") + to_string(s);
    throw OutOfMemory("infer", "a session for inputs " + sizes + " needs " + std::to_string(bytes) + " bytes: " + e.what(),
                      "Use a smaller batch or picture.");
  }
}

// Four sizes between powers of two: the arena of one shape then serves another, and memory stays flat over many.
std::int64_t in_steps(std::int64_t bytes) {
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 4096)))) / 4;
  return (bytes + step - 1) / step * step;
}

}  // namespace

void SizedPlan::size(std::span<const Shape> wanted) {
  const Plan::Impl& p = plan_->impl();
  p.check_shapes(wanted);
  shapes_.clear();  // not sized while this may throw
  recording_.reset();
  const std::vector<Shape> next(wanted.begin(), wanted.end());
  threads_ = num_threads();
  sizes_ = p.size(next);
  batch_ = p.by_image ? next[0][0] : 1;
  workers_.clear();
  outputs_.clear();
  // Without layout a plan runs the kernels of eager forward, some of which go by the pixels of the whole batch: the batch stays whole.
  const bool in_groups = p.by_image && p.options.layout && batch_ > 1 && graph().device.is_cpu();
  group_ = in_groups ? group_size(batch_, threads_) : batch_;
  const std::int64_t groups = group_ > 0 ? (batch_ + group_ - 1) / group_ : 0;
  std::int64_t at = place_externals();
  const std::int64_t count = in_groups ? std::min<std::int64_t>(groups, threads_) : 1;
  std::vector<std::int64_t> begins;
  for (std::int64_t w = 0; w < count; ++w) {
    begins.push_back(at);
    at += batch_ > 0 ? make_worker(in_groups, next) : 0;
  }
  if (!graph().device.is_cpu()) at = in_steps(at);
  if (!arena_.defined() || arena_.numel() < at || (!graph().device.is_cpu() && arena_.numel() > 2 * at)) {
    arena_ = Tensor();  // back to the allocator first
    arena_ = allocate(at, next, graph().device);
  }
  auto* base = static_cast<std::byte*>(arena_.raw_data());
  for (std::size_t w = 0; w < workers_.size(); ++w) bind(*workers_[w], base + begins[w]);
  for (const int v : graph().outputs) outputs_.push_back(output(v));
  staging_.assign(shapes_.size(), Tensor());
  staging_.resize(next.size());
  input_data_.assign(next.size(), nullptr);
  if (!graph().device.is_cpu()) recording_ = std::make_unique<Recording>(graph().device);
  shapes_ = next;
}

// Outputs first in the arena; returns where they end.
std::int64_t SizedPlan::place_externals() {
  externals_.clear();
  std::int64_t at = 0;
  const auto add = [&](int v, int input) {
    const int root = sized(v).root;
    for (const auto& e : externals_)
      if (e.root == root) return;
    const std::int64_t bytes = sized(root).bytes();
    externals_.push_back({root, input, input < 0 ? at : 0, batch_ > 0 ? bytes / batch_ : 0});
    if (input < 0) at += padded(bytes);
  };
  for (std::size_t i = 0; i < graph().inputs.size(); ++i) add(graph().inputs[i], static_cast<int>(i));
  for (const int v : graph().outputs) add(v, -1);
  return at;
}

// Returns the bytes that its arena takes: values between the two parts, then whichever part needs more.
std::int64_t SizedPlan::make_worker(bool in_groups, const std::vector<Shape>& whole) {
  const Plan::Impl& p = plan_->impl();
  Worker& w = *workers_.emplace_back(std::make_unique<Worker>());
  const int cut = in_groups ? p.cut : 0, end = p.graph.node_count();
  std::int64_t bytes = 0, crossing = 0;
  if (cut > 0) {
    w.early = std::make_unique<Program>(p.graph, p.size(with_batch(whole, 1)), 0, cut);
    bytes = w.early->arena_bytes();
  }
  const std::int64_t rest = batch_ % group_;
  w.parts[0].images = group_;
  w.parts[0].late = std::make_unique<Program>(p.graph, in_groups ? p.size(with_batch(whole, group_)) : sizes_, cut, end);
  if (rest > 0) {
    w.parts[1].images = rest;
    w.parts[1].late = std::make_unique<Program>(p.graph, p.size(with_batch(whole, rest)), cut, end);
  }
  for (const auto& part : w.parts)
    if (part.late) bytes = std::max(bytes, part.late->arena_bytes());
  between_.clear();
  if (w.early)
    for (const int root : w.early->externals())
      if (std::none_of(externals_.begin(), externals_.end(), [&](const External& e) { return e.root == root; })) {
        between_.push_back(root);
        w.crossing.push_back(crossing);
        crossing += padded(group_ * w.early->sizes().values[static_cast<std::size_t>(root)].bytes());
      }
  return padded(crossing) + padded(bytes);
}

void SizedPlan::bind(Worker& w, std::byte* base) {
  std::int64_t end = 0;
  for (std::size_t i = 0; i < w.crossing.size(); ++i) {
    w.crossing[i] += base - static_cast<std::byte*>(arena_.raw_data());
    end = std::max(end, w.crossing[i] + padded(group_ * w.early->sizes().values[static_cast<std::size_t>(between_[i])].bytes()));
  }
  std::byte* own = w.crossing.empty() ? base : static_cast<std::byte*>(arena_.raw_data()) + end;
  if (w.early) w.early->bind_arena(own);
  for (auto& part : w.parts)
    if (part.late) part.late->bind_arena(own);
}

Tensor SizedPlan::output(int v) const {
  const SizedValue& s = sized(v);
  const External& e = *std::find_if(externals_.begin(), externals_.end(), [&](const External& x) { return x.root == s.root; });
  Tensor t = arena_.as_strided({0}, {1}, 0);
  TensorImpl& impl = t.impl();
  impl.dtype = s.dtype;
  impl.shape = s.shape;
  impl.strides = s.strides;
  impl.offset = (e.offset + s.offset) / item_size(s.dtype);
  return t;
}

void SizedPlan::take_inputs(std::span<const Tensor> in) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    const SizedValue& s = sized(graph().inputs[i]);
    if (in[i].dtype() != s.dtype)
      throw DTypeError("infer", "the plan was compiled for input " + std::to_string(i) + " of " + name(s.dtype) + ", got " + describe(in[i]),
                       std::string("Cast with mien::cast(x, DType::") + name(s.dtype) + ").");
    if (!(in[i].device() == graph().device))
      throw DeviceError("infer", "the plan was compiled for " + to_string(graph().device) + ", input " + std::to_string(i) + " is on " + to_string(in[i].device()),
                        "Move it with mien::to(x, device).");
    const View wanted{nullptr, s.dtype, s.shape, s.strides};
    if (!recording_ && (wanted.is_contiguous() ? in[i].is_contiguous() : in[i].is_channels_last())) {
      input_data_[i] = in[i].raw_data();
      continue;
    }
    if (!staging_[i].defined()) staging_[i] = Tensor::empty(s.shape, s.dtype, wanted.is_contiguous() ? Layout::contiguous : Layout::channels_last, graph().device);
    const View from = in[i].view(), to = staging_[i].view();
    run_kernel("infer", op_copy.kernels, {&from, 1}, {&to, 1}, nullptr);
    input_data_[i] = staging_[i].raw_data();
  }
}

// The address of an input or output from image `first` on.
void* SizedPlan::address(const External& e, std::int64_t first) const {
  std::byte* base =
      e.input >= 0 ? static_cast<std::byte*>(input_data_[static_cast<std::size_t>(e.input)]) : static_cast<std::byte*>(arena_.raw_data()) + e.offset;
  return base + first * e.image_bytes;
}

void SizedPlan::run_group(Worker& w, std::int64_t first) {
  auto& part = batch_ - first < group_ ? w.parts[1] : w.parts[0];
  const auto crossing = [&](std::size_t i, std::int64_t image) {
    return static_cast<std::byte*>(arena_.raw_data()) + w.crossing[i] + image * w.early->sizes().values[static_cast<std::size_t>(between_[i])].bytes();
  };
  if (w.early) {
    for (std::int64_t image = 0; image < part.images; ++image) {
      for (const auto& e : externals_) w.early->bind_external(e.root, address(e, first + image));
      for (std::size_t i = 0; i < between_.size(); ++i) w.early->bind_external(between_[i], crossing(i, image));
      w.early->run();
    }
  }
  for (const auto& e : externals_) part.late->bind_external(e.root, address(e, first));
  for (std::size_t i = 0; i < between_.size(); ++i) part.late->bind_external(between_[i], crossing(i, 0));
  part.late->run();
}

void SizedPlan::run() {
  if (workers_.empty()) return;  // no images
  if (recording_) return recording_->run([&] { run_group(*workers_[0], 0); });
  if (group_ == batch_) return run_group(*workers_[0], 0);
  parallel_for((batch_ + group_ - 1) / group_, 1, [&](std::int64_t begin, std::int64_t end) {
    const SerialGuard serial;
    Worker* mine = nullptr;
    while (!mine)  // as many workers as threads: one is free
      for (auto& w : workers_)
        if (!mine && !w->taken.exchange(true)) mine = w.get();
    struct Release {
      Worker& w;
      ~Release() { w.taken.store(false); }
    } release{*mine};
    for (std::int64_t g = begin; g < end; ++g) run_group(*mine, g * group_);
  });
}

std::int64_t SizedPlan::held_bytes() const noexcept {
  std::int64_t n = arena_bytes();
  for (const auto& t : staging_)
    if (t.defined()) n += t.numel() * item_size(t.dtype());
  return n;
}

}  // namespace mien::infer
