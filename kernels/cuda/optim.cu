// One step of an optimizer, in place; the formulas stand in kernels/ref/optim.cpp. Computed in f64 for f64 and in f32 otherwise.
// sgd and adam also take many parameters at once: in g0, g1, ..., out p0, m0, (v0), p1, ... Dense ones are stepped a few dozen a launch.
#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {
namespace {

template <class C>
struct Sgd {
  C lr, momentum, undamped, decay;
  bool buffered, nesterov, first;
  __device__ void operator()(C g, C& value, C* state) const {
    C d = g + decay * value;
    if (buffered) {
      state[0] = first ? d : momentum * state[0] + undamped * d;
      d = nesterov ? d + momentum * state[0] : state[0];
    }
    value -= lr * d;
  }
};
template <class C>
struct Adam {
  C beta1, beta2, rest1, rest2, decay, keep, rate, root2,
      eps;  // rest = 1 - beta; keep: of the value under decoupled decay; rate, root2: with the bias corrections
  __device__ void operator()(C g, C& value, C* state) const {
    value *= keep;
    g += decay * value;
    state[0] = beta1 * state[0] + rest1 * g;
    state[1] = beta2 * state[1] + rest2 * g * g;
    value -= rate * state[0] / (sqrt(state[1]) / root2 + eps);
  }
};
template <class C>
struct Adagrad {
  C lr, eps, decay;
  __device__ void operator()(C g, C& value, C* state) const {
    g += decay * value;
    state[0] += g * g;
    value -= lr * g / (sqrt(state[0]) + eps);
  }
};

// One parameter with any strides.
template <class T, class S>
struct StepOne {
  S step;
  const T* g;
  T *p, *s0, *s1;
  template <class I>
  __device__ void operator()(const I (&o)[4]) const {
    using C = Compute<T>;
    C value = load(p[o[3]]), state[2] = {s0 ? load(s0[o[1]]) : C(0), s1 ? load(s1[o[2]]) : C(0)};
    step(load(g[o[0]]), value, state);
    p[o[3]] = store<T>(value);
    if (s0) s0[o[1]] = store<T>(state[0]);
    if (s1) s1[o[2]] = store<T>(state[1]);
  }
};

// Many dense ones: block b works on the piece of `piece` elements that the table of first blocks points it to.
constexpr int most = 48;
constexpr std::int64_t piece = 4096;
template <class T>
struct Many {
  const T* g[most];
  T *p[most], *s0[most], *s1[most];
  std::int64_t size[most];
  int first_block[most + 1];
  int count = 0;
};
template <class T, class S>
__global__ void __launch_bounds__(block_threads) step_many_kernel(const __grid_constant__ Many<T> many, S step) {
  int k = 0;
  while (k + 1 < many.count && static_cast<int>(blockIdx.x) >= many.first_block[k + 1]) ++k;
  const std::int64_t begin = static_cast<std::int64_t>(static_cast<int>(blockIdx.x) - many.first_block[k]) * piece;
  const std::int64_t end = begin + piece < many.size[k] ? begin + piece : many.size[k];
  using C = Compute<T>;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    C value = load(many.p[k][i]), state[2] = {many.s0[k] ? load(many.s0[k][i]) : C(0), many.s1[k] ? load(many.s1[k][i]) : C(0)};
    step(load(many.g[k][i]), value, state);
    many.p[k][i] = store<T>(value);
    if (many.s0[k]) many.s0[k][i] = store<T>(state[0]);
    if (many.s1[k]) many.s1[k][i] = store<T>(state[1]);
  }
}

// `stride`: outputs a parameter. `states`: how many of them are read and written besides the parameter.
template <class T, class S>
void run_steps(const KernelArgs& args, const char* what, const S& step, std::size_t stride, int states) {
  Many<T> many;
  int blocks = 0;
  const auto flush = [&] {
    if (blocks > 0) {
      step_many_kernel<T, S><<<static_cast<unsigned>(blocks), block_threads, 0, stream(args)>>>(many, step);
      check_launch(what);
    }
    many.count = blocks = 0;
  };
  for (std::size_t i = 0; i < args.in.size(); ++i) {
    const View &g = args.in[i], &p = args.out[i * stride];
    if (g.dtype != p.dtype) throw DTypeError(what, std::string("expects a gradient of the parameter's dtype, got ") + name(g.dtype) + " for " + name(p.dtype));
    if (p.numel() == 0) continue;
    const auto state = [&](int k) { return k < states ? &args.out[i * stride + 1 + static_cast<std::size_t>(k)] : nullptr; };
    const View *s0 = state(0), *s1 = state(1);
    const auto same = [&](const View* v) { return !v || (p.is_contiguous() ? v->is_contiguous() : v->is_channels_last()); };
    if ((p.is_contiguous() || p.is_channels_last()) && same(&g) && same(s0) && same(s1)) {
      const int k = many.count++;
      many.g[k] = g.ptr<T>();
      many.p[k] = p.ptr<T>();
      many.s0[k] = s0 ? s0->ptr<T>() : nullptr;
      many.s1[k] = s1 ? s1->ptr<T>() : nullptr;
      many.size[k] = p.numel();
      many.first_block[k] = blocks;
      blocks += static_cast<int>((p.numel() + piece - 1) / piece);
      if (many.count == most) flush();
      continue;
    }
    const Strides none = Shape::filled(p.rank(), 0);
    for_each<4>(args, what, p.shape, {g.strides, s0 ? s0->strides : none, s1 ? s1->strides : none, p.strides},
                StepOne<T, S>{step, g.ptr<T>(), p.ptr<T>(), s0 ? s0->ptr<T>() : nullptr, s1 ? s1->ptr<T>() : nullptr});
  }
  flush();
}

void run_sgd(const KernelArgs& args) {
  const auto& p = args.get<SgdParams>();
  const bool buffered = p.momentum != 0;
  dispatch_floats(args.out[0].dtype, "sgd", [&](auto t) {
    using T = typename decltype(t)::type;
    using C = Compute<T>;
    const auto c = [](double v) { return static_cast<C>(v); };
    run_steps<T>(args, "sgd", Sgd<C>{c(p.lr), c(p.momentum), c(1 - p.dampening), c(p.weight_decay), buffered, p.nesterov, p.first_step},
                 args.out.size() / args.in.size(), buffered ? 1 : 0);
  });
}
void run_adam(const KernelArgs& args) {
  const auto& p = args.get<AdamParams>();
  const double step = static_cast<double>(p.step), correction1 = 1 - std::pow(p.beta1, step), correction2 = 1 - std::pow(p.beta2, step);
  dispatch_floats(args.out[0].dtype, "adam", [&](auto t) {
    using T = typename decltype(t)::type;
    using C = Compute<T>;
    const auto c = [](double v) { return static_cast<C>(v); };
    run_steps<T>(args, "adam",
                 Adam<C>{c(p.beta1), c(p.beta2), c(1 - p.beta1), c(1 - p.beta2), c(p.decoupled ? 0 : p.weight_decay),
                         c(p.decoupled ? 1 - p.lr * p.weight_decay : 1), c(p.lr / correction1), c(std::sqrt(correction2)), c(p.eps)},
                 3, 2);
  });
}
void run_adagrad(const KernelArgs& args) {
  const auto& p = args.get<AdagradParams>();
  dispatch_floats(args.out[0].dtype, "adagrad", [&](auto t) {
    using T = typename decltype(t)::type;
    using C = Compute<T>;
    run_steps<T>(args, "adagrad", Adagrad<C>{static_cast<C>(p.lr), static_cast<C>(p.eps), static_cast<C>(p.weight_decay)}, 2, 1);
  });
}

}  // namespace

const KernelEntry sgd_entry = {run_sgd};
const KernelEntry adam_entry = {run_adam};
const KernelEntry adagrad_entry = {run_adagrad};

}  // namespace mien::cuda
