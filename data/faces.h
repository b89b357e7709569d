// Photographs with labelled faces: PASCAL VOC annotations and five-point files.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

namespace mien {

struct LabelledFace {
  std::array<float, 4> box;                              // x1, y1, x2, y2 in pixels
  std::optional<std::array<std::array<float, 2>, 5>> points;  // left eye, right eye, nose, left and right corner of the mouth (viewer's sides)
};
struct LabelledPhoto {
  std::string file;                // path of the picture
  std::vector<LabelledFace> faces;
  bool all_faces = true;           // false: other, unlabelled faces may be in the picture
};

// FOLDER/images/* with FOLDER/annotations/STEM.xml (also JPEGImages and Annotations). Every object is a face, whatever its name; `difficult` ones too.
// Sorted by file name. IoError names the file and what is wrong; pictures without an annotation are left out.
std::vector<LabelledPhoto> read_voc_faces(const std::string& folder);

// One face a line: "path x1 x2 x3 x4 x5 y1 y2 y3 y4 y5 ..." (MTFL and CNN_FacePoint layout; further columns are ignored), relative to FOLDER.
// Boxes come from `boxes_file` ("path x1 y1 x2 y2 ...") where it has the path; faces without one get a square around their points.
std::vector<LabelledPhoto> read_five_points(const std::string& folder, const std::string& labels_file, const std::string& boxes_file = {});

}  // namespace mien
