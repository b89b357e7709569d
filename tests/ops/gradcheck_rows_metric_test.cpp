// Gradient-check rows of normalisation, picking, and the losses of face-embedding training.
#include "gradcheck_rows.h"
#include "mien/ops/margin.h"
#include "mien/ops/matmul.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"
#include "mien/ops/pick.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

using In = std::span<const Tensor>;

struct Adder {
  std::vector<GradRow>& rows;
  Generator generator{13};

  Tensor in(const Shape& shape, double low = -1, double high = 1) { return uniform(shape, low, high, {.dtype = DType::f64, .generator = &generator}); }
  void row(const char* op, const std::string& variant, std::function<Tensor(In)> f, std::vector<Tensor> inputs, bool twice = false) {
    rows.push_back({op, variant, std::move(f), std::move(inputs), twice});
  }
};

void add_pick(Adder& a) {
  const Tensor index = Tensor::from<std::int64_t>({2, 0, 1, 2}, {4}), none = Tensor::from<std::int64_t>({}, {0});
  const auto picked = [](In in) { return square(pick(in[0], in[1])); };
  a.row("pick", "one element of each row", picked, {a.in({4, 3}), index}, true);
  a.row("pick", "transposed, strided index", picked, {transpose(a.in({3, 2}), 0, 1), slice(index, 0, 0, {}, 2)}, true);
  a.row("pick", "no row", picked, {a.in({0, 3}), none});
  const auto added = [](In in) { return square(pick_add(in[0], in[1], in[2])); };
  a.row("pick_add", "one element of each row", added, {a.in({4, 3}), index, a.in({4})}, true);
  a.row("pick_add", "strided", added, {transpose(a.in({3, 2}), 0, 1), slice(index, 0, 0, {}, 2), expand(a.in({1}), {2})}, true);
  a.row("pick_add", "no row", added, {a.in({0, 3}), none, a.in({0})});
  for (const double p : {1.0, 2.0, 3.0}) {
    const std::string name = "norm " + std::to_string(p);
    a.row("reduce", name + " along a dimension", [p](In in) { return norm(in[0], p, {1}); }, {a.in({3, 4}, .2, 1)}, true);
    a.row("reduce", name + " of all, kept", [p](In in) { return norm(in[0], p, {}, true); }, {a.in({3, 4}, -1, -.2)});
  }
  for (const int p : {1, 2}) {
    const std::string name = "normalize L" + std::to_string(p);
    const auto f = [p](std::int64_t dim) { return [=](In in) { return normalize(in[0], p, dim); }; };
    a.row("reduce", name, f(1), {a.in({3, 4}, .1, 1)}, true);
    a.row("reduce", name + " dim 0, transposed", f(0), {transpose(a.in({2, 3}, -1, -.1), 0, 1)});
    a.row("reduce", name + " of pictures", f(1), {a.in({2, 3, 2, 2}, .1, 1)});
    a.row("reduce", name + " below eps", [p](In in) { return normalize(in[0], p, 1, 100); }, {a.in({2, 3}, .1, 1)}, true);
  }
}

void add_losses(Adder& a) {
  const auto three = [&] { return std::vector<Tensor>{a.in({5, 3}), a.in({5, 3}), a.in({5, 3})}; };
  for (const double p : {1.0, 2.0, 3.0})
    for (const bool swap : {false, true})
      a.row("reduce", "triplet margin, p " + std::to_string(p) + (swap ? ", swap" : ""),
            [=](In in) { return triplet_margin_loss(in[0], in[1], in[2], {.p = p, .swap = swap, .reduction = swap ? Reduction::none : Reduction::mean}); }, three(), p == 2);
  a.row("reduce", "facenet triplet", [](In in) { return facenet_triplet_loss(in[0], in[1], in[2], .2, Reduction::none); }, three(), true);
  a.row("reduce", "facenet triplet, one vector", [](In in) { return facenet_triplet_loss(in[0], in[1], in[2], 5); }, {a.in({3}), a.in({3}), a.in({3})});
  const Tensor same = Tensor::from({true, false, true, false, false}, {5}), target = Tensor::from<std::int64_t>({1, -1, 1, -1, -1}, {5});
  a.row("where", "contrastive", [same](In in) { return contrastive_loss(in[0], in[1], beside(in, same), 2, Reduction::none); }, {a.in({5, 3}), a.in({5, 3})}, true);
  a.row("where", "cosine embedding", [target](In in) { return cosine_embedding_loss(in[0], in[1], beside(in, target), -.3, Reduction::none); }, {a.in({5, 3}), a.in({5, 3})}, true);
  a.row("reduce", "prelogits norm", [](In in) { return prelogits_norm_loss(in[0]); }, {a.in({3, 4}, .1, 1)});
  a.row("matmul", "pairwise squared distances", [](In in) { return pairwise_squared_distances(in[0]); }, {a.in({5, 3})}, true);
  a.row("matmul", "pairwise squared distances far from the origin", [](In in) { return pairwise_squared_distances(in[0]); }, {a.in({4, 2}, 50, 51)});
  a.row("matmul", "pairwise distances", [](In in) { return pairwise_distances(in[0]); }, {a.in({5, 3})}, true);
  const Tensor labels = Tensor::from<std::int64_t>({0, 1, 0, 2, 1, 1}, {6});
  for (const bool squared : {false, true})
    for (const double margin : {.1, 1.0}) {
      const std::string name = (squared ? ", squared, margin " : ", margin ") + std::to_string(margin);
      a.row("matmul", "batch all" + name, [=](In in) { return batch_all_triplet_loss(in[0], labels, margin, squared).loss; }, {a.in({6, 3})}, true);
      a.row("pick", "batch hard" + name, [=](In in) { return batch_hard_triplet_loss(in[0], labels, margin, squared); }, {a.in({6, 3})}, true);
    }
}

void add_margins(Adder& a) {
  const std::pair<const char*, Margin> margins[] = {{"none", {.scale = 10}},
                                                    {"ArcFace", Margin::arcface()},
                                                    {"ArcFace, mostly beyond pi", Margin::arcface(2.5, 8)},
                                                    {"CosFace", Margin::cosface()},
                                                    {"SphereFace", Margin::sphereface(4, 8)},
                                                    {"combined", {.scale = 30, .m1 = 1, .m2 = .3, .m3 = .2}},
                                                    {"all three", {.scale = 8, .m1 = 1.5, .m2 = .2, .m3 = .1}}};
  const Tensor target = Tensor::from<std::int64_t>({1, 3, 0, 2, 2, 1}, {6});
  for (const auto& [name, margin] : margins) {
    const Margin m = margin;
    a.row("pick_add", std::string("margin logits, ") + name, [=](In in) { return margin_logits(affine(in[0], m.scale, 0), beside(in, target), m); }, {a.in({6, 4}, -.95, .95)}, true);
    a.row("pick_add", std::string("margin logits of normalised vectors, ") + name,
          [=](In in) { return margin_logits(linear(affine(normalize(in[0]), m.scale, 0), normalize(in[1])), beside(in, target), m); }, {a.in({6, 3}), a.in({4, 3})});
  }
}

}  // namespace

void add_rows_metric(std::vector<GradRow>& rows) {
  Adder a{rows};
  add_pick(a);
  add_losses(a);
  add_margins(a);
}

}  // namespace mien::test
