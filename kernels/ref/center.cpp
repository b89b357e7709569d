// The step of class centers towards the features of a batch, in place (the formulas stand with CenterLoss in layers/metric.h).
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void center_update(const KernelArgs& args) {
  const auto& p = args.get<CenterParams>();
  const View &vf = args.in[0], &vl = args.in[1], &vc = args.out[0];
  const std::int64_t* labels = typed<std::int64_t>(vl);
  const std::int64_t n = vf.size(0);
  const auto label = [&](std::int64_t i) { return labels[i * vl.stride(0)]; };
  for (std::int64_t i = 0; i < n; ++i) {
    // The first row of a class moves its center, with all rows of the class: every difference is to the center before the step.
    std::int64_t rows = 0;
    bool first = true;
    for (std::int64_t j = 0; j < n; ++j) {
      if (label(j) != label(i)) continue;
      first = first && j >= i;
      ++rows;
    }
    if (!first) continue;
    const double rate = p.averaged ? p.rate / static_cast<double>(1 + rows) : p.rate;
    for (std::int64_t d = 0; d < vf.size(1); ++d) {
      T& center = typed<T>(vc)[label(i) * vc.stride(0) + d * vc.stride(1)];
      double sum = 0;
      for (std::int64_t j = i; j < n; ++j)
        if (label(j) == label(i)) sum += static_cast<double>(center) - static_cast<double>(typed<T>(vf)[j * vf.stride(0) + d * vf.stride(1)]);
      center = static_cast<T>(static_cast<double>(center) - rate * sum);
    }
  }
}

void run_center_update(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "center_update", [&](auto t) { center_update<decltype(t)>(args); });
}

}  // namespace

const KernelEntry center_update_entry = {run_center_update};

}  // namespace mien::ref
