// Layers of face-embedding training: normalisation, class centers, and softmax heads with a margin.
#pragma once

#include "mien/layers/module.h"
#include "mien/ops/margin.h"

namespace mien {

struct NormalizeOptions {
  int p = 2;  // 1 or 2
  std::int64_t dim = 1;
  double eps = 1e-12;
};
class Normalize : public Module {  // ops/normalize.h
 public:
  explicit Normalize(const NormalizeOptions& o = {}) : options(o) {}
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor&) override {}
  std::string label() const override;
  const NormalizeOptions options;
};

// Pulls every feature towards the center of its class (Wen et al., ECCV 2016): loss = mean((f - c)^2) over all N * D values, as David Sandberg's facenet
// has it, added to a softmax loss with a small factor. No gradient flows to the centers: in training mode each call moves them after the loss was taken, by
//   facenet:  c -= (1 - alfa) * sum over the batch's rows of the class (c - f)             the default; alfa .95
//   averaged: c -= (1 - alfa) * sum(c - f) / (1 + number of those rows)                    the paper's; there 1 - alfa = .5
// Two rows of one class move facenet's center twice as far: with many rows a class, (1 - alfa) * rows must stay below 1.
enum class CenterRule : std::uint8_t { facenet, averaged };
struct CenterLossOptions {
  std::int64_t classes = 0, features = 0;
  double alfa = .95;
  CenterRule rule = CenterRule::facenet;
};
class CenterLoss : public Module {
 public:
  explicit CenterLoss(const CenterLossOptions& options);  // ValueError: classes, features < 1, alfa outside [0, 1]
  // features [N, D], labels i64 [N] -> one value. Not const: training moves the centers.
  Tensor operator()(const Tensor& features, const Tensor& labels);
  void visit(Visitor& v) override;
  std::string label() const override;
  const CenterLossOptions options;
  Tensor centers;  // [classes, D], from 0
};

// The last layer of a margin softmax (ops/margin.h): a weight for each class, embeddings and weights normalised. With a target the logits for
// cross_entropy, without one scale * cosine.
//
//   MarginHead head({.in = 512, .classes = 10575, .margin = Margin::arcface()});
//   loss = cross_entropy(head(net.forward(x), labels), labels);
struct MarginHeadOptions {
  std::int64_t in = 0, classes = 0;
  Margin margin = Margin::arcface();
};
class MarginHead : public Module {
 public:
  explicit MarginHead(const MarginHeadOptions& options);  // ValueError: in, classes < 1
  Tensor operator()(const Tensor& embedding) const;                        // [N, in] -> [N, classes]
  Tensor operator()(const Tensor& embedding, const Tensor& target) const;  // target i64 [N]
  void visit(Visitor& v) override;
  std::string label() const override;
  const MarginHeadOptions options;
  Tensor weight;  // [classes, in], from a normal distribution of width .01
};

}  // namespace mien
