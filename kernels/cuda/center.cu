// The step of class centers towards the features of a batch, in place. A thread is one value of one row; the first row of a class moves its center, with all
// rows of the class. Rows whose label is no class (index_select gives zeros for them) move nothing.
#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {
namespace {

template <class T>
struct Update {
  const T* f;
  const std::int64_t* labels;
  T* centers;
  std::int64_t rows, classes, step_n, step_d, step_label, center_n, center_d;
  double rate;
  bool averaged;
  template <class I>
  __device__ void operator()(const I (&o)[2]) const {
    const std::int64_t i = o[0], d = o[1], label = labels[i * step_label];
    if (label < 0 || label >= classes) return;
    for (std::int64_t j = 0; j < i; ++j)
      if (labels[j * step_label] == label) return;  // not the first
    T& center = centers[label * center_n + d * center_d];
    const double old = static_cast<double>(load(center));
    double sum = 0;
    std::int64_t members = 0;
    for (std::int64_t j = i; j < rows; ++j)
      if (labels[j * step_label] == label) {
        sum += old - static_cast<double>(load(f[j * step_n + d * step_d]));
        ++members;
      }
    center = store<T>(static_cast<Compute<T>>(old - (averaged ? rate / static_cast<double>(1 + members) : rate) * sum));
  }
};

void run_center_update(const KernelArgs& args) {
  const auto& p = args.get<CenterParams>();
  const View &f = args.in[0], &l = args.in[1], &c = args.out[0];
  dispatch_floats(c.dtype, "center_update", [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<2>(args, "center_update", f.shape, {Strides{1, 0}, Strides{0, 1}},
                Update<T>{f.ptr<T>(), l.ptr<std::int64_t>(), c.ptr<T>(), f.size(0), c.size(0), f.stride(0), f.stride(1), l.stride(0), c.stride(0), c.stride(1),
                          p.rate, p.averaged});
  });
}

}  // namespace

const KernelEntry center_update_entry = {run_center_update};

}  // namespace mien::cuda
