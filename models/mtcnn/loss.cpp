#include "mien/models/mtcnn/loss.h"

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"

namespace mien::mtcnn {
namespace {
Tensor scalar_label(const Tensor& labels, std::int64_t value) { return full({1}, static_cast<double>(value), {.dtype = labels.dtype(), .device = labels.device()}); }
Tensor squared_distance(const Tensor& a, const Tensor& b, const Tensor& mask) { return masked_mean(sum(square(sub(a, b)), {1}), mask); }
}  // namespace

Losses three_task_loss(const Tensor& logits, const Tensor& box, const Tensor& points, const Tensor& labels, const Tensor& box_target, const Tensor& point_target,
                       const LossWeights& weights) {
  const Tensor zero = scalar_label(labels, 0), one = scalar_label(labels, 1);
  const Tensor classified = greater_equal(labels, zero);
  const Tensor boxed = equal(mul(labels, labels), one);  // 1 and -1
  const Tensor each = cross_entropy(logits, maximum(labels, zero), {.reduction = Reduction::none});
  Losses out;
  out.cls = topk_mean(each, classified, weights.keep);
  out.box = squared_distance(box, box_target, boxed);
  out.total = add(affine(out.cls, weights.cls, 0), affine(out.box, weights.box, 0));
  if (points.defined()) {
    out.points = squared_distance(points, point_target, equal(labels, scalar_label(labels, -2)));
    out.total = add(out.total, affine(out.points, weights.points, 0));
  }
  return out;
}

}  // namespace mien::mtcnn
