// Sums, largest and smallest values over dimensions; the place of the largest or smallest along one.
#include "mien/kernels/cuda/convert.cuh"
#include "mien/kernels/cuda/lines.cuh"

namespace mien::cuda {
namespace {

// Floating sums are made in f64, the others in wrapping 64-bit integers.
template <class T>
using SumOf = std::conditional_t<is_float<T>, double, std::uint64_t>;

template <class T>
struct LoadSum {
  const T* x;
  __device__ Sums<1, SumOf<T>> operator()(std::int64_t, std::int64_t, const std::int64_t (&at)[1]) const { return {{static_cast<SumOf<T>>(load(x[at[0]]))}}; }
};
template <class T, class Out>
struct StoreSum {
  Out* y;
  Walk<1, std::int64_t> to;
  __device__ void operator()(std::int64_t o, const Sums<1, SumOf<T>>& s) const {
    std::int64_t at[1];
    to.offsets(o, at);
    if constexpr (is_float<T>) y[at[0]] = convert<Out>(s.v[0]);
    else y[at[0]] = convert<Out>(static_cast<std::int64_t>(s.v[0]));
  }
};

// a beats b: larger (or smaller), and NaN beats all but NaN. Of equals the one with the lower place stays.
template <class C>
struct Best {
  C value;
  std::int64_t place;  // below 0: none yet
};
template <class C>
struct Better {
  bool max;
  __device__ Best<C> identity() const { return {C(0), -1}; }
  __device__ bool beats(C a, C b) const {
    if (a != a) return b == b;
    return max ? a > b : a < b;
  }
  __device__ Best<C> operator()(const Best<C>& a, const Best<C>& b) const {
    if (b.place < 0) return a;
    if (a.place < 0) return b;
    if (beats(a.value, b.value)) return a;
    if (beats(b.value, a.value)) return b;
    return a.place <= b.place ? a : b;
  }
};
template <class T>
struct LoadBest {
  const T* x;
  __device__ Best<Compute<T>> operator()(std::int64_t, std::int64_t i, const std::int64_t (&at)[1]) const { return {load(x[at[0]]), i}; }
};
template <class T>
struct StoreBest {
  T* y;
  Walk<1, std::int64_t> to;
  __device__ void operator()(std::int64_t o, const Best<Compute<T>>& b) const {
    std::int64_t at[1];
    to.offsets(o, at);
    y[at[0]] = store<T>(b.value);
  }
};
template <class C>
struct StorePlace {
  std::int64_t* y;
  Walk<1, std::int64_t> to;
  __device__ void operator()(std::int64_t o, const Best<C>& b) const {
    std::int64_t at[1];
    to.offsets(o, at);
    y[at[0]] = b.place < 0 ? 0 : b.place;
  }
};

Lines<1> lines_of(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  return make_lines<1>(x.shape, {x.strides}, [&](int d) { return y.size(d) == 1; });
}
Walk<1, std::int64_t> kept_places(const Lines<1>& l, const KernelArgs& args) {
  Strides s;
  for (int d = 0; d < args.out[0].rank(); ++d)
    if (args.out[0].size(d) != 1) s.push_back(args.out[0].stride(d));
  return make_walk<1, std::int64_t>(l.kept, {s});
}

void run_reduce(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  const auto kind = args.get<ReduceParams>().kind;
  if (y.dtype != x.dtype && (kind != ReduceKind::sum || y.dtype != DType::i64 || is_floating(x.dtype)))
    throw DTypeError("reduce", std::string("does not reduce ") + name(x.dtype) + " to " + name(y.dtype));
  const Lines<1> l = lines_of(args);
  if (kind != ReduceKind::sum && l.length() == 0 && y.numel() > 0)
    throw ShapeError("reduce", "max and min need at least one element, got " + to_string(x.shape));
  const auto to = kept_places(l, args);
  dispatch_every(x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (kind == ReduceKind::sum) {
      const auto into = [&](auto out) {
        using Out = typename decltype(out)::type;
        reduce_lines<Sums<1, SumOf<T>>, 1>(args, "reduce", l, args.workspace, LoadSum<T>{x.ptr<T>()}, AddSums<1, SumOf<T>>{},
                                           StoreSum<T, Out>{y.ptr<Out>(), to});
      };
      if (y.dtype == x.dtype) into(Type<T>{});
      else if constexpr (!is_float<T>) into(Type<std::int64_t>{});
      return;
    }
    using C = Compute<T>;
    reduce_lines<Best<C>, 1>(args, "reduce", l, args.workspace, LoadBest<T>{x.ptr<T>()}, Better<C>{kind == ReduceKind::max}, StoreBest<T>{y.ptr<T>(), to});
  });
}

Lines<1> arg_lines(const KernelArgs& args) {
  const View& x = args.in[0];
  const int dim = args.get<ArgReduceParams>().dim;
  return make_lines<1>(x.shape, {x.strides}, [&](int d) { return d == dim; });
}
void run_arg_reduce(const KernelArgs& args) {
  const auto& p = args.get<ArgReduceParams>();
  const View &x = args.in[0], &y = args.out[0];
  const Lines<1> l = arg_lines(args);
  if (l.length() == 0 && y.numel() > 0) throw ShapeError("arg_reduce", "argmax and argmin need at least one element, got " + to_string(x.shape));
  Strides s;
  for (int d = 0; d < y.rank(); ++d)
    if (y.rank() != x.rank() || d != p.dim) s.push_back(y.stride(d));
  const auto to = make_walk<1, std::int64_t>(l.kept, {s});
  dispatch_every(x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using C = Compute<T>;
    reduce_lines<Best<C>, 1>(args, "arg_reduce", l, args.workspace, LoadBest<T>{x.ptr<T>()}, Better<C>{p.max}, StorePlace<C>{y.ptr<std::int64_t>(), to});
  });
}

// As large as the largest accumulator, whatever the dtype.
std::int64_t reduce_workspace(const KernelArgs& args) { return lines_workspace<Best<double>>(lines_of(args)); }
std::int64_t arg_workspace(const KernelArgs& args) { return lines_workspace<Best<double>>(arg_lines(args)); }

}  // namespace

const KernelEntry reduce_entry = {run_reduce, nullptr, reduce_workspace};
const KernelEntry arg_reduce_entry = {run_arg_reduce, nullptr, arg_workspace};

}  // namespace mien::cuda
