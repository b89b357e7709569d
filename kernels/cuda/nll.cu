// Negative log-likelihood of the target class, one value a row. A target that is no class gives NaN, backward in its whole row: a kernel can't throw.
#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {
namespace {

template <class T>
struct Row {
  const std::int64_t* target;
  std::int64_t step;
  const T* weight;  // of the classes; null: 1
  std::int64_t weight_step, classes, ignored;
  __device__ bool is_class(std::int64_t t) const { return t >= 0 && t < classes; }
  __device__ bool counts(std::int64_t n, std::int64_t& t, Compute<T>& w) const {
    t = target[n * step];
    if (t == ignored) return false;
    if (!is_class(t)) w = static_cast<Compute<T>>(NAN);
    else w = weight ? load(weight[t * weight_step]) : Compute<T>(1);
    return true;
  }
};
template <class T>
Row<T> row_of(const KernelArgs& args, std::int64_t classes) {
  const bool weighted = args.in.size() > 2;
  return {args.in[1].ptr<std::int64_t>(),    args.in[1].stride(0), weighted ? args.in[2].ptr<T>() : nullptr, weighted ? args.in[2].stride(0) : 0, classes,
          args.get<NllParams>().ignore_index};
}

template <class T>
struct Nll {
  Row<T> row;
  const T* x;
  std::int64_t step_n, step_c;
  T *loss, *weight;
  template <class I>
  __device__ void operator()(const I (&o)[3]) const {
    const std::int64_t n = o[0];
    std::int64_t t;
    Compute<T> w = 0, value = 0;
    if (row.counts(n, t, w)) value = row.is_class(t) ? -w * load(x[n * step_n + t * step_c]) : w;
    loss[o[1]] = store<T>(value);
    weight[o[2]] = store<T>(w);
  }
};
template <class T>
struct NllBackward {
  Row<T> row;
  const T* g;
  std::int64_t step;
  T* gx;
  template <class I>
  __device__ void operator()(const I (&o)[3]) const {
    std::int64_t t;
    Compute<T> w = 0, value = 0;
    if (row.counts(o[0], t, w) && (t == static_cast<std::int64_t>(o[1]) || !row.is_class(t))) value = -w * load(g[o[0] * step]);
    gx[o[2]] = store<T>(value);
  }
};

void run_nll(const KernelArgs& args) {
  const View &x = args.in[0], &loss = args.out[0], &weight = args.out[1];
  dispatch_floats(x.dtype, "nll", [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<3>(args, "nll", loss.shape, {Strides{1}, loss.strides, weight.strides},
                Nll<T>{row_of<T>(args, x.size(1)), x.ptr<T>(), x.stride(0), x.stride(1), loss.ptr<T>(), weight.ptr<T>()});
  });
}
void run_nll_backward(const KernelArgs& args) {
  const View &g = args.in[0], &gx = args.out[0];
  dispatch_floats(gx.dtype, "nll_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<3>(args, "nll_backward", gx.shape, {Strides{1, 0}, Strides{0, 1}, gx.strides},
                NllBackward<T>{row_of<T>(args, gx.size(1)), g.ptr<T>(), g.stride(0), gx.ptr<T>()});
  });
}

}  // namespace

const KernelEntry nll_entry = {run_nll};
const KernelEntry nll_backward_entry = {run_nll_backward};

}  // namespace mien::cuda
