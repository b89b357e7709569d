// Convolution, bias, PReLU and max pooling, layer after layer, for all pictures at once: a product in tiles for each convolution, a kernel for each pooling,
// maps in the workspace as channels_last.
#include "mien/kernels/cuda/panel_conv.cuh"
#include "mien/kernels/cuda/places.cuh"

namespace mien::cuda {
namespace {

View channels_last_map(void* at, const View& like, const Shape& shape) { return {at, like.dtype, shape, channels_last_strides(shape), like.device}; }
Shape convolved(const Shape& x, const ChainLayer& l) { return {x[0], l.channels, x[2] - l.kernel + 1, x[3] - l.kernel + 1}; }
Shape pooled(const Shape& y, const ChainLayer& l) { return l.pool ? Shape{y[0], y[1], pooled_side(y[2], l.pool), pooled_side(y[3], l.pool)} : y; }
std::int64_t count(const Shape& s) { return s[0] * s[1] * s[2] * s[3]; }
// The product of a layer over `x`, as far as sizes go.
PanelOperands layer_operands(const View& x, const ChainLayer& l) {
  PanelOperands o;
  o.x = x;
  o.y = channels_last_map(nullptr, x, convolved(x.shape, l));
  o.kernel = {l.kernel, l.kernel};
  return o;
}

template <class T>
struct Pool {
  Image<T> x, y;
  int side;
  __device__ void operator()(const Place& p) const {
    T best = x(p.n, p.c, 2 * p.h, 2 * p.w);
    for (std::int64_t h = 2 * p.h; h < min(2 * p.h + side, x.h); ++h)
      for (std::int64_t w = 2 * p.w; w < min(2 * p.w + side, x.w); ++w) {
        const T v = x(p.n, p.c, h, w);
        best = best < v ? v : best;
      }
    y(p.n, p.c, p.h, p.w) = best;
  }
};

// f(layer, x, y, z): the maps before and after a convolution, and after its pooling (y itself without one). The last is the output's memory.
// Returns the bytes of workspace; `part` is where the products put their pieces.
template <class F>
std::int64_t walk(const KernelArgs& args, void* workspace, const F& f) {
  const auto& p = args.get<ConvChainParams>();
  std::int64_t largest = 0, part = 0;
  View now = args.in[0];
  for (int i = 0; i < p.layers; ++i) {
    const ChainLayer& l = p.layer[static_cast<std::size_t>(i)];
    const PanelOperands o = layer_operands(now, l);
    const Shape z = pooled(o.y.shape, l);
    largest = std::max({largest, count(o.y.shape), count(z)});
    part = std::max(part, panel_workspace(o));
    now = channels_last_map(nullptr, now, z);
  }
  const std::int64_t bytes = largest * item_size(args.out[0].dtype);
  Workspace work(workspace);
  void *a = work.take(bytes), *b = work.take(bytes), *pieces = work.take(part);
  if (!workspace) return work.bytes();
  View x = args.in[0];
  for (int i = 0; i < p.layers; ++i) {
    const ChainLayer& l = p.layer[static_cast<std::size_t>(i)];
    const Shape ys = convolved(x.shape, l), zs = pooled(ys, l);
    const bool last = i + 1 == p.layers;
    void* free = x.data == a ? b : a;
    const View y = last && !l.pool ? args.out[0] : channels_last_map(free, args.in[0], ys);
    const View z = !l.pool ? y : last ? args.out[0] : channels_last_map(free == a ? b : a, args.in[0], zs);
    f(i, x, y, z, pieces);
    x = z;
  }
  return work.bytes();
}

template <class T>
void chain(const KernelArgs& args) {
  const auto& p = args.get<ConvChainParams>();
  std::size_t operand = 1;
  walk(args, args.workspace, [&](int i, const View& x, const View& y, const View& z, void* pieces) {
    const ChainLayer& l = p.layer[static_cast<std::size_t>(i)];
    PanelOperands o;
    o.x = x;
    o.weight = args.in[operand];
    o.bias = args.in[operand + 1];
    if (l.prelu) o.slope = &args.in[operand + 2];
    o.y = y;
    o.kernel = {l.kernel, l.kernel};
    run_panel_conv<T>(args, "conv_chain", o, pieces);
    if (l.pool) each_place(args, "conv_chain", z, Pool<T>{Image<T>(y), Image<T>(z), l.pool});
    operand += l.prelu ? 3 : 2;
  });
}
void run(const KernelArgs& args) {
  if (args.out[0].numel() == 0) return;
  if (args.out[0].dtype == DType::f64) chain<double>(args);
  else chain<float>(args);
}
const char* decline(const KernelArgs& args) {
  for (const View& v : args.in)
    if (v.dtype != args.in[0].dtype || (v.dtype != DType::f32 && v.dtype != DType::f64)) return "16-bit maps";
  const auto& p = args.get<ConvChainParams>();
  View x = args.in[0];
  for (int i = 0; i < p.layers; ++i) {
    const PanelOperands o = layer_operands(x, p.layer[static_cast<std::size_t>(i)]);
    if (const char* reason = panel_too_large(o)) return reason;
    x = channels_last_map(nullptr, x, pooled(o.y.shape, p.layer[static_cast<std::size_t>(i)]));
  }
  return nullptr;
}
std::int64_t workspace(const KernelArgs& args) {
  return walk(args, nullptr, [](int, const View&, const View&, const View&, void*) {});
}

}  // namespace

const KernelEntry conv_chain_entry = {run, decline, workspace};

}  // namespace mien::cuda
