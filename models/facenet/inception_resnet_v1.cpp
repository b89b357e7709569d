#include "mien/models/facenet/inception_resnet_v1.h"

#include "mien/ops/copy.h"
#include "mien/ops/pool.h"
#include "mien/ops/residual.h"
#include "mien/ops/shape.h"
#include "mien/ops/view.h"
#include "mien/tensor/error.h"

namespace mien {
namespace inception {
namespace {

constexpr double norm_eps = 1e-3;
constexpr PoolParams pool{.kernel = {3, 3}, .stride = {2, 2}};  // rounds down, as the convolutions without padding beside it

ConvOptions conv_options(std::int64_t in, const ConvSpec& s) {
  return {.in = in, .out = s.out, .kernel = s.kernel, .stride = s.stride, .padding = {s.padding[0], s.padding[0], s.padding[1], s.padding[1]}, .bias = false};
}

}  // namespace

ConvNormRelu::ConvNormRelu(std::int64_t in, const ConvSpec& spec) : conv(conv_options(in, spec)), bn({.channels = spec.out, .eps = norm_eps}) {}
Tensor ConvNormRelu::operator()(const Tensor& x) { return bn.with_relu(conv(x)); }
void ConvNormRelu::visit(Visitor& v) {
  v("conv", conv);
  v("bn", bn);
}

Branch::Branch(std::int64_t in, const std::vector<ConvSpec>& specs) : out(in) {
  for (const auto& spec : specs) {
    convs.emplace_back(out, spec);
    out = spec.out;
  }
}
Tensor Branch::operator()(const Tensor& x) {
  if (convs.empty()) return max_pool2d(x, pool);
  Tensor h = x;
  for (auto& conv : convs) h = conv(h);
  return h;
}
void Branch::visit(Visitor& v) {
  if (convs.size() == 1) return convs[0].visit(v);  // facenet-pytorch numbers the convolutions only where there are several
  for (std::size_t i = 0; i < convs.size(); ++i) v(std::to_string(i), convs[i]);
}

Mixed::Mixed(std::int64_t in, const std::vector<std::vector<ConvSpec>>& specs) {
  for (const auto& spec : specs) out += branches.emplace_back(in, spec).out;
}
Tensor Mixed::operator()(const Tensor& x) {
  std::vector<Tensor> parts;
  for (auto& branch : branches) parts.push_back(branch(x));
  return concat(parts, 1);
}
void Mixed::visit(Visitor& v) {
  for (std::size_t i = 0; i < branches.size(); ++i) v("branch" + std::to_string(i), branches[i]);
}

Residual::Residual(std::int64_t channels, const std::vector<std::vector<ConvSpec>>& specs, double scale_value, bool rectify_value)
    : scale(scale_value), rectify(rectify_value), mixed(channels, specs), conv2d({.in = mixed.out, .out = channels}) {}
Tensor Residual::operator()(const Tensor& x) {
  return residual(x, conv2d(mixed(x)), scale, rectify);
}
void Residual::visit(Visitor& v) {
  mixed.visit(v);
  v("conv2d", conv2d);
}
std::string Residual::label() const { return "Residual(scale " + std::to_string(scale) + (rectify ? ")" : ", no ReLU)"); }

Repeat::Repeat(std::int64_t times, std::int64_t channels, const std::vector<std::vector<ConvSpec>>& specs, double scale) {
  for (std::int64_t i = 0; i < times; ++i) blocks.emplace_back(channels, specs, scale);
}
Tensor Repeat::operator()(const Tensor& x) {
  Tensor h = x;
  for (auto& block : blocks) h = block(h);
  return h;
}
void Repeat::visit(Visitor& v) {
  for (std::size_t i = 0; i < blocks.size(); ++i) v(std::to_string(i), blocks[i]);
}

namespace {

using Specs = std::vector<std::vector<ConvSpec>>;

// The figures of the paper. `d` divides every number of channels.
ConvSpec c1x1(std::int64_t out) { return {.out = out}; }
ConvSpec c3x3(std::int64_t out) { return {.out = out, .kernel = {3, 3}}; }  // without padding
ConvSpec c3x3_same(std::int64_t out) { return {.out = out, .kernel = {3, 3}, .padding = {1, 1}}; }
ConvSpec c3x3_half(std::int64_t out) { return {.out = out, .kernel = {3, 3}, .stride = {2, 2}}; }
ConvSpec row(std::int64_t out, std::int64_t k) { return {.out = out, .kernel = {1, k}, .padding = {0, k / 2}}; }
ConvSpec column(std::int64_t out, std::int64_t k) { return {.out = out, .kernel = {k, 1}, .padding = {k / 2, 0}}; }

Specs block35(std::int64_t d) {
  return {{c1x1(32 / d)},  //
          {c1x1(32 / d), c3x3_same(32 / d)},
          {c1x1(32 / d), c3x3_same(32 / d), c3x3_same(32 / d)}};
}
Specs block17(std::int64_t d) {
  return {{c1x1(128 / d)},  //
          {c1x1(128 / d), row(128 / d, 7), column(128 / d, 7)}};
}
Specs block8(std::int64_t d) {
  return {{c1x1(192 / d)},  //
          {c1x1(192 / d), row(192 / d, 3), column(192 / d, 3)}};
}
Specs mixed_6a(std::int64_t d) {
  return {{c3x3_half(384 / d)},  //
          {c1x1(192 / d), c3x3_same(192 / d), c3x3_half(256 / d)},
          {}};
}
Specs mixed_7a(std::int64_t d) {
  return {{c1x1(256 / d), c3x3_half(384 / d)},
          {c1x1(256 / d), c3x3_half(256 / d)},
          {c1x1(256 / d), c3x3_same(256 / d), c3x3_half(256 / d)},
          {}};
}

}  // namespace
}  // namespace inception

namespace {

const InceptionResnetV1Options& checked(const InceptionResnetV1Options& o) {
  const auto refuse = [](const std::string& what, std::int64_t got) { throw ValueError("InceptionResnetV1", "expects " + what + ", got " + std::to_string(got)); };
  if (o.embedding < 1) refuse("an embedding of at least 1 value", o.embedding);
  if (o.classes < 0) refuse("classes >= 0", o.classes);
  for (const std::int64_t n : o.repeats)
    if (n < 0) refuse("repeats >= 0", n);
  if (o.divisor < 1 || 16 % o.divisor != 0) refuse("divisor 1, 2, 4, 8 or 16", o.divisor);
  if (!(o.dropout >= 0 && o.dropout < 1)) throw ValueError("InceptionResnetV1", "expects dropout in [0, 1), got " + std::to_string(o.dropout));
  return o;
}

}  // namespace

InceptionResnetV1::InceptionResnetV1(const InceptionResnetV1Options& o)
    : options(checked(o)),
      conv2d_1a(3, inception::c3x3_half(32 / o.divisor)),
      conv2d_2a(32 / o.divisor, inception::c3x3(32 / o.divisor)),
      conv2d_2b(32 / o.divisor, inception::c3x3_same(64 / o.divisor)),
      conv2d_3b(64 / o.divisor, inception::c1x1(80 / o.divisor)),
      conv2d_4a(80 / o.divisor, inception::c3x3(192 / o.divisor)),
      conv2d_4b(192 / o.divisor, inception::c3x3_half(256 / o.divisor)),
      repeat_1(o.repeats[0], 256 / o.divisor, inception::block35(o.divisor), .17),
      mixed_6a(256 / o.divisor, inception::mixed_6a(o.divisor)),
      repeat_2(o.repeats[1], mixed_6a.out, inception::block17(o.divisor), .10),
      mixed_7a(mixed_6a.out, inception::mixed_7a(o.divisor)),
      repeat_3(o.repeats[2], mixed_7a.out, inception::block8(o.divisor), .20),
      block8(mixed_7a.out, inception::block8(o.divisor), 1, false),
      dropout(o.dropout),
      last_linear({.in = mixed_7a.out, .out = o.embedding, .bias = false}),
      last_bn({.channels = o.embedding, .eps = inception::norm_eps}) {
  if (o.classes > 0) logits.emplace(LinearOptions{.in = o.embedding, .out = o.classes});
}

Tensor InceptionResnetV1::forward(const Tensor& x) {
  if (x.rank() != 4 || x.size(1) != 3 || x.size(2) < 75 || x.size(3) < 75)
    throw ShapeError("InceptionResnetV1", "expects [N, 3, H, W] with H and W of at least 75, got " + describe(x), "Faces are usually 160x160.");
  Tensor h = conv2d_2b(conv2d_2a(conv2d_1a(channels_last(x))));  // 160 -> 79 -> 77 -> 77
  h = conv2d_3b(max_pool2d(h, inception::pool));        // 38
  h = conv2d_4b(conv2d_4a(h));                          // 36 -> 17
  h = mixed_6a(repeat_1(h));                            // 8
  h = mixed_7a(repeat_2(h));                            // 3
  h = block8(repeat_3(h));
  h = dropout(flatten(global_avg_pool2d(h), 1));
  return last_bn(last_linear(h));
}

Tensor InceptionResnetV1::classify(const Tensor& embeddings) const {
  if (!logits) throw ValueError("InceptionResnetV1", "classify expects a net with classes, this one has none", "Construct it with .classes = the number of identities.");
  return (*logits)(embeddings);
}

void InceptionResnetV1::visit(Visitor& v) {
  v("conv2d_1a", conv2d_1a);
  v("conv2d_2a", conv2d_2a);
  v("conv2d_2b", conv2d_2b);
  v("conv2d_3b", conv2d_3b);
  v("conv2d_4a", conv2d_4a);
  v("conv2d_4b", conv2d_4b);
  v("repeat_1", repeat_1);
  v("mixed_6a", mixed_6a);
  v("repeat_2", repeat_2);
  v("mixed_7a", mixed_7a);
  v("repeat_3", repeat_3);
  v("block8", block8);
  v("dropout", dropout);
  v("last_linear", last_linear);
  v("last_bn", last_bn);
  if (logits) v("logits", *logits);
}

}  // namespace mien
