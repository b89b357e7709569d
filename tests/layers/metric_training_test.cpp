// The pieces together: P x K batches, mining or batch losses, and a small net that has to find the few directions in which people differ.
#include <numeric>

#include "mien/autograd/autograd.h"
#include "mien/data/loader.h"
#include "mien/data/sampler.h"
#include "mien/layers/layers.h"
#include "mien/layers/metric.h"
#include "mien/ops/binary.h"
#include "mien/ops/factory.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"
#include "mien/optim/optimizer.h"
#include "ops/values.h"

namespace mien::test {
namespace {

constexpr std::int64_t people = 12, pictures = 8, size = 24, rows = people * pictures;

// A person is a point in the first 4 of 24 dimensions; all others are noise of twice the size.
Tensor noisy_people(std::uint64_t seed) {
  Generator who(99), noise(seed);
  const Values centers = randn({people, 4}, {.generator = &who}).to_vector();
  const Tensor x = randn({rows, size}, {.generator = &noise});
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t d = 0; d < size; ++d) {
      float& v = x.at<float>({i, d});
      v = d < 4 ? static_cast<float>(centers[static_cast<std::size_t>(i / pictures * 4 + d)]) + .1f * v : 2 * v;
    }
  return x;
}

// How often a picture of the same person is nearer than one of another.
double ranked(const Tensor& embeddings) {
  const Values d = pairwise_squared_distances(embeddings).to_vector();
  double right = 0, all = 0;
  for (std::int64_t a = 0; a < rows; ++a)
    for (std::int64_t p = 0; p < rows; ++p)
      for (std::int64_t n = 0; n < rows; ++n)
        if (a != p && a / pictures == p / pictures && a / pictures != n / pictures) {
          ++all;
          right += d[static_cast<std::size_t>(a * rows + p)] < d[static_cast<std::size_t>(a * rows + n)];
        }
  return right / all;
}

// Share of triplets in order, on other pictures of the same people, before and after training.
std::pair<double, double> train(const std::function<Tensor(const Tensor& e, const Tensor& labels, std::uint64_t step)>& loss_of, Module* head = nullptr) {
  manual_seed(1);
  Linear net({.in = size, .out = 4, .bias = false});
  net.require_grad();
  const Tensor x = noisy_people(5), other = noisy_people(6);
  std::vector<std::int64_t> labels(rows);
  for (std::int64_t i = 0; i < rows; ++i) labels[static_cast<std::size_t>(i)] = i / pictures;
  const Tensor y = Tensor::from(labels, {rows});
  const PkSampler sampler(labels, {.people = 6, .pictures = 4, .batches = 10});
  Loader loader({.size = sampler.size(), .batch = sampler.batch(), .seed = 2, .sampler = sampler}, [&](std::span<const std::int64_t> r, std::uint64_t) {
    const NoGrad guard;
    Batch b{zeros({24, size}), Tensor::empty({24}, DType::i64)};
    const Tensor index = Tensor::from(r, {24});
    b[0] = index_select(x, index);
    for (std::int64_t i = 0; i < 24; ++i) b[1].at<std::int64_t>({i}) = y.at<std::int64_t>({r[static_cast<std::size_t>(i)]});
    return b;
  });
  Adam optimizer({.lr = .02});
  optimizer.add_group(net.parameters());
  if (head) {
    head->require_grad();
    std::vector<NamedTensor> own;
    for (const auto& p : head->parameters()) own.push_back({"head." + p.name, p.value});
    optimizer.add_group(own);
  }
  const auto quality = [&] {
    const NoGrad guard;
    return ranked(normalize(net(other)));
  };
  const double before = quality();
  std::uint64_t step = 0;
  for (std::uint64_t epoch = 0; epoch < 40; ++epoch) {
    loader.start(epoch);
    while (auto b = loader.next()) {
      const Tensor loss = loss_of(net((*b)[0]), (*b)[1], step++);
      if (!loss.defined()) continue;
      backward(loss);
      optimizer.step();
      optimizer.zero_grad();
    }
  }
  return {before, quality()};
}

}  // namespace

TEST_CASE("every loss of embeddings teaches a net to tell people apart", "[layers][metric][training]") {
  const auto learns = [](const char* name, std::pair<double, double> q) {
    INFO(name << ": " << q.first << " of the triplets in order before training, " << q.second << " after");
    CHECK(q.first < .75);
    CHECK(q.second > .93);
  };
  for (const MiningRule rule : {MiningRule::semi_hard, MiningRule::violating, MiningRule::hard})
    learns("mined triplets", train([rule](const Tensor& e, const Tensor& labels, std::uint64_t step) {
             const Tensor unit = normalize(e);
             const Triplets t = mine_triplets(pairwise_squared_distances(unit), labels, rule, {.seed = step});
             if (t.anchor.numel() == 0) return Tensor();
             return facenet_triplet_loss(index_select(unit, t.anchor), index_select(unit, t.positive), index_select(unit, t.negative));
           }));
  learns("batch all", train([](const Tensor& e, const Tensor& labels, std::uint64_t) { return batch_all_triplet_loss(normalize(e), labels, .2).loss; }));
  learns("batch hard", train([](const Tensor& e, const Tensor& labels, std::uint64_t) { return batch_hard_triplet_loss(normalize(e), labels, .2); }));
  for (const Margin m : {Margin::arcface(.3, 8), Margin::cosface(.1, 4), Margin::sphereface(1.5, 8)}) {  // small: 12 classes share a 4-d sphere, too narrow for the usual ones
    MarginHead head({.in = 4, .classes = people, .margin = m});
    learns("margin head", train([&](const Tensor& e, const Tensor& labels, std::uint64_t) { return cross_entropy(head(e, labels), labels); }, &head));
  }
  CenterLoss centers({.classes = people, .features = 4});
  Linear classify({.in = 4, .out = people});
  learns("softmax with center loss", train([&](const Tensor& e, const Tensor& labels, std::uint64_t) {
           return add(cross_entropy(classify(e), labels), affine(centers(e, labels), .1, 0));
         }, &classify));
}

}  // namespace mien::test
