// Training crops for P-, R- and O-Net: windows of photographs with their class, box and landmark targets.
// Source: Zhang et al., "Joint face detection and alignment using multi-task cascaded convolutional networks", 2016: negative IoU < .3,
// part .4 - .65, positive > .65; R and O also see what the stage before proposes.
//
// Targets invert the detector's decoding exactly. P-Net: cell (x) of scale s stands for [(2x+1)/s, (2x+12)/s], eleven twelfths of its
// 12-pixel window, and w = x2 - x1. R and O: w = x2 - x1 + 1. Box target k = (truth_k - box_k) / w; point target = (p - x1 + 1) / w.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "mien/data/faces.h"
#include "mien/data/image.h"
#include "mien/data/loader.h"

namespace mien::mtcnn {

using Box = std::array<float, 4>;

enum Label : std::int8_t { negative = 0, positive = 1, part = -1, landmark = -2 };

// All crops of one stage, in memory as bytes (size x size x 3, planar).
struct SampleSet {
  explicit SampleSet(std::int64_t crop_size) : size(crop_size) {}
  std::int64_t count() const noexcept { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t count(Label label) const noexcept;
  const std::int64_t size;  // 12, 24 or 48
  std::vector<std::uint8_t> pixels;
  std::vector<std::int8_t> labels;
  std::vector<Box> boxes;                      // targets of positive and part
  std::vector<std::array<float, 10>> points;   // targets of landmark: x1 y1 x2 y2 ... x5 y5 as the net puts them out (x1..x5, y1..y5)
};

struct SamplingOptions {
  int negatives_per_photo = 50;   // anywhere
  int negatives_per_face = 5;     // overlapping a face a little
  int tries_per_face = 20;        // windows near a face, sorted into positive, part or nothing
  int landmarks_per_face = 0;     // windows for faces with points
  int max_negatives = 60;         // per photo, of the proposals of the stage before (those with the highest score)
  float smallest_face = 20;       // smaller faces give no positives
  std::uint64_t seed = 1;
};

float iou(const Box& a, const Box& b) noexcept;  // without +1

// What R- and O-Net see of a square: pixels [trunc(x1) - 1, trunc(x2)) x [trunc(y1) - 1, trunc(y2)), kept inside the picture, as x1, y1, x2, y2;
// may be empty. Training cuts with it as detection does (facenet-pytorch's pad()).
std::array<std::int64_t, 4> pixels_of(const Box& square, std::int64_t width, std::int64_t height) noexcept;

// A picture to cut from, with its labels; mirrored() swaps left and right in both.
struct Scene {
  Image image;
  LabelledPhoto photo;
};
Scene read_scene(const LabelledPhoto& photo);  // IoError names the file
Scene mirrored(const Scene& scene);

// Windows around faces and anywhere. `stream` numbers the scene: the same (seed, stream) gives the same crops.
void add_random_crops(SampleSet& set, const Scene& scene, std::uint64_t stream, const SamplingOptions& options);
// What the stage before proposes for this scene: squares (x1, y1, x2, y2), highest score first.
void add_proposals(SampleSet& set, const Scene& scene, const std::vector<Box>& squares, const SamplingOptions& options);

// One batch: {crops f32 [N,3,S,S] normalised by (x - 127.5) / 128, labels i64 [N], boxes f32 [N,4], points f32 [N,10]}.
// `augment`: brightness and contrast jitter keyed by (seed, epoch, row).
Batch make_batch(const SampleSet& set, std::span<const std::int64_t> rows, std::uint64_t epoch, std::uint64_t seed, bool augment);

}  // namespace mien::mtcnn
