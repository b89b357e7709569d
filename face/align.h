// From a picture and a detected face to the crop that an embedding net looks at.
#pragma once

#include <optional>
#include <vector>

#include "mien/face/detector.h"
#include "mien/models/facenet/embedding_net.h"

namespace mien {

// The similarity (turn, scale, shift) that brings `from` nearest to `to` in the sense of least squares, as rows a -b x, b a y.
// Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991. ValueError when all points of `from` coincide.
std::array<double, 6> similarity_transform(const FivePoints& from, const FivePoints& to);

// The crop of spec.height x spec.width. Alignment::similarity: black beyond the picture; box: the box with its margin, cut at the picture's edges.
// An empty picture when the face lies wholly outside.
Image align_face(const Image& image, const Face& face, const EmbeddingSpec& spec);

enum class FaceChoice : std::uint8_t { centre, largest, all };  // centre: the face whose middle is nearest to the picture's middle
struct AlignedFace {
  std::optional<Face> face;  // none: the picture was a crop already
  Image crop;
};
// The chosen faces of a picture, aligned; empty when there is none. Without a detector the picture itself is the crop (ShapeError unless it has the size).
std::vector<AlignedFace> aligned_faces(const Image& image, const Detector* detector, const EmbeddingSpec& spec, FaceChoice choice = FaceChoice::centre);

// The face whose middle is nearest to the picture's middle; null when there is none.
const Face* centre_face(const std::vector<Face>& faces, const Image& image);
const Face* largest_face(const std::vector<Face>& faces);  // by the area of its box

}  // namespace mien
