// Reductions: each output element walks its part of the input in logical order.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// Floating sums are made in double; integers and bools in int64 (wrapping), so the sum of a bool tensor counts.
template <class T>
auto sum_of(const Shape& part, const Strides& strides, const T* x) {
  if constexpr (std::is_floating_point_v<T>) {
    double sum = 0;
    iterate<1>(part, {strides}, [&](const Offsets<1>& o) { sum += static_cast<double>(x[o[0]]); });
    return sum;
  } else {
    std::uint64_t sum = 0;
    iterate<1>(part, {strides}, [&](const Offsets<1>& o) { sum += static_cast<std::uint64_t>(x[o[0]]); });
    return static_cast<std::int64_t>(sum);
  }
}

// a beats b: larger (or smaller), and NaN beats all but NaN. Equal values do not beat each other, so the first stays.
template <class T>
bool beats(bool max, T a, T b) {
  if (a != a) return b == b;
  return max ? a > b : a < b;
}

template <class T>
void reduce(const KernelArgs& args) {
  const View &vx = args.in[0], &vy = args.out[0];
  const auto kind = args.get<ReduceParams>().kind;
  Shape part = vx.shape;
  for (int d = 0; d < part.rank(); ++d)
    if (vy.size(d) != 1) part[d] = 1;
  if (kind != ReduceKind::sum && numel(part) == 0 && vy.numel() > 0)
    throw ShapeError("reduce", "max and min need at least one element, got " + to_string(vx.shape));
  const T* x = typed<T>(vx);
  dispatch_compute(vy.dtype, "reduce", [&](auto t) {
    using Out = decltype(t);
    Out* y = vy.ptr<Out>();
    Strides steps = vx.strides;  // along the kept dims
    iterate<2>(vy.shape, {steps, vy.strides}, [&](const Offsets<2>& o) {
      const T* first = x + o[0];
      if (kind == ReduceKind::sum) {
        y[o[1]] = convert<Out>(sum_of(part, vx.strides, first));
      } else {
        T best = *first;
        iterate<1>(part, {vx.strides}, [&](const Offsets<1>& i) {
          if (beats(kind == ReduceKind::max, first[i[0]], best)) best = first[i[0]];
        });
        y[o[1]] = convert<Out>(best);
      }
    });
  });
}

template <class T>
void arg_reduce(const KernelArgs& args) {
  const auto& p = args.get<ArgReduceParams>();
  const View &vx = args.in[0], &vy = args.out[0];
  const T* x = typed<T>(vx);
  std::int64_t* y = typed<std::int64_t>(vy);
  const std::int64_t size = vx.size(p.dim), step = vx.stride(p.dim);
  if (size == 0 && vy.numel() > 0) throw ShapeError("arg_reduce", "argmax and argmin need at least one element, got " + to_string(vx.shape));
  // The result has the dimension as 1, or does not have it.
  const Strides out = vy.rank() == vx.rank() ? without(vy.strides, p.dim) : vy.strides;
  iterate<2>(without(vx.shape, p.dim), {without(vx.strides, p.dim), out}, [&](const Offsets<2>& o) {
    const T* line = x + o[0];
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < size; ++i)
      if (beats(p.max, line[i * step], line[best * step])) best = i;
    y[o[1]] = best;
  });
}

void run_reduce(const KernelArgs& args) {
  dispatch_compute(args.in[0].dtype, "reduce", [&](auto t) { reduce<decltype(t)>(args); });
}
void run_arg_reduce(const KernelArgs& args) {
  dispatch_compute(args.in[0].dtype, "arg_reduce", [&](auto t) { arg_reduce<decltype(t)>(args); });
}

}  // namespace

const KernelEntry reduce_entry = {run_reduce};
const KernelEntry arg_reduce_entry = {run_arg_reduce};

}  // namespace mien::ref
