// What every face-embedding net is to the rest of mien, and the facts that a model file carries so that nobody has to remember how its input was made.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mien/io/safetensors.h"
#include "mien/layers/module.h"

namespace mien {

class EmbeddingNet : public Module {
 public:
  // x [N, 3, H, W], RGB, normalised -> embeddings [N, D], before L2 normalisation. Not const: in training mode batch norm updates its statistics.
  virtual Tensor forward(const Tensor& x) = 0;
  virtual std::int64_t embedding_size() const = 0;
  // What the last layer adds to every embedding, [D]: the bias of its batch norm.
  virtual Tensor& shift() = 0;
};

using FivePoints = std::array<std::array<float, 2>, 5>;  // left eye, right eye, nose, left and right corner of the mouth (viewer's sides): x, y in pixels

// Everything that must be known to use the weights; kept in the metadata of the model file ("mien.*").
struct EmbeddingSpec {
  enum class Alignment : std::uint8_t {
    similarity,  // turned, scaled and shifted so that the five points come to lie on `points` (ArcFace and MobileFaceNet)
    box,         // the detector's box with `margin` around it, resized (facenet-pytorch's MTCNN)
  };
  std::string architecture;        // "mobilefacenet" or "inception-resnet-v1"
  std::int64_t height = 0, width = 0;  // of a crop
  std::int64_t size = 0;           // of an embedding
  double mean = 127.5, scale = 1.0 / 128;  // a crop's bytes become (x - mean) * scale
  Alignment alignment = Alignment::similarity;
  FivePoints points{};             // similarity: where the five points lie in the crop
  double margin = 0;               // box: in pixels of the crop, both sides together
  // Squared distance of L2-normalised embeddings below which two faces are the same person's, and how it was found. None: verify needs --threshold.
  std::optional<double> threshold;
  std::string threshold_source;
  std::optional<bool> threshold_flip;  // whether it is for embeddings with those of the mirrored crops added; none: not known
  std::int64_t classes = 0;        // people of the softmax head in the file, 0 without one

  std::map<std::string, std::string> to_metadata() const;
  // IoError names the file, and the key that is missing or makes no sense.
  static EmbeddingSpec from_metadata(const std::map<std::string, std::string>& metadata, const std::string& file);
};

// The five points of ArcFace's 112x112 template (InsightFace, face_align.py) scaled to `height`; 112x96 is the same with 8 columns less on each side.
// There is no standard for 160x160: the template times 160/112 (ValueError for other shapes than height x height and 112x96).
FivePoints five_point_template(std::int64_t height, std::int64_t width);

// A net with random weights for the spec, and a net with the weights of a model file, whose tensors become the net's. IoError and ValueError name what does not fit.
std::unique_ptr<EmbeddingNet> make_embedding_net(const EmbeddingSpec& spec);
std::unique_ptr<EmbeddingNet> load_embedding_net(TensorFile file, const std::string& name, EmbeddingSpec* spec = nullptr);
TensorFile to_model_file(EmbeddingNet& net, const EmbeddingSpec& spec);

// Reads weights of other programs by architecture ("mobilefacenet", "inception-resnet-v1"; "facenet" is the latter): names every missing, unexpected and
// mis-shaped tensor.
TensorFile convert_embedding_net(const std::string& architecture, const TensorFile& input, const std::string& source = "the input");

}  // namespace mien
