#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "mien/infer/plan_impl.h"
#include "mien/kernels/parallel.h"
#include "mien/ops/table.h"
#include "mien/tensor/device_backend.h"

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

// Full groups and the rest of the batch have programs of their own.
struct Part {
  std::int64_t images = 0;
  std::unique_ptr<Program> late;
};

}  // namespace

// A run on a GPU as one graph. Note [Recorded runs]: the first run of a session goes call by call (libraries make their handles then), the second is recorded
// in a queue of its own, where no other thread's work can get into it, and replayed in the caller's. Where that fails, runs stay calls. Addresses are part of the
// recording, so inputs are copied to one place, and a session keeps the arenas of the last few shapes with their recordings (Note [Recent shapes]).
class Recording {
 public:
  explicit Recording(Device device) : device_(device), queue_(device_backend()->make_stream(device.index())) {}
  ~Recording() {
    if (graph_) device_backend()->drop_graph(graph_);
    device_backend()->drop_stream(device_.index(), queue_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  template <class F>
  void run(const F& calls) {
    if (runs_++ == 0) return calls();
    if (!graph_ && refusals_ < most_refusals) record(calls);
    if (!graph_) return calls();
    device_backend()->launch(device_.index(), graph_, current_stream(device_).handle);
  }

 private:
  template <class F>
  void record(const F& calls) {
    const StreamGuard own({device_, queue_});
    DeviceBackend& backend = *device_backend();
    backend.begin_capture(device_.index(), queue_);
    const bool whole = passes(calls);
    passes([&] { graph_ = backend.end_capture(device_.index(), queue_); });
    if (graph_ && !whole) backend.drop_graph(std::exchange(graph_, nullptr));
    refusals_ += !graph_;
  }
  // What fails in a recording may be the recording's fault alone; the calls one by one, which follow, say what is wrong with them.
  template <class F>
  static bool passes(const F& step) {
    try {
      step();
      return true;
    } catch (const DeviceLost&) {
      throw;
    } catch (...) {
      return false;
    }
  }

  static constexpr int most_refusals = 2;  // the first may be for a library's handle, which the thread has from then on
  Device device_;
  void* queue_;
  void* graph_ = nullptr;
  std::int64_t runs_ = 0;
  int refusals_ = 0;
};

namespace {

// What a session is for inputs of certain shapes: programs, their arena, and on a GPU the recording of a run.
struct Sized {
  explicit Sized(std::shared_ptr<const Plan> p) : plan(std::move(p)) {}

  std::shared_ptr<const Plan> plan;
  std::vector<Shape> shapes;  // sized for; empty: not yet
  int threads = 0;            // sized for
  std::int64_t batch = 0, group = 0;
  std::shared_ptr<const Sizes> sizes;  // of the whole batch

  // One thread's programs and where its arena begins.
  struct Worker {
    std::unique_ptr<Program> early;      // one image; null when the cut is at the beginning or nothing is cut
    std::array<Part, 2> parts;           // a full group, the rest
    std::vector<std::int64_t> crossing;  // offset of each value between the two, in order of `between`
    std::atomic<bool> taken{false};
  };
  std::vector<std::unique_ptr<Worker>> workers;
  struct External {
    int root;
    int input = -1;  // its number; -1: an output, at `offset` of the arena
    std::int64_t offset = 0, image_bytes = 0;
  };
  std::vector<External> externals;  // inputs and outputs
  std::vector<int> between;         // roots that early writes and late reads
  Tensor arena;
  std::vector<Tensor> outputs, staging;
  std::vector<void*> input_data;
  std::unique_ptr<Recording> recording;  // of a run on a GPU for these shapes

  const Graph& graph() const { return plan->impl().graph; }

  template <class Shapes>  // Tensors or Shapes
  bool is_for(const Shapes& in) const {
    if (threads != num_threads() || in.size() != shapes.size()) return false;
    for (std::size_t i = 0; i < in.size(); ++i)
      if (!(shape_of(in[i]) == shapes[i])) return false;
    return true;
  }
  static const Shape& shape_of(const Tensor& t) { return t.shape(); }
  static const Shape& shape_of(const Shape& s) { return s; }

  void size(std::span<const Shape> wanted) {
    const Plan::Impl& p = plan->impl();
    p.check_shapes(wanted);
    shapes.clear();  // not sized while this may throw
    recording.reset();
    const std::vector<Shape> next(wanted.begin(), wanted.end());
    threads = num_threads();
    sizes = p.size(next);
    batch = p.by_image ? next[0][0] : 1;
    workers.clear();
    outputs.clear();
    // Without layout a plan runs the kernels of eager forward, some of which go by the pixels of the whole batch: the batch stays whole.
    const bool in_groups = p.by_image && p.options.layout && batch > 1 && graph().device.is_cpu();
    group = in_groups ? group_size(batch, threads) : batch;
    const std::int64_t groups = group > 0 ? (batch + group - 1) / group : 0;
    std::int64_t at = place_externals();
    const std::int64_t count = in_groups ? std::min<std::int64_t>(groups, threads) : 1;
    std::vector<std::int64_t> begins;
    for (std::int64_t w = 0; w < count; ++w) {
      begins.push_back(at);
      at += batch > 0 ? make_worker(in_groups, next) : 0;
    }
    if (!graph().device.is_cpu()) at = in_steps(at);
    if (!arena.defined() || arena.numel() < at || (!graph().device.is_cpu() && arena.numel() > 2 * at)) {
      arena = Tensor();  // back to the allocator first
      arena = allocate(at, next, graph().device);
    }
    auto* base = static_cast<std::byte*>(arena.raw_data());
    for (std::size_t w = 0; w < workers.size(); ++w) bind(*workers[w], base + begins[w]);
    for (const int v : graph().outputs) outputs.push_back(output(v));
    staging.assign(shapes.size(), Tensor());
    staging.resize(next.size());
    input_data.assign(next.size(), nullptr);
    if (!graph().device.is_cpu()) recording = std::make_unique<Recording>(graph().device);
    shapes = next;
  }

  // Four sizes between powers of two: the arena of one shape then serves another, and memory stays flat over many.
  static std::int64_t in_steps(std::int64_t bytes) {
    const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 4096)))) / 4;
    return (bytes + step - 1) / step * step;
  }

  const SizedValue& sized(int v) const { return sizes->values[static_cast<std::size_t>(v)]; }

  // Outputs first in the arena; returns where they end.
  std::int64_t place_externals() {
    externals.clear();
    std::int64_t at = 0;
    const auto add = [&](int v, int input) {
      const int root = sized(v).root;
      for (const auto& e : externals)
        if (e.root == root) return;
      const std::int64_t bytes = sized(root).bytes();
      externals.push_back({root, input, input < 0 ? at : 0, batch > 0 ? bytes / batch : 0});
      if (input < 0) at += padded(bytes);
    };
    for (std::size_t i = 0; i < graph().inputs.size(); ++i) add(graph().inputs[i], static_cast<int>(i));
    for (const int v : graph().outputs) add(v, -1);
    return at;
  }

  // Returns the bytes that its arena takes: values between the two parts, then whichever part needs more.
  std::int64_t make_worker(bool in_groups, const std::vector<Shape>& whole) {
    const Plan::Impl& p = plan->impl();
    Worker& w = *workers.emplace_back(std::make_unique<Worker>());
    const int cut = in_groups ? p.cut : 0, end = p.graph.node_count();
    std::int64_t bytes = 0, crossing = 0;
    if (cut > 0) {
      w.early = std::make_unique<Program>(p.graph, p.size(with_batch(whole, 1)), 0, cut);
      bytes = w.early->arena_bytes();
    }
    const std::int64_t rest = batch % group;
    w.parts[0].images = group;
    w.parts[0].late = std::make_unique<Program>(p.graph, in_groups ? p.size(with_batch(whole, group)) : sizes, cut, end);
    if (rest > 0) {
      w.parts[1].images = rest;
      w.parts[1].late = std::make_unique<Program>(p.graph, p.size(with_batch(whole, rest)), cut, end);
    }
    for (const auto& part : w.parts)
      if (part.late) bytes = std::max(bytes, part.late->arena_bytes());
    between.clear();
    if (w.early)
      for (const int root : w.early->externals())
        if (std::none_of(externals.begin(), externals.end(), [&](const External& e) { return e.root == root; })) {
          between.push_back(root);
          w.crossing.push_back(crossing);
          crossing += padded(group * w.early->sizes().values[static_cast<std::size_t>(root)].bytes());
        }
    return padded(crossing) + padded(bytes);
  }

  void bind(Worker& w, std::byte* base) {
    std::int64_t end = 0;
    for (std::size_t i = 0; i < w.crossing.size(); ++i) {
      w.crossing[i] += base - static_cast<std::byte*>(arena.raw_data());
      end = std::max(end, w.crossing[i] + padded(group * w.early->sizes().values[static_cast<std::size_t>(between[i])].bytes()));
    }
    std::byte* own = w.crossing.empty() ? base : static_cast<std::byte*>(arena.raw_data()) + end;
    if (w.early) w.early->bind_arena(own);
    for (auto& part : w.parts)
      if (part.late) part.late->bind_arena(own);
  }

  Tensor output(int v) const {
    const SizedValue& s = sized(v);
    const External& e = *std::find_if(externals.begin(), externals.end(), [&](const External& x) { return x.root == s.root; });
    Tensor t = arena.as_strided({0}, {1}, 0);
    TensorImpl& impl = t.impl();
    impl.dtype = s.dtype;
    impl.shape = s.shape;
    impl.strides = s.strides;
    impl.offset = (e.offset + s.offset) / item_size(s.dtype);
    return t;
  }

  void take_inputs(std::span<const Tensor> in) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      const SizedValue& s = sized(graph().inputs[i]);
      if (in[i].dtype() != s.dtype)
        throw DTypeError("infer", "the plan was compiled for input " + std::to_string(i) + " of " + name(s.dtype) + ", got " + describe(in[i]),
                         std::string("Cast with mien::cast(x, DType::") + name(s.dtype) + ").");
      if (!(in[i].device() == graph().device))
        throw DeviceError("infer", "the plan was compiled for " + to_string(graph().device) + ", input " + std::to_string(i) + " is on " + to_string(in[i].device()),
                          "Move it with mien::to(x, device).");
      const View wanted{nullptr, s.dtype, s.shape, s.strides};
      if (!recording && (wanted.is_contiguous() ? in[i].is_contiguous() : in[i].is_channels_last())) {
        input_data[i] = in[i].raw_data();
        continue;
      }
      if (!staging[i].defined()) staging[i] = Tensor::empty(s.shape, s.dtype, wanted.is_contiguous() ? Layout::contiguous : Layout::channels_last, graph().device);
      const View from = in[i].view(), to = staging[i].view();
      run_kernel("infer", op_copy.kernels, {&from, 1}, {&to, 1}, nullptr);
      input_data[i] = staging[i].raw_data();
    }
  }

  // The address of an input or output from image `first` on.
  void* address(const External& e, std::int64_t first) const {
    std::byte* base =
        e.input >= 0 ? static_cast<std::byte*>(input_data[static_cast<std::size_t>(e.input)]) : static_cast<std::byte*>(arena.raw_data()) + e.offset;
    return base + first * e.image_bytes;
  }

  void run_group(Worker& w, std::int64_t first) {
    auto& part = batch - first < group ? w.parts[1] : w.parts[0];
    const auto crossing = [&](std::size_t i, std::int64_t image) {
      return static_cast<std::byte*>(arena.raw_data()) + w.crossing[i] + image * w.early->sizes().values[static_cast<std::size_t>(between[i])].bytes();
    };
    if (w.early) {
      for (std::int64_t image = 0; image < part.images; ++image) {
        for (const auto& e : externals) w.early->bind_external(e.root, address(e, first + image));
        for (std::size_t i = 0; i < between.size(); ++i) w.early->bind_external(between[i], crossing(i, image));
        w.early->run();
      }
    }
    for (const auto& e : externals) part.late->bind_external(e.root, address(e, first));
    for (std::size_t i = 0; i < between.size(); ++i) part.late->bind_external(between[i], crossing(i, 0));
    part.late->run();
  }

  void run() {
    if (workers.empty()) return;  // no images
    if (recording) return recording->run([&] { run_group(*workers[0], 0); });
    if (group == batch) return run_group(*workers[0], 0);
    parallel_for((batch + group - 1) / group, 1, [&](std::int64_t begin, std::int64_t end) {
      const SerialGuard serial;
      Worker* mine = nullptr;
      while (!mine)  // as many workers as threads: one is free
        for (auto& w : workers)
          if (!mine && !w->taken.exchange(true)) mine = w.get();
      struct Release {
        Worker& w;
        ~Release() { w.taken.store(false); }
      } release{*mine};
      for (std::int64_t g = begin; g < end; ++g) run_group(*mine, g * group);
    });
  }

  bool holds(const Tensor& t) const { return arena.defined() && t.storage() == arena.storage(); }
  std::int64_t arena_bytes() const noexcept { return arena.defined() ? arena.numel() : 0; }
  // Of the arena and of what inputs are copied to.
  std::int64_t held_bytes() const noexcept {
    std::int64_t n = arena_bytes();
    for (const auto& t : staging)
      if (t.defined()) n += t.numel() * item_size(t.dtype());
    return n;
  }
};

}  // namespace

// Note [Recent shapes]: on the CPU sizing takes microseconds and memory is what counts, so a session is sized anew when shapes change and keeps one arena. On a
// GPU it would lose the recording, which takes two runs to come back: there it keeps those of the shapes that were used last, up to `most_shapes` and
// `most_bytes` together (the one in use is kept whatever its size).
struct Session::Impl {
  static constexpr std::size_t most_shapes = 8;
  static constexpr std::int64_t most_bytes = std::int64_t{512} << 20;

  std::shared_ptr<const Plan> plan;
  std::vector<std::unique_ptr<Sized>> recent;  // the one in use first; one alone on the CPU
  std::atomic<bool> running{false};

  const Graph& graph() const { return plan->impl().graph; }

  // The state for these shapes (Tensors or Shapes), sized if it must be.
  template <class Shapes>
  Sized& use(const Shapes& in) {
    for (auto r = recent.begin(); r != recent.end(); ++r)
      if ((*r)->is_for(in)) {
        std::rotate(recent.begin(), r, r + 1);
        return *recent.front();
      }
    std::vector<Shape> shapes;
    for (const auto& x : in) shapes.push_back(Sized::shape_of(x));
    return resize(shapes);
  }

  Sized& resize(std::span<const Shape> shapes) {
    if (graph().device.is_cpu()) {
      if (recent.empty()) recent.push_back(std::make_unique<Sized>(plan));
      recent.front()->size(shapes);
      return *recent.front();
    }
    plan->impl().check_shapes(shapes);
    auto next = std::make_unique<Sized>(plan);
    if (recent.size() == most_shapes) {
      next->arena = std::move(recent.back()->arena);
      recent.pop_back();
    }
    if (!sized(*next, shapes)) {  // once more with the memory of the others
      recent.clear();
      next->size(shapes);
    }
    recent.insert(recent.begin(), std::move(next));
    while (recent.size() > 1 && sum_of(&Sized::held_bytes) > most_bytes) recent.pop_back();
    return *recent.front();
  }
  bool sized(Sized& s, std::span<const Shape> shapes) const {
    try {
      s.size(shapes);
      return true;
    } catch (const OutOfMemory&) {
      if (recent.empty()) throw;
      return false;
    }
  }

  std::int64_t sum_of(std::int64_t (Sized::*bytes)() const noexcept) const noexcept {
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
  Sized& now = impl_->use(inputs);
  now.take_inputs(inputs);
  now.run();
  return now.outputs;
}

std::int64_t Session::arena_bytes() const noexcept { return impl_->sum_of(&Sized::arena_bytes); }
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
