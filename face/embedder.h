// Face embeddings: crops in, vectors out whose distance tells whether two faces are the same person's.
//
//   const mien::Detector detector = mien::Detector::load("weights/mtcnn.safetensors");
//   const mien::Embedder embedder = mien::Embedder::load("weights/mobilefacenet.safetensors");
//   const mien::Verification v = mien::verify(detector, embedder, mien::read_image("a.jpg"), mien::read_image("b.jpg"));
//   if (v.same) std::printf("%.3f < %.3f\n", *v.distance, v.threshold);
//
// Thread safety: all functions of one const Embedder may run in many threads at once.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mien/face/align.h"
#include "mien/infer/infer.h"

namespace mien {

using Embedding = std::vector<float>;

class Embedder {
 public:
  // Compiles a plan of the net (infer/infer.h). IoError names what the file lacks: weights without the metadata of a face-embedding net are refused.
  static Embedder load(const std::string& model, Device device = {});
  // Uses a net of a training in progress, which must outlive the embedder and be in eval mode when it is asked: no plan, its weights still change.
  Embedder(EmbeddingNet& net, EmbeddingSpec spec);  // runs where the net's weights are

  // Crops of spec().height x spec().width (ShapeError otherwise) -> f32 [N, D] on the CPU, not normalised. `flip`: the sum with the mirrored crop's.
  Tensor embed(std::span<const Image> crops, bool flip = false) const;
  // Aligns and embeds one face of a picture, L2-normalised; none when the face lies outside the picture.
  std::optional<Embedding> embed(const Image& image, const Face& face, bool flip = false) const;
  const EmbeddingSpec& spec() const noexcept { return spec_; }

 private:
  explicit Embedder(EmbeddingSpec spec) : spec_(std::move(spec)) {}
  Device device_;
  EmbeddingNet* net_ = nullptr;                 // either a net ...
  std::unique_ptr<infer::SessionPool> pool_;    // ... or sessions of its plan
  EmbeddingSpec spec_;
};

// In place: x / max(|x|, 1e-12).
void l2_normalize(std::span<float> x) noexcept;
// |a - b|^2; of normalised embeddings 0..4, = 2 - 2 cos. ShapeError for different sizes.
double squared_distance(std::span<const float> a, std::span<const float> b);

struct Verification {
  std::optional<Face> a, b;        // the face nearest to the middle of each picture; none: no face was found
  std::optional<double> distance;  // squared, of normalised embeddings; none without two faces
  double threshold = 0;
  std::string threshold_source;
  bool same = false;               // distance < threshold; never true without two faces
};
// `threshold` replaces the model file's; ValueError when neither is there. `flip` left out: as the file's threshold was found (ValueError for the opposite), false
// for a given one.
Verification verify(const Detector& detector, const Embedder& embedder, const Image& a, const Image& b, std::optional<double> threshold = {}, std::optional<bool> flip = {});

}  // namespace mien
