#include "mien/face/embedder.h"

#include <algorithm>
#include <cmath>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/view.h"

namespace mien {

Embedder Embedder::load(const std::string& model, Device device) {
  EmbeddingSpec spec;
  auto net = load_embedding_net(load_safetensors(model), model, &spec);
  net->eval();
  Embedder e(spec);
  e.pool_ = std::make_unique<infer::SessionPool>(infer::compile(std::move(net), zeros({1, 3, spec.height, spec.width}, {.layout = Layout::channels_last}), {.device = device}));
  e.device_ = device;
  return e;
}

Embedder::Embedder(EmbeddingNet& net, EmbeddingSpec spec) : device_(net.parameters().front().value.device()), net_(&net), spec_(std::move(spec)) {}

Tensor Embedder::embed(std::span<const Image> crops, bool flip) const {
  const NoGrad guard;
  const std::int64_t n = static_cast<std::int64_t>(crops.size()), h = spec_.height, w = spec_.width;
  const Tensor x = Tensor::empty({flip ? 2 * n : n, 3, h, w}, DType::f32, Layout::channels_last);  // mirrored crops behind the others
  const auto mean = static_cast<float>(spec_.mean), scale = static_cast<float>(spec_.scale);
  for (std::int64_t k = 0; k < n; ++k) {
    const Image& crop = crops[static_cast<std::size_t>(k)];
    if (crop.height != h || crop.width != w)
      throw ShapeError("embed", "expects crops of " + std::to_string(w) + "x" + std::to_string(h) + " pixels (width x height), got " + std::to_string(crop.width) + "x" + std::to_string(crop.height),
                       "Make them with align_face or `mien align`.");
    const std::uint8_t* from = crop.pixels.data();
    float* to = x.data<float>() + k * h * w * 3;
    for (std::int64_t i = 0; i < h * w * 3; ++i) to[i] = (static_cast<float>(from[i]) - mean) * scale;
    for (std::int64_t y = 0; flip && y < h; ++y)
      for (std::int64_t col = 0; col < w; ++col) std::copy_n(to + (y * w + col) * 3, 3, to + n * h * w * 3 + (y * w + w - 1 - col) * 3);
  }
  if (n == 0) return Tensor::empty({0, spec_.size});
  Tensor e;
  if (net_) {
    e = net_->forward(to(x, device_));
  } else {
    const auto session = pool_->take();
    e = device_.is_cpu() ? clone((*session)(x)) : to((*session)(to(x, device_)), Device::cpu());
  }
  e = to(e, Device::cpu());
  return flip ? add(slice(e, 0, 0, n), slice(e, 0, n)) : e;
}

std::optional<Embedding> Embedder::embed(const Image& image, const Face& face, bool flip) const {
  const Image crop = align_face(image, face, spec_);
  if (crop.width == 0) return {};
  const Tensor e = embed({&crop, 1}, flip);
  Embedding out(e.data<float>(), e.data<float>() + e.numel());
  l2_normalize(out);
  return out;
}

void l2_normalize(std::span<float> x) noexcept {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  const auto factor = static_cast<float>(1 / std::max(std::sqrt(sum), 1e-12));
  for (float& v : x) v *= factor;
}

double squared_distance(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) throw ShapeError("squared_distance", "expects embeddings of one size, got " + std::to_string(a.size()) + " and " + std::to_string(b.size()));
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (static_cast<double>(a[i]) - static_cast<double>(b[i])) * (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  return sum;
}

Verification verify(const Detector& detector, const Embedder& embedder, const Image& a, const Image& b, std::optional<double> threshold, std::optional<bool> flip) {
  Verification v;
  if (!threshold && !embedder.spec().threshold) throw ValueError("verify", "the model file holds no threshold", "Give one; `mien eval lfw` finds it on pairs of pictures.");
  bool mirrored = flip.value_or(false);
  if (const auto& found = embedder.spec().threshold_flip; found && !threshold) {
    if (flip.value_or(*found) != *found)
      throw ValueError("verify", std::string("the model file's threshold was found with") + (*found ? "" : "out") + " mirrored crops", "Give a threshold for this, or leave flip out.");
    mirrored = *found;
  }
  v.threshold = threshold ? *threshold : *embedder.spec().threshold;
  v.threshold_source = threshold ? "given by the caller" : embedder.spec().threshold_source;
  const auto look = [&](const Image& image, std::optional<Face>& face) -> std::optional<Embedding> {
    const auto faces = detector.detect(image);
    if (const Face* f = centre_face(faces, image)) face = *f;
    return face ? embedder.embed(image, *face, mirrored) : std::nullopt;
  };
  const auto ea = look(a, v.a), eb = look(b, v.b);
  if (ea && eb) {
    v.distance = squared_distance(*ea, *eb);
    v.same = *v.distance < v.threshold;
  }
  return v;
}

}  // namespace mien
