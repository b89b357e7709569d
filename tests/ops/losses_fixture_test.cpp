// The losses of face-embedding training against plain loops and PyTorch (tools/oracle_losses.py): values, gradients, and which triplets the miner may choose.
#include <algorithm>
#include <array>
#include <set>

#include "fixture_cases.h"
#include "mien/layers/metric.h"
#include "mien/ops/margin.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"
#include "mien/ops/shape.h"

namespace mien::test {
namespace {

using In = const std::vector<Tensor>&;

std::map<std::string, Call> calls() {
  std::map<std::string, Call> c;
  c["normalize"] = [](In in, const json& p) { return std::vector{normalize(in[0], p["p"].get<int>(), p["dim"].get<std::int64_t>())}; };
  c["triplet_margin"] = [](In in, const json& p) {
    return std::vector{triplet_margin_loss(in[0], in[1], in[2], {.margin = p["margin"].get<double>(), .p = p["p"].get<double>(), .swap = p["swap"].get<bool>(), .reduction = reduction(p)})};
  };
  c["facenet_triplet"] = [](In in, const json& p) { return std::vector{facenet_triplet_loss(in[0], in[1], in[2], p["alpha"].get<double>(), reduction(p))}; };
  c["cosine_embedding"] = [](In in, const json& p) { return std::vector{cosine_embedding_loss(in[0], in[1], in[2], p["margin"].get<double>(), reduction(p))}; };
  c["contrastive"] = [](In in, const json& p) { return std::vector{contrastive_loss(in[0], in[1], in[2], p["margin"].get<double>(), reduction(p))}; };
  c["pairwise"] = [](In in, const json& p) { return std::vector{p["squared"].get<bool>() ? pairwise_squared_distances(in[0]) : pairwise_distances(in[0])}; };
  c["batch_all"] = [](In in, const json& p) {
    const auto r = batch_all_triplet_loss(in[0], in[1], p["margin"].get<double>(), p["squared"].get<bool>());
    return std::vector{r.loss, Tensor::scalar(r.fraction_positive)};
  };
  c["batch_hard"] = [](In in, const json& p) { return std::vector{batch_hard_triplet_loss(in[0], in[1], p["margin"].get<double>(), p["squared"].get<bool>())}; };
  c["center"] = [](In in, const json& p) {
    CenterLoss layer({.classes = 5, .features = 3, .alfa = p["alfa"].get<double>(), .rule = p["rule"] == "averaged" ? CenterRule::averaged : CenterRule::facenet});
    layer.to(in[0].dtype());
    copy_into(layer.centers, in[2]);
    const Tensor loss = layer(in[0], in[1]);
    return std::vector{loss, layer.centers};
  };
  c["margin_head"] = [](In in, const json& p) {
    MarginHead head({.in = 4, .classes = 5, .margin = {p["s"].get<double>(), p["m1"].get<double>(), p["m2"].get<double>(), p["m3"].get<double>()}});
    head.weight = in[1];
    return std::vector{head(in[0], in[2])};
  };
  return c;
}

using Triplet = std::array<std::int64_t, 3>;
std::vector<Triplet> rows_of(const Triplets& t) {
  std::vector<Triplet> out;
  for (std::int64_t i = 0; i < t.anchor.numel(); ++i) out.push_back({t.anchor.at<std::int64_t>({i}), t.positive.at<std::int64_t>({i}), t.negative.at<std::int64_t>({i})});
  return out;
}

}  // namespace

TEST_CASE("losses of embeddings equal plain loops and PyTorch's", "[ops][fixture][metric]") { CHECK(run_cases("losses.safetensors", calls()) >= 130); }

TEST_CASE("the miner takes one eligible negative for every pair that has one", "[ops][fixture][metric]") {
  const TensorFile file = load_safetensors(fixture("losses.safetensors"));
  const json alphas = json::parse(file.metadata.at("mining"));
  const std::pair<const char*, MiningRule> rules[] = {{"semi_hard", MiningRule::semi_hard}, {"violating", MiningRule::violating}, {"hard", MiningRule::hard}};
  for (std::size_t i = 0; i < alphas.size(); ++i)
    for (const auto& [name, rule] : rules) {
      INFO(name << ", alpha " << alphas[i]);
      const auto name_of = [&](const char* what) { return std::string("m").append(std::to_string(i)).append(".").append(what); };
      const Tensor& d = *file.find(name_of("distances"));
      const Tensor& labels = *file.find(name_of("labels"));
      std::set<Triplet> eligible, seen;
      std::set<std::pair<std::int64_t, std::int64_t>> pairs;
      const Tensor& list = *file.find(name_of(name));
      for (std::int64_t r = 0; r < list.size(0); ++r) {
        eligible.insert({list.at<std::int64_t>({r, 0}), list.at<std::int64_t>({r, 1}), list.at<std::int64_t>({r, 2})});
        pairs.insert({list.at<std::int64_t>({r, 0}), list.at<std::int64_t>({r, 1})});
      }
      CHECK(pairs.size() > 3);
      for (std::uint64_t seed = 0; seed < 200; ++seed) {
        const auto mined = rows_of(mine_triplets(d, labels, rule, {.alpha = alphas[i].get<double>(), .seed = seed}));
        CHECK(mined.size() == pairs.size());
        for (const auto& t : mined) {
          CHECK(eligible.contains(t));
          CHECK(pairs.contains({t[0], t[1]}));
          seen.insert(t);
        }
        CHECK(mined == rows_of(mine_triplets(d, labels, rule, {.alpha = alphas[i].get<double>(), .seed = seed})));
      }
      CHECK(seen == eligible);  // in 200 draws every eligible negative came up
    }
}

}  // namespace mien::test
