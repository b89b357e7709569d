// A mask of the largest values among those that count: online hard example mining.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void topk_mask(const KernelArgs& args) {
  const View &vx = args.in[0], &vv = args.in[1], &vm = args.out[0];
  const T* x = typed<T>(vx);
  const bool* valid = typed<bool>(vv);
  T* mask = typed<T>(vm);
  std::int64_t* order = static_cast<std::int64_t*>(args.workspace);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < vx.size(0); ++i) {
    mask[i * vm.stride(0)] = T(0);
    if (valid[i * vv.stride(0)]) order[count++] = i;
  }
  if (count == 0) return;
  // NaN counts as the largest: a broken loss stays visible instead of being mined away.
  std::sort(order, order + count, [&](std::int64_t i, std::int64_t j) {
    const T a = x[i * vx.stride(0)], b = x[j * vx.stride(0)];
    if ((a != a) != (b != b)) return a != a;
    return a > b || (!(b > a) && i < j);
  });
  const auto wanted = convert<std::int64_t>(args.get<TopkParams>().keep * static_cast<double>(count));
  const std::int64_t k = std::clamp<std::int64_t>(wanted, 1, count);
  for (std::int64_t i = 0; i < k; ++i) mask[order[i] * vm.stride(0)] = T(1);
}

void run_topk_mask(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "topk_mask", [&](auto t) { topk_mask<decltype(t)>(args); });
}
std::int64_t order_bytes(const KernelArgs& args) { return args.in[0].numel() * static_cast<std::int64_t>(sizeof(std::int64_t)); }

}  // namespace

const KernelEntry topk_mask_entry = {run_topk_mask, nullptr, order_bytes};

}  // namespace mien::ref
