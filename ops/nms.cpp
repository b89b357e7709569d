#include "mien/ops/nms.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

void infer(Inputs in, const void* params, Outputs& out) {
  check_same_dtype("nms", in);
  check_floating("nms", in[0]);
  if (in[0].rank() != 2 || in[0].size(1) != 4 || in[1].rank() != 1 || in[1].size(0) != in[0].size(0))
    throw ShapeError("nms", "expects boxes [K, 4] and scores [K], got " + describe_all(in));
  const double threshold = static_cast<const NmsParams*>(params)->threshold;
  if (!(threshold >= 0)) throw ValueError("nms", "expects a threshold >= 0, got " + std::to_string(threshold));
  out.push_back({{in[0].size(0)}, DType::i64, Layout::contiguous});
  out.push_back({{1}, DType::i64, Layout::contiguous});
}

}  // namespace

constinit const Op op_nms{.name = "nms", .infer = infer, .kernels = {&ref::nms_entry, &KernelTable::nms}};

Tensor nms(const Tensor& boxes, const Tensor& scores, double threshold, NmsMode mode, int offset) {
  const auto out = apply_all(op_nms, {boxes, scores}, NmsParams{threshold, mode, offset});
  return slice(out[0], 0, 0, out[1].item_int());
}

}  // namespace mien
