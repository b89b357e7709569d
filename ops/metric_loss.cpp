#include "mien/ops/metric_loss.h"

#include <algorithm>

#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/autocast.h"
#include "mien/ops/matmul.h"
#include "mien/ops/op.h"
#include "mien/ops/pick.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/tensor/generator.h"

namespace mien {
namespace {

Tensor reduced(const Tensor& losses, Reduction r) { return r == Reduction::none ? losses : r == Reduction::sum ? sum(losses) : mean(losses); }

void check_vectors(const char* op, Inputs in) {
  for (const auto& t : in) {
    check_floating(op, t);
    if (t.rank() < 1 || !(t.shape() == in[0].shape())) throw ShapeError(op, "expects vectors [..., D] of one shape, got " + describe_all(in));
  }
  check_same_dtype(op, in);
}

// One value per pair of rows.
void check_pairs(const char* op, const Tensor& a, const Tensor& b, const Tensor& per_pair) {
  const Tensor all[] = {a, b, per_pair};
  check_vectors(op, Inputs(all, 2));
  if (a.rank() != 2 || per_pair.rank() != 1 || per_pair.size(0) != a.size(0)) throw ShapeError(op, "expects [N, D], [N, D] and [N], got " + describe_all(all));
}

// Labels as numbers; [N, D] or [N, N] with one label per row.
std::vector<std::int64_t> label_list(const char* op, const Tensor& rows, const Tensor& labels) {
  const Tensor all[] = {rows, labels};
  check_floating(op, rows);
  if (labels.dtype() != DType::i64) throw DTypeError(op, "labels must be i64, got " + describe(labels), "Cast with mien::cast(labels, DType::i64).");
  if (rows.rank() != 2 || labels.rank() != 1 || labels.size(0) != rows.size(0)) throw ShapeError(op, "expects one label per row, got " + describe_all(all));
  const Tensor flat = to(contiguous(labels), Device::cpu());
  const auto values = flat.span<std::int64_t>();
  return {values.begin(), values.end()};
}

Tensor index_tensor(const std::vector<std::int64_t>& v, Device device) { return to(Tensor::from(v, {static_cast<std::int64_t>(v.size())}), device); }

// Distances of a batch and who is who: what the choice of triplets looks at.
struct Batch {
  Batch(const Tensor& distances, std::vector<std::int64_t> who) : d(distances.detach().to_vector()), labels(std::move(who)), n(labels.size()) {}
  double operator()(std::size_t i, std::size_t j) const { return d[i * n + j]; }
  bool positive(std::size_t a, std::size_t p) const { return a != p && labels[a] == labels[p]; }
  bool negative(std::size_t a, std::size_t k) const { return labels[a] != labels[k]; }
  std::vector<double> d;
  std::vector<std::int64_t> labels;
  std::size_t n;
};

Tensor distances_of(const Tensor& embeddings, bool squared) { return squared ? pairwise_squared_distances(embeddings) : pairwise_distances(embeddings); }

}  // namespace

Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, const TripletMarginOptions& o) {
  const Tensor all[] = {anchor, positive, negative};
  check_vectors("triplet_margin_loss", all);
  const auto distance = [&](const Tensor& x, const Tensor& y) { return norm(affine(sub(x, y), 1, o.eps), o.p, {-1}); };
  Tensor far = distance(anchor, negative);
  if (o.swap) far = minimum(far, distance(positive, negative));
  return reduced(relu(affine(sub(distance(anchor, positive), far), 1, o.margin)), o.reduction);
}

Tensor facenet_triplet_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, double alpha, Reduction reduction) {
  const Tensor all[] = {anchor, positive, negative};
  check_vectors("facenet_triplet_loss", all);
  const auto distance = [](const Tensor& x, const Tensor& y) { return sum(square(sub(x, y)), {-1}); };
  return reduced(relu(affine(sub(distance(anchor, positive), distance(anchor, negative)), 1, alpha)), reduction);
}

Tensor contrastive_loss(const Tensor& a, const Tensor& b, const Tensor& same, double margin, Reduction reduction) {
  check_pairs("contrastive_loss", a, b, same);
  if (same.dtype() != DType::boolean) throw DTypeError("contrastive_loss", "`same` must be bool, got " + describe(same), "Make it with a comparison such as mien::equal.");
  const Tensor s = sum(square(sub(a, b)), {1});
  return reduced(affine(where(same, s, square(relu(affine(safe_sqrt(s), -1, margin)))), .5, 0), reduction);
}

Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target, double margin, Reduction reduction) {
  check_pairs("cosine_embedding_loss", a, b, target);
  if (target.dtype() != DType::i64) throw DTypeError("cosine_embedding_loss", "target must be i64, got " + describe(target), "Cast with mien::cast(target, DType::i64).");
  for (const double t : target.to_vector())
    if (t != 1 && t != -1) throw ValueError("cosine_embedding_loss", "expects targets 1 and -1, got " + std::to_string(static_cast<std::int64_t>(t)));
  const auto squares = [](const Tensor& x) { return affine(sum(square(x), {1}), 1, 1e-12); };  // PyTorch's epsilon: finite for zero vectors
  const Tensor cosine = div(sum(mul(a, b), {1}), sqrt(mul(squares(a), squares(b))));
  const Tensor same = equal(target, full({}, 1, {.dtype = DType::i64, .device = target.device()}));
  return reduced(where(same, affine(cosine, -1, 1), relu(affine(cosine, 1, -margin))), reduction);
}

Tensor prelogits_norm_loss(const Tensor& x, double p) {
  check_rank("prelogits_norm_loss", "the input", x, 2);
  return mean(norm(x, p, {1}));
}

// |x_i|^2 - 2 x_i x_j + |x_j|^2 with the squares from the diagonal of the same product, so that equal rows cancel exactly. Distances do not change when the
// origin moves, and near the rows' mean (a constant, then) the least of their digits is lost.
Tensor pairwise_squared_distances(const Tensor& x) {
  check_rank("pairwise_squared_distances", "the input", x, 2);
  check_floating("pairwise_squared_distances", x);
  const Autocast full(DType::f32);  // differences of large numbers: 16 bits would leave nothing of them
  const Tensor near = sub(x, mean(x.detach(), {0}, true)), products = matmul(near, transpose(near, 0, 1));
  const Tensor squares = pick(products, arange(x.size(0), {.dtype = DType::i64, .device = x.device()}));
  return relu(add(sub(unsqueeze(squares, 1), affine(products, 2, 0)), unsqueeze(squares, 0)));
}

Tensor pairwise_distances(const Tensor& x) { return safe_sqrt(pairwise_squared_distances(x)); }

// The sum over active triplets of d(a, p) - d(a, n) + margin is sum_ij w_ij d_ij + margin * number, w counting how often a distance comes in as positive
// minus how often as negative. The counts are constants of the derivative.
BatchAllLoss batch_all_triplet_loss(const Tensor& embeddings, const Tensor& labels, double margin, bool squared) {
  auto who = label_list("batch_all_triplet_loss", embeddings, labels);
  const Tensor distances = distances_of(embeddings, squared);
  const Batch d(distances, std::move(who));
  std::vector<double> weight(d.d.size());
  double valid = 0, active = 0;
  for (std::size_t a = 0; a < d.n; ++a)
    for (std::size_t p = 0; p < d.n; ++p) {
      if (!d.positive(a, p)) continue;
      for (std::size_t k = 0; k < d.n; ++k) {
        if (!d.negative(a, k)) continue;
        ++valid;
        if (d(a, p) - d(a, k) + margin <= 1e-16) continue;
        ++active;
        ++weight[a * d.n + p];
        --weight[a * d.n + k];
      }
    }
  const Tensor w = to(cast(Tensor::from(weight, distances.shape()), distances.dtype()), distances.device());
  return {affine(sum(mul(distances, w)), 1 / (active + 1e-16), margin * active / (active + 1e-16)), active / (valid + 1e-16)};
}

Tensor batch_hard_triplet_loss(const Tensor& embeddings, const Tensor& labels, double margin, bool squared) {
  auto who = label_list("batch_hard_triplet_loss", embeddings, labels);
  const Tensor distances = distances_of(embeddings, squared);
  const Batch d(distances, std::move(who));
  std::vector<std::int64_t> farthest(d.n), nearest(d.n);
  for (std::size_t a = 0; a < d.n; ++a) {
    std::size_t p = a, k = a, top = a;  // without a positive: d(a, a) = 0
    for (std::size_t j = 0; j < d.n; ++j) {
      if (d.positive(a, j) && (p == a || d(a, j) > d(a, p))) p = j;
      if (d.negative(a, j) && (k == a || d(a, j) < d(a, k))) k = j;
      if (d(a, j) > d(a, top)) top = j;
    }
    farthest[a] = static_cast<std::int64_t>(p);
    nearest[a] = static_cast<std::int64_t>(k == a ? top : k);
  }
  return mean(relu(affine(sub(pick(distances, index_tensor(farthest, distances.device())), pick(distances, index_tensor(nearest, distances.device()))), 1, margin)));
}

Triplets mine_triplets(const Tensor& distances, const Tensor& labels, MiningRule rule, const MiningOptions& o) {
  auto who = label_list("mine_triplets", distances, labels);
  if (distances.size(0) != distances.size(1)) throw ShapeError("mine_triplets", "expects square distances [N, N], got " + describe(distances), "Make them with pairwise_squared_distances.");
  const Batch d(distances, std::move(who));
  constexpr std::uint64_t stream = std::uint64_t{1} << 49;  // apart from those of random ops and of shuffles
  std::vector<std::int64_t> anchor, positive, negative, eligible;
  for (std::size_t a = 0; a < d.n; ++a)
    for (std::size_t p = 0; p < d.n; ++p) {
      if (!d.positive(a, p)) continue;
      const double near = d(a, p);
      eligible.clear();
      for (std::size_t k = 0; k < d.n; ++k) {
        if (!d.negative(a, k)) continue;
        const double far = d(a, k);
        if (rule == MiningRule::hard) {
          if (eligible.empty()) eligible.push_back(static_cast<std::int64_t>(k));
          else if (far < d(a, static_cast<std::size_t>(eligible[0]))) eligible[0] = static_cast<std::int64_t>(k);
        } else if (far < near + o.alpha && (rule == MiningRule::violating || far > near)) {
          eligible.push_back(static_cast<std::int64_t>(k));
        }
      }
      if (eligible.empty()) continue;
      const auto chosen = philox_integer(o.seed, stream, a * d.n + p, static_cast<std::int64_t>(eligible.size()));
      anchor.push_back(static_cast<std::int64_t>(a));
      positive.push_back(static_cast<std::int64_t>(p));
      negative.push_back(eligible[static_cast<std::size_t>(chosen)]);
    }
  return {index_tensor(anchor, distances.device()), index_tensor(positive, distances.device()), index_tensor(negative, distances.device())};
}

}  // namespace mien
