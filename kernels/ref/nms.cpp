// Greedy non-maximum suppression. A box goes when its overlap with a kept, better one is greater than the threshold (torchvision's rule).
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

template <class T>
T area(const Box<T>& b, T offset) {
  return (b.x2 - b.x1 + offset) * (b.y2 - b.y1 + offset);
}

template <class T>
T overlap(const Box<T>& a, const Box<T>& b, const NmsParams& p) {
  const T offset = static_cast<T>(p.offset);
  const T w = std::max(T(0), std::min(a.x2, b.x2) - std::max(a.x1, b.x1) + offset);
  const T h = std::max(T(0), std::min(a.y2, b.y2) - std::max(a.y1, b.y1) + offset);
  const T common = w * h, area_a = area(a, offset), area_b = area(b, offset);
  return common / (p.mode == NmsMode::min ? std::min(area_a, area_b) : area_a + area_b - common);
}

template <class T>
void nms(const KernelArgs& args) {
  const auto& p = args.get<NmsParams>();
  const View &vb = args.in[0], &vs = args.in[1], &vk = args.out[0];
  const T *boxes = typed<T>(vb), *scores = typed<T>(vs);
  std::int64_t* kept = typed<std::int64_t>(vk);
  const std::int64_t n = vs.size(0);
  const auto box = [&](std::int64_t i) {
    const T* b = boxes + i * vb.stride(0);
    return Box<T>{b[0], b[vb.stride(1)], b[2 * vb.stride(1)], b[3 * vb.stride(1)]};
  };
  std::int64_t* order = static_cast<std::int64_t*>(args.workspace);
  for (std::int64_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order, order + n, [&](std::int64_t i, std::int64_t j) {  // NaN scores last
    const T a = scores[i * vs.stride(0)], b = scores[j * vs.stride(0)];
    if ((a != a) != (b != b)) return b != b;
    return a > b || (!(b > a) && i < j);
  });
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    bool keep = true;
    for (std::int64_t j = 0; j < count && keep; ++j)
      keep = !(static_cast<double>(overlap(box(kept[j * vk.stride(0)]), box(order[i]), p)) > p.threshold);
    if (keep) kept[count++ * vk.stride(0)] = order[i];
  }
  for (std::int64_t i = count; i < n; ++i) kept[i * vk.stride(0)] = -1;
  *typed<std::int64_t>(args.out[1]) = count;
}

void run_nms(const KernelArgs& args) {
  dispatch_float(args.in[0].dtype, "nms", [&](auto t) { nms<decltype(t)>(args); });
}
std::int64_t order_bytes(const KernelArgs& args) { return args.in[1].numel() * static_cast<std::int64_t>(sizeof(std::int64_t)); }

}  // namespace

const KernelEntry nms_entry = {run_nms, nullptr, order_bytes};

}  // namespace mien::ref
