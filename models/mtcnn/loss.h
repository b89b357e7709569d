// The three-task loss of MTCNN training (Zhang et al., 2016): class by cross-entropy with online hard mining, box and landmarks by squared distance.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien::mtcnn {

struct LossWeights {
  double cls = 1, box = .5, points = .5;  // the paper: .5 for the landmarks in P and R, 1 in O
  double keep = .7;                       // share of the class losses that is kept, hardest first
};
struct Losses {
  Tensor total, cls, box, points;  // scalars; points undefined without landmarks
};
// logits [N,2] (non-face, face), box [N,4], points [N,10] (may be undefined), labels i64 [N] of samples.h (1, 0, -1 part, -2 landmark) and the targets.
// class: labels 0 and 1; box: 1 and -1, sum over the 4 sides, mean over the samples; points: -2, sum over the 10, mean over the samples.
Losses three_task_loss(const Tensor& logits, const Tensor& box, const Tensor& points, const Tensor& labels, const Tensor& box_target, const Tensor& point_target,
                       const LossWeights& weights = {});

}  // namespace mien::mtcnn
