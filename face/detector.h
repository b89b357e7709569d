// Face detection with MTCNN: pictures in, faces out.
//
//   const mien::Detector detector = mien::Detector::load("weights/mtcnn.safetensors");
//   for (const mien::Face& face : detector.detect(mien::read_image("people.jpg")))
//     std::printf("%.0f %.0f %.0f %.0f  %.3f\n", face.box[0], face.box[1], face.box[2], face.box[3], face.score);
//
// The cascade is that of facenet-pytorch (float boxes, area resizing, crops clipped to the picture); `zero_pad_crops` gives the authors' crops.
// Thread safety: detect() of one detector may run in many threads at once.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "mien/data/image.h"
#include "mien/tensor/device.h"

namespace mien {

struct Mtcnn;
namespace mtcnn {
class Inference;
}

// In pixels of the picture, x to the right, y down. Boxes may leave the picture.
struct Face {
  std::array<float, 4> box{};                      // x1, y1, x2, y2
  float score = 0;                                 // 0..1
  std::array<std::array<float, 2>, 5> points{};    // left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them
};

struct DetectorOptions {
  double min_face = 20;                            // pixels; smaller faces are not looked for
  std::array<float, 3> thresholds{.6f, .7f, .7f};  // of P-, R- and O-Net
  double factor = .709;                            // between the scales of the pyramid
  bool zero_pad_crops = false;                     // crops beyond the picture: zeros (the authors) instead of clipping
  int chunk = 256;                                 // crops per batch: bounds the memory
  Device device = {};                                   // where the nets run; boxes are the same to some .001 px
};

class Detector {
 public:
  // IoError when the file can't be read or holds other weights; ValueError for options out of range.
  static Detector load(const std::string& weights, DetectorOptions options = {});
  // Takes the weights of the nets as they are now; later steps of a training are not seen.
  Detector(const Mtcnn& nets, DetectorOptions options = {});
  ~Detector();
  Detector(Detector&&) noexcept;

  // By falling score; empty when there is no face (or the picture is smaller than min_face).
  std::vector<Face> detect(const Image& image) const;
  // The square boxes that leave stage 1 (P-Net) or 2 (R-Net), highest score first: what the next stage looks at.
  std::vector<std::array<float, 4>> propose(const Image& image, int stage) const;
  const DetectorOptions& options() const noexcept { return options_; }

 private:
  std::unique_ptr<const mtcnn::Inference> nets_;
  DetectorOptions options_;
};

}  // namespace mien
