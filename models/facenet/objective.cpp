#include "mien/models/facenet/objective.h"

#include <cmath>

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/binary.h"
#include "mien/ops/loss.h"
#include "mien/ops/margin.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"
#include "mien/ops/reduce.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"

namespace mien {
namespace {

Margin margin_of(const ObjectiveOptions& o) {
  if (o.people == PeopleLoss::arcface) return Margin::arcface(o.margin, o.scale);
  if (o.people == PeopleLoss::sphereface) return Margin::sphereface(o.margin, o.scale);
  return Margin::cosface(o.margin, o.scale);
}

double accuracy(const Tensor& logits, const Tensor& labels) {
  const Tensor best = to(argmax(logits.detach(), 1), Device::cpu()), wanted = to(labels, Device::cpu());
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < wanted.numel(); ++i) right += best.data<std::int64_t>()[i] == wanted.data<std::int64_t>()[i];
  return static_cast<double>(right) / static_cast<double>(std::max<std::int64_t>(labels.numel(), 1));
}

// Sum of two losses of which either may be missing.
Tensor plus(const Tensor& a, const Tensor& b) { return !a.defined() ? b : !b.defined() ? a : add(a, b); }

}  // namespace

EmbeddingObjective::EmbeddingObjective(const ObjectiveOptions& o) : options(o) {
  if (o.people == PeopleLoss::none && o.triplets == TripletRule::none) throw ValueError("EmbeddingObjective", "expects a loss over people, triplets, or both");
  if (o.center_weight > 0 && o.people == PeopleLoss::none) throw ValueError("EmbeddingObjective", "centers need a loss over people beside them");
  if (o.people == PeopleLoss::softmax) softmax_ = std::make_unique<Linear>(LinearOptions{.in = o.size, .out = o.classes});
  else if (o.people != PeopleLoss::none) margin_ = std::make_unique<MarginHead>(MarginHeadOptions{.in = o.size, .classes = o.classes, .margin = margin_of(o)});
  if (o.center_weight > 0) center_ = std::make_unique<CenterLoss>(CenterLossOptions{.classes = o.classes, .features = o.size});
}

EmbeddingObjective::Result EmbeddingObjective::operator()(const Tensor& embedding, const Tensor& labels, std::uint64_t seed) {
  Result r;
  r.parts.emplace_back("loss", 0);
  if (options.people != PeopleLoss::none) {
    const Tensor logits = softmax_ ? (*softmax_)(embedding) : (*margin_)(embedding);
    const Tensor loss = cross_entropy(margin_ ? margin_logits(logits, labels, margin_->options.margin) : logits, labels, {.label_smoothing = options.label_smoothing});
    r.total = loss;
    r.parts.emplace_back("people_loss", loss.item());
    r.parts.emplace_back("accuracy", accuracy(logits, labels));
  }
  if (center_) {
    const Tensor loss = (*center_)(embedding, labels);
    r.total = plus(r.total, affine(loss, options.center_weight, 0));
    r.parts.emplace_back("center_loss", loss.item());
  }
  if (options.triplets != TripletRule::none) {
    const Tensor e = normalize(embedding);
    Tensor loss;
    double share = 0;  // of the triplets (or pairs, or anchors) that still teach something
    if (options.triplets == TripletRule::batch_all) {
      const BatchAllLoss all = batch_all_triplet_loss(e, labels, options.alpha, true);
      loss = all.loss;
      share = all.fraction_positive;
    } else if (options.triplets == TripletRule::batch_hard) {
      loss = batch_hard_triplet_loss(e, labels, options.alpha, true);
      share = loss.item() > 0;
    } else {
      const MiningRule rule = options.triplets == TripletRule::semi_hard ? MiningRule::semi_hard : options.triplets == TripletRule::violating ? MiningRule::violating : MiningRule::hard;
      const Triplets t = mine_triplets(pairwise_squared_distances(e.detach()), labels, rule, {.alpha = options.alpha, .seed = seed});
      share = static_cast<double>(t.anchor.numel()) / static_cast<double>(std::max<std::int64_t>(labels.numel(), 1));
      const auto rows = [&](const Tensor& index) { return index_select(e, index); };
      if (t.anchor.numel() > 0) loss = facenet_triplet_loss(rows(t.anchor), rows(t.positive), rows(t.negative), options.alpha);
    }
    if (loss.defined()) r.total = plus(r.total, affine(loss, options.triplet_weight, 0));
    r.parts.emplace_back("triplet_loss", loss.defined() ? loss.item() : 0);
    r.parts.emplace_back("triplets", share);
  }
  if (r.total.defined()) r.parts[0].second = r.total.item();
  return r;
}

void EmbeddingObjective::visit(Visitor& v) {
  if (softmax_) v("softmax", *softmax_);
  if (margin_) v("margin", *margin_);
  if (center_) v("center", *center_);
}

}  // namespace mien
