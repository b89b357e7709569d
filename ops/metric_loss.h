// Losses that pull embeddings of one person together and push those of different people apart, and the choice of triplets.
//
// Which means count zeros: facenet_triplet_loss, triplet_margin_loss and batch_hard_triplet_loss divide by the number of all triplets (or anchors),
// those whose loss is 0 included; batch_all_triplet_loss divides by the number of active triplets (loss > 0) alone. A mean over no triplet at all is
// NaN, as PyTorch's: leave the step out when mining found none.
//
//   const Tensor e = normalize(net.forward(x));                                                    // [N, D]
//   const Triplets t = mine_triplets(pairwise_squared_distances(e), labels, MiningRule::semi_hard, {.seed = step});
//   const Tensor loss = facenet_triplet_loss(index_select(e, t.anchor), index_select(e, t.positive), index_select(e, t.negative));
#pragma once

#include "mien/ops/loss.h"
#include "mien/tensor/tensor.h"

namespace mien {

// --- triplets that are given: anchor, positive, negative [..., D], one shape (ShapeError); distances along the last dimension ---------------------

// PyTorch's: max(d(a, p) - d(a, n) + margin, 0) with d(x, y) = ||x - y + eps||_p. swap: d(a, n) becomes the smaller of d(a, n) and d(p, n).
struct TripletMarginOptions {
  double margin = 1, p = 2, eps = 1e-6;
  bool swap = false;
  Reduction reduction = Reduction::mean;
};
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, const TripletMarginOptions& options = {});
// FaceNet's (Schroff et al., CVPR 2015): max(||a - p||^2 - ||a - n||^2 + alpha, 0), squared distances, usually of embeddings of length 1.
Tensor facenet_triplet_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, double alpha = .2, Reduction reduction = Reduction::mean);

// --- pairs ----------------------------------------------------------------------------------------------------------------------------------------

// Hadsell et al., CVPR 2006: y d^2 / 2 + (1 - y) max(margin - d, 0)^2 / 2, d = ||a - b||, y = 1 where `same` (bool [N]) is set. a, b [N, D].
Tensor contrastive_loss(const Tensor& a, const Tensor& b, const Tensor& same, double margin = 1, Reduction reduction = Reduction::mean);
// PyTorch's: 1 - cos(a, b) where target is 1, max(cos(a, b) - margin, 0) where it is -1. a, b [N, D], target i64 [N] of 1 and -1 (ValueError).
Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target, double margin = 0, Reduction reduction = Reduction::mean);

// --- all pairs and triplets of a batch --------------------------------------------------------------------------------------------------------------

// x [N, D] -> ||x_i - x_j||^2, [N, N]. Never negative, the diagonal is exactly 0, rows with equal bits have distance exactly 0.
Tensor pairwise_squared_distances(const Tensor& x);
Tensor pairwise_distances(const Tensor& x);  // its root; derivative 0 where the distance is 0

// The two losses of the well-known TensorFlow triplet tutorial (Moindrot, 2018; Hermans et al., "In defense of the triplet loss", 2017).
// embeddings [N, D], labels i64 [N]. Memory N^2, not N^3.
struct BatchAllLoss {
  Tensor loss;                   // sum of the positive terms / (their number + 1e-16); 0 when there is none
  double fraction_positive = 0;  // their number / (number of triplets + 1e-16)
};
// All triplets with i != j != k, labels i = j != k.
BatchAllLoss batch_all_triplet_loss(const Tensor& embeddings, const Tensor& labels, double margin, bool squared = false);
// Farthest positive and nearest negative of each anchor; mean over all N anchors. As there, an anchor without a positive counts with d(a, p) = 0, and one
// without a negative with d(a, n) = its largest distance.
Tensor batch_hard_triplet_loss(const Tensor& embeddings, const Tensor& labels, double margin, bool squared = false);

// --- mining ---------------------------------------------------------------------------------------------------------------------------------------

// Which negative an anchor-positive pair gets. d: the given distances, squared or not (FaceNet's are squared).
enum class MiningRule : std::uint8_t {
  semi_hard,  // a random one with d(a, p) < d(a, n) < d(a, p) + alpha (the FaceNet paper)
  violating,  // a random one with d(a, n) < d(a, p) + alpha (the rule of VGG-Face and of David Sandberg's facenet)
  hard,       // the nearest one, whatever the margin; the lower index on ties
};
struct MiningOptions {
  double alpha = .2;
  std::uint64_t seed = 0;  // the same seed, the same choice; give every step its own
};
struct Triplets {
  Tensor anchor, positive, negative;  // i64 [T], rows of the batch; T may be 0
};
// distances [N, N], labels i64 [N]. Every ordered pair (a, p) of two rows of one label is tried, in row order (facenet's script takes each pair once, the
// earlier row as anchor); pairs without an eligible negative give no triplet. No gradient flows through the choice.
Triplets mine_triplets(const Tensor& distances, const Tensor& labels, MiningRule rule, const MiningOptions& options = {});

}  // namespace mien
