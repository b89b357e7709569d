// Negative log-likelihood of the target class, one value per row.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

// Weight of row n and its class; weight 0 for a row to ignore.
template <class T>
struct Row {
  std::int64_t target;
  T weight;
  bool counts;
};

template <class T>
Row<T> row_of(const KernelArgs& args, std::int64_t n, std::int64_t classes) {
  const View& vt = args.in[1];
  const std::int64_t target = typed<std::int64_t>(vt)[n * vt.stride(0)];
  if (target == args.get<NllParams>().ignore_index) return {0, T(0), false};
  if (target < 0 || target >= classes)
    throw ValueError("nll", "target " + std::to_string(target) + " of row " + std::to_string(n) + " is not a class of 0.." + std::to_string(classes - 1));
  const T weight = args.in.size() > 2 ? typed<T>(args.in[2])[target * args.in[2].stride(0)] : T(1);
  return {target, weight, true};
}

template <class T>
void nll(const KernelArgs& args) {
  const View &vx = args.in[0], &vl = args.out[0], &vw = args.out[1];
  for (std::int64_t n = 0; n < vx.size(0); ++n) {
    const auto row = row_of<T>(args, n, vx.size(1));
    typed<T>(vl)[n * vl.stride(0)] = row.counts ? -row.weight * typed<T>(vx)[n * vx.stride(0) + row.target * vx.stride(1)] : T(0);
    typed<T>(vw)[n * vw.stride(0)] = row.weight;
  }
}

template <class T>
void nll_backward(const KernelArgs& args) {
  const View &vg = args.in[0], &vgx = args.out[0];
  T* gx = typed<T>(vgx);
  iterate<1>(vgx.shape, {vgx.strides}, [&](const Offsets<1>& o) { gx[o[0]] = T(0); });
  for (std::int64_t n = 0; n < vgx.size(0); ++n) {
    const auto row = row_of<T>(args, n, vgx.size(1));
    if (row.counts) gx[n * vgx.stride(0) + row.target * vgx.stride(1)] = -row.weight * typed<T>(vg)[n * vg.stride(0)];
  }
}

void run_nll(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "nll", [&](auto t) { nll<decltype(t)>(args); });
}
void run_nll_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "nll_backward", [&](auto t) { nll_backward<decltype(t)>(args); });
}

}  // namespace

const KernelEntry nll_entry = {run_nll};
const KernelEntry nll_backward_entry = {run_nll_backward};

}  // namespace mien::ref
