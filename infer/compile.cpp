#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "mien/infer/passes_impl.h"
#include "mien/infer/plan_impl.h"
#include "mien/infer/trace_impl.h"
#include "mien/kernels/kernel.h"
#include "mien/ops/copy.h"

namespace mien::infer {
namespace {

bool verbose_plan() {
  const char* text = std::getenv("MIEN_VERBOSE");
  return text && std::strstr(text, "plan");
}

std::string list(std::span<const Shape> shapes, const Graph& g) {
  std::string text;
  for (std::size_t i = 0; i < shapes.size(); ++i) text += (i ? ", " : "") + std::string(name(g.value(g.inputs[i]).dtype)) + to_string(shapes[i]);
  return text;
}

// The weights that passes replaced.
void forget_unread(Graph& g) {
  std::vector<bool> read(g.values.size());
  for (const auto& n : g.nodes)
    for (const int v : n.in) read[static_cast<std::size_t>(v)] = true;
  for (std::size_t v = 0; v < read.size(); ++v)
    if (!read[v]) g.values[v].constant = Tensor();
}
// Copies the weights that the module still holds: training it further must not change the plan.
void own_constants(Graph& g) {
  for (Value& v : g.values)
    if (Tensor& t = v.constant; t.defined() && !g.device.is_cpu()) t = to(t, g.device);
    else if (t.defined() && t.storage().use_count() > 1) t = clone(t);
}

}  // namespace

std::shared_ptr<const Plan> compile(const Forward& forward, const std::vector<Tensor>& example, const Options& options) {
  if (options.dtype != DType::f32 && options.dtype != DType::bf16)
    throw DTypeError("compile", std::string("plans compute in f32 or bf16, got ") + name(options.dtype));
  if (options.dtype == DType::bf16 && !(options.fuse && options.layout)) throw ValueError("compile", "bf16 needs fuse and layout");
  auto impl = std::make_unique<Plan::Impl>();
  impl->options = options;
  for (const auto& t : example)
    if (!t.device().is_cpu()) throw DeviceError("compile", "the example is traced on the CPU, got " + describe(t) + " on " + to_string(t.device()), "Options::device says where the plan runs.");
  // Without tiles there is no fast product of bf16 maps.
  if (max_cpu_level() < Level::amx || !options.device.is_cpu()) impl->options.dtype = DType::f32;
  impl->graph = trace(forward, example);
  Graph& g = impl->graph;
  const bool show = options.dump || verbose_plan();
  if (show) std::fprintf(stderr, "mien plan: traced\n%s", dump(g).c_str());
  for (const Pass& pass : all_passes()) {
    const std::string before = show ? dump(g) : "";
    pass.run(g, impl->options);
    refresh(g);
    forget_unread(g);
    if (!show) continue;
    const std::string after = dump(g);
    std::fprintf(stderr, "mien plan: after %s%s\n%s", pass.name, before == after ? ": no change" : "", before == after ? "" : after.c_str());
  }
  g.device = options.device;
  own_constants(g);
  impl->by_image = by_image(g);
  const auto shapes = impl->shapes();
  if (impl->by_image && g.device.is_cpu()) impl->cut = choose_cut(g, *impl->size(with_batch(shapes, 1)));
  return std::make_shared<const Plan>(std::move(impl));
}

std::vector<Shape> Plan::Impl::shapes() const {
  std::vector<Shape> out;
  for (const int v : graph.inputs) out.push_back(graph.value(v).shape);
  return out;
}

void Plan::Impl::check_shapes(std::span<const Shape> inputs) const {
  const auto traced = shapes();
  bool fits = inputs.size() == traced.size();
  for (std::size_t i = 0; fits && i < traced.size(); ++i) {
    fits = inputs[i].rank() == traced[i].rank();
    for (int d = 0; fits && d < traced[i].rank(); ++d) fits = inputs[i][d] == traced[i][d] || (inputs[i][d] >= 0 && (d == 0 || options.any_size));
    if (fits && by_image) fits = inputs[i][0] == inputs[0][0];
  }
  if (!fits)
    throw ShapeError("infer",
                     "the plan was compiled for " + list(traced, graph) + (options.any_size ? " or other sizes" : " or other batches") + ", got " +
                         (inputs.size() == traced.size() ? list(inputs, graph) : std::to_string(inputs.size()) + " inputs"),
                     options.any_size ? "" : "Compile for this shape, or with .any_size = true.");
}

std::shared_ptr<const Sizes> Plan::Impl::size(std::span<const Shape> inputs) const {
  try {
    return std::make_shared<const Sizes>(size_graph(graph, inputs));
  } catch (const ShapeError& e) {
    throw ShapeError("infer", "the plan was compiled for " + list(shapes(), graph) + " and does not run on " + list(inputs, graph) + ": " + e.what());
  }
}

Plan::Plan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Plan::~Plan() = default;
std::string Plan::dump() const { return infer::dump(impl_->graph); }
std::vector<Shape> Plan::input_shapes() const { return impl_->shapes(); }
const Options& Plan::options() const noexcept { return impl_->options; }

namespace {
Program whole(const Plan::Impl& p) { return {p.graph, p.size(p.shapes()), 0, p.graph.node_count()}; }
}  // namespace

std::string Plan::svg() const { return infer::svg(impl_->graph, whole(*impl_)); }

Report Plan::report() const {
  const Program program = whole(*impl_);
  std::int64_t outputs = 0;
  for (const int root : program.externals()) {
    bool input = false;
    for (const int v : impl_->graph.inputs) input = input || v == root;
    if (!input) outputs += program.sizes().values[static_cast<std::size_t>(root)].bytes();
  }
  return {program.arena_bytes() + outputs, program.unplanned_bytes() + outputs, constant_bytes(impl_->graph), impl_->graph.node_count()};
}

std::string Report::text() const {
  const auto mb = [](std::int64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f MB", static_cast<double>(bytes) / 1e6);
    return std::string(text);
  };
  return "memory of one run " + mb(peak) + " (" + mb(unplanned) + " without sharing), weights " + mb(weights) + ", " + std::to_string(nodes) + " calls";
}

}  // namespace mien::infer
