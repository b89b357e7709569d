// Convolution, PReLU and max pooling as one op: the convolution goes into the workspace, activation and pooling are one kernel over it. Backward the gradient
// at the winners is spread over the map of the convolution, whose gradients follow.
#include "mien/kernels/cuda/compose.cuh"
#include "mien/kernels/cuda/lines.cuh"
#include "mien/kernels/cuda/places.cuh"

namespace mien::cuda {
namespace {

constexpr ConvParams plain{};

Shape map_shape(const View& x, const View& w) { return {x.size(0), w.size(0), x.size(2) - w.size(2) + 1, x.size(3) - w.size(3) + 1}; }

template <class T>
struct Activate {
  Image<T> map, y, raw;
  Image<std::uint8_t> index;
  const T* slope;
  std::int64_t step;  // 0: one slope for all
  int kh, kw, sh, sw;
  __device__ void operator()(const Place& p) const {
    using C = Compute<T>;
    const C a = load(slope[p.c * step]);
    C best = -static_cast<C>(INFINITY), seen = best;
    int winner = -1;
    for (int i = 0; i < kh; ++i) {
      const std::int64_t h = p.h * sh + i;
      if (h >= map.h) break;
      for (int j = 0; j < kw; ++j) {
        const std::int64_t w = p.w * sw + j;
        if (w >= map.w) break;
        const C s = load(map(p.n, p.c, h, w)), v = load(store<T>(s > C(0) ? s : a * s));
        if (winner < 0 || v > best || (v != v && best == best)) {
          best = v;
          seen = s;
          winner = i * kw + j;
        }
      }
    }
    y(p.n, p.c, p.h, p.w) = store<T>(best);
    raw(p.n, p.c, p.h, p.w) = store<T>(seen);
    index(p.n, p.c, p.h, p.w) = static_cast<std::uint8_t>(winner);
  }
};

struct Forward {
  View map;
  void* rest;
  std::int64_t bytes;
};
Forward forward_plan(const KernelArgs& args, void* workspace) {
  Workspace work(workspace);
  const Shape shape = map_shape(args.in[0], args.in[1]);
  std::int64_t count = 1;
  for (const auto s : shape) count *= s;
  Forward f;
  f.map = map_in(work.take(count * item_size(args.out[0].dtype)), args.in[0], shape);
  f.rest = work.take(0);
  f.bytes = work.bytes();
  return f;
}
void run(const KernelArgs& args) {
  const auto& q = args.get<ConvBlockParams>();
  const Forward f = forward_plan(args, args.workspace);
  run_best(mien_cuda_library.conv2d, conv2d_entry, with(args, args.in.first(3), {&f.map, 1}, &plain, f.rest));
  const View &y = args.out[0], &a = args.in[3];
  dispatch_floats(y.dtype, "conv_block", [&](auto t) {
    using T = typename decltype(t)::type;
    each_place(args, "conv_block", y,
               Activate<T>{Image<T>(f.map), Image<T>(y), Image<T>(args.out[1]), Image<std::uint8_t>(args.out[2]), a.ptr<T>(), a.size(0) == 1 ? 0 : a.stride(0),
                           static_cast<int>(q.kernel[0]), static_cast<int>(q.kernel[1]), static_cast<int>(q.stride[0]), static_cast<int>(q.stride[1])});
  });
}
const char* decline(const KernelArgs& args) {
  const Forward f = forward_plan(args, nullptr);
  return decline_best(mien_cuda_library.conv2d, conv2d_entry, with(args, args.in.first(3), {&f.map, 1}, &plain, nullptr));
}
std::int64_t workspace(const KernelArgs& args) {
  const Forward f = forward_plan(args, nullptr);
  return f.bytes + workspace_best(mien_cuda_library.conv2d, conv2d_entry, with(args, args.in.first(3), {&f.map, 1}, &plain, nullptr));
}

// --- backward ----------------------------------------------------------------------------------------------------------------
// What the map's element gets: of the windows that contain it, those whose winner it is.
template <class T>
struct Spread {
  Image<T> gy, raw, map;
  Image<std::uint8_t> index;
  const T* slope;
  std::int64_t step;
  int kh, kw, sh, sw;
  __device__ void operator()(const Place& p) const {
    const auto a = static_cast<double>(load(slope[p.c * step]));
    double sum = 0;
    for (int i = 0; i < kh; ++i) {
      const int h = static_cast<int>(p.h) - i, oh = h / sh;  // sides fit 32 bits, whose divisions are fast
      if (h < 0 || oh * sh != h || oh >= gy.h) continue;
      for (int j = 0; j < kw; ++j) {
        const int w = static_cast<int>(p.w) - j, ow = w / sw;
        if (w < 0 || ow * sw != w || ow >= gy.w) continue;
        if (index(p.n, p.c, oh, ow) != i * kw + j) continue;
        const double g = static_cast<double>(load(gy(p.n, p.c, oh, ow)));
        sum += static_cast<double>(load(raw(p.n, p.c, oh, ow))) > 0 ? g : a * g;
      }
    }
    map(p.n, p.c, p.h, p.w) = store<T>(static_cast<Compute<T>>(sum));
  }
};
// Gradients of bias and slope: sums over a channel of the winners.
template <class T>
struct LoadSums {
  const T *g, *raw, *slope;
  std::int64_t step;
  __device__ Sums<2> operator()(std::int64_t c, std::int64_t, const std::int64_t (&at)[2]) const {
    const double own = static_cast<double>(load(g[at[0]])), seen = static_cast<double>(load(raw[at[1]]));
    const bool high = seen > 0;
    return {{high ? own : own * static_cast<double>(load(slope[c * step])), high ? 0.0 : own * seen}};
  }
};
template <class T>
struct StoreSums {
  T* bias;
  std::int64_t step_b;
  T* slope;  // null: one slope for all, whose sum is made from `each`
  std::int64_t step_a;
  double* each;
  __device__ void operator()(std::int64_t c, const Sums<2>& s) const {
    bias[c * step_b] = store<T>(static_cast<Compute<T>>(s.v[0]));
    if (slope) slope[c * step_a] = store<T>(static_cast<Compute<T>>(s.v[1]));
    else each[c] = s.v[1];
  }
};
template <class T>
__global__ void one_slope_kernel(const double* each, std::int64_t count, T* slope) {  // one warp
  double sum = 0;
  for (std::int64_t c = threadIdx.x; c < count; c += 32) sum += each[c];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) *slope = store<T>(static_cast<Compute<T>>(sum));
}

struct Backward {
  View map;
  double* each;
  void* rest;
  std::int64_t bytes;
};
Backward backward_plan(const KernelArgs& args, void* workspace) {
  Workspace work(workspace);
  const Shape shape = map_shape(args.in[1], args.in[2]);
  std::int64_t count = 1;
  for (const auto s : shape) count *= s;
  Backward b;
  b.map = map_in(work.take(count * item_size(args.out[1].dtype)), args.in[1], shape);
  b.each = work.take<double>(shape[1]);
  b.rest = work.take(0);
  b.bytes = work.bytes();
  return b;
}
Lines<2> winner_lines(const KernelArgs& args) { return channel_lines<2>(args.in[0].shape, {args.in[0].strides, args.in[4].strides}); }

void run_backward(const KernelArgs& args) {
  const auto& q = args.get<ConvBlockParams>();
  const View &gy = args.in[0], &x = args.in[1], &w = args.in[2], &a = args.in[3], &raw = args.in[4];
  const Backward b = backward_plan(args, args.workspace);
  dispatch_floats(args.out[1].dtype, "conv_block_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    const std::int64_t step = a.size(0) == 1 ? 0 : a.stride(0);
    each_place(args, "conv_block_backward", b.map,
               Spread<T>{Image<T>(gy), Image<T>(raw), Image<T>(b.map), Image<std::uint8_t>(args.in[5]), a.ptr<T>(), step, static_cast<int>(q.kernel[0]),
                         static_cast<int>(q.kernel[1]), static_cast<int>(q.stride[0]), static_cast<int>(q.stride[1])});
    const View &gb = args.out[2], &ga = args.out[3];
    reduce_lines<Sums<2>, 2>(args, "conv_block_backward", winner_lines(args), b.rest, LoadSums<T>{gy.ptr<T>(), raw.ptr<T>(), a.ptr<T>(), step}, AddSums<2>{},
                             StoreSums<T>{gb.ptr<T>(), gb.stride(0), step || a.size(0) == gy.size(1) ? ga.ptr<T>() : nullptr, ga.stride(0), b.each});
    if (a.size(0) == 1 && gy.size(1) != 1) {
      one_slope_kernel<T><<<1, 32, 0, stream(args)>>>(b.each, gy.size(1), ga.ptr<T>());
      check_launch("conv_block_backward");
    }
  });
  const View input[] = {b.map, w}, weight[] = {b.map, x};
  run_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry, with(args, weight, args.out.subspan(1, 1), &plain, b.rest));
  if (q.input_gradient) run_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input, args.out.first(1), &plain, b.rest));
}
const char* decline_backward(const KernelArgs& args) {
  const Backward b = backward_plan(args, nullptr);
  const View input[] = {b.map, args.in[2]}, weight[] = {b.map, args.in[1]};
  const char* reason = decline_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry, with(args, weight, args.out.subspan(1, 1), &plain, nullptr));
  if (reason || !args.get<ConvBlockParams>().input_gradient) return reason;
  return decline_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input, args.out.first(1), &plain, nullptr));
}
std::int64_t workspace_backward(const KernelArgs& args) {
  const Backward b = backward_plan(args, nullptr);
  const View input[] = {b.map, args.in[2]}, weight[] = {b.map, args.in[1]};
  const bool wanted = args.get<ConvBlockParams>().input_gradient;  // else out[0] is no map
  return b.bytes +
         std::max(
             {workspace_best(mien_cuda_library.conv2d_grad_weight, conv2d_grad_weight_entry, with(args, weight, args.out.subspan(1, 1), &plain, nullptr)),
              wanted ? workspace_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, input, args.out.first(1), &plain, nullptr)) : 0,
              lines_workspace<Sums<2>>(winner_lines(args))});
}

}  // namespace

const KernelEntry conv_block_entry = {run, decline, workspace};
const KernelEntry conv_block_backward_entry = {run_backward, decline_backward, workspace_backward};

}  // namespace mien::cuda
