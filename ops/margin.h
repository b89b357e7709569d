// Softmax with a margin: logits whose target entry is made harder, so that classes stand apart by an angle.
//   SphereFace: Liu et al., CVPR 2017. CosFace: Wang et al., CVPR 2018. ArcFace: Deng et al., CVPR 2019.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

// With theta the angle between an embedding and the weight of its own class, the target logit is
//
//   scale * (cos(m1 * theta + m2) - m3)            all other logits are scale * cos(angle)
//
// While m1 * theta + m2 <= pi. Beyond, where the cosine would rise again, it goes on falling:
//   m1 = 1: cos(theta) - m2 * sin(m2) - m3         InsightFace's rule (sin(pi - m2) = sin(m2)); not continuous, as there
//   m1 > 1: (-1)^k cos(a) - 2 k - m3, a = m1 * theta + m2, k = floor(a / pi)       SphereFace's psi
struct Margin {
  double scale = 64, m1 = 1, m2 = 0, m3 = 0;
  static constexpr Margin arcface(double m = .5, double scale = 64) { return {scale, 1, m, 0}; }
  static constexpr Margin cosface(double m = .35, double scale = 64) { return {scale, 1, 0, m}; }
  static constexpr Margin sphereface(double m = 4, double scale = 64) { return {scale, m, 0, 0}; }  // embeddings normalised, unlike the paper's
};

// logits [N, C] = scale * cosine, target i64 [N] -> [N, C]. Touches the N target entries only (and copies the rest once).
// The derivative stays finite where |cosine| = 1. ValueError: scale <= 0, m1 < 1, m2 outside [0, pi), m3 < 0, or a target that is no class.
Tensor margin_logits(const Tensor& logits, const Tensor& target, const Margin& margin);

}  // namespace mien
