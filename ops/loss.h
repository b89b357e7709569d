// Losses. Reductions: none gives one value per sample or element, mean and sum one value.
#pragma once

#include "mien/tensor/tensor.h"

namespace mien {

enum class Reduction : std::uint8_t { none, mean, sum };

struct CrossEntropyOptions {
  Reduction reduction = Reduction::mean;  // mean: weighted by the class weights, samples with ignore_index do not count
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  Tensor weight = {};                     // per class, may be undefined
};
// logits [N, C], target i64 [N].
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options = {});
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, const CrossEntropyOptions& options = {});
// Probabilities (logarithms clamped at -100) and targets in [0, 1], same shape.
Tensor binary_cross_entropy(const Tensor& probability, const Tensor& target, Reduction reduction = Reduction::mean);
Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& target, Reduction reduction = Reduction::mean, const Tensor& pos_weight = {});
Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, double beta = 1, Reduction reduction = Reduction::mean);
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::mean);
// Mean of per-sample losses [N] over the samples whose mask (bool [N]) is set; 0 when none is.
Tensor masked_mean(const Tensor& losses, const Tensor& mask);
// Online hard example mining (Zhang et al., MTCNN, 2016): mean over the `keep` share with the largest losses among the masked samples.
Tensor topk_mean(const Tensor& losses, const Tensor& mask, double keep);

}  // namespace mien
