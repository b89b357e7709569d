// What a face-embedding net is trained towards: a softmax over the people (with or without a margin, with or without centers), triplets, or both.
// Sources: ops/margin.h, ops/metric_loss.h, layers/metric.h.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mien/layers/layers.h"
#include "mien/layers/metric.h"

namespace mien {

enum class PeopleLoss : std::uint8_t { none, softmax, arcface, cosface, sphereface };
enum class TripletRule : std::uint8_t { none, batch_all, batch_hard, semi_hard, violating, hard };

struct ObjectiveOptions {
  std::int64_t size = 0, classes = 0;  // of an embedding; people
  PeopleLoss people = PeopleLoss::cosface;
  double scale = 32, margin = .2;      // of the margin heads; the margin is m3 of CosFace, m2 of ArcFace, m1 of SphereFace
  double label_smoothing = 0;
  double center_weight = 0;            // of the center loss beside the softmax; 0: none
  TripletRule triplets = TripletRule::none;
  double triplet_weight = 1, alpha = .2;  // squared distances of normalised embeddings
};

class EmbeddingObjective : public Module {
 public:
  explicit EmbeddingObjective(const ObjectiveOptions& options);  // ValueError: neither people nor triplets; a head without classes
  struct Result {
    Tensor total;                                          // undefined when there is nothing to learn from (no triplet found)
    std::vector<std::pair<std::string, double>> parts;     // always the same names in the same order: loss, ...
  };
  // embedding [N, size] as the net gives it, labels i64 [N]. `seed` chooses among eligible triplets. Not const: centers move in training mode.
  Result operator()(const Tensor& embedding, const Tensor& labels, std::uint64_t seed);
  void visit(Visitor& v) override;
  const ObjectiveOptions options;

 private:
  std::unique_ptr<Linear> softmax_;
  std::unique_ptr<MarginHead> margin_;
  std::unique_ptr<CenterLoss> center_;
};

}  // namespace mien
