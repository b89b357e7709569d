#include "mien/data/faces.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#if MIEN_WITH_PUGIXML
#include <pugixml.hpp>
#endif

#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien {
namespace {

fs::path one_of(const fs::path& folder, const char* a, const char* b) {
  if (fs::is_directory(folder / a)) return folder / a;
  if (fs::is_directory(folder / b)) return folder / b;
  throw IoError(IoKind::missing, "read_voc_faces", folder.string(), std::string("has neither a folder ") + a + " nor " + b,
                "Expected pictures in images/ and one XML file each in annotations/.");
}

#if MIEN_WITH_PUGIXML
std::vector<LabelledFace> read_boxes(const fs::path& xml) {
  pugi::xml_document document;
  const pugi::xml_parse_result parsed = document.load_file(xml.c_str());
  if (!parsed)
    throw IoError(IoKind::bad_data, "read_voc_faces", xml.string(), std::string("is not XML: ") + parsed.description() + " at byte " + std::to_string(parsed.offset));
  std::vector<LabelledFace> faces;
  int number = 0;
  for (const auto object : document.child("annotation").children("object")) {
    ++number;
    const auto box = object.child("bndbox");
    LabelledFace face;
    int k = 0;
    for (const char* side : {"xmin", "ymin", "xmax", "ymax"}) face.box[static_cast<std::size_t>(k++)] = box.child(side).text().as_float(NAN);
    const auto& [x1, y1, x2, y2] = face.box;
    if (!(x2 > x1 && y2 > y1) || !std::isfinite(x1 + y1 + x2 + y2))
      throw IoError(IoKind::bad_data, "read_voc_faces", xml.string(), "object " + std::to_string(number) + " has no box with xmin < xmax and ymin < ymax");
    faces.push_back(face);
  }
  return faces;
}
#else
std::vector<LabelledFace> read_boxes(const fs::path& xml) {
  throw NotImplemented("read_voc_faces", xml.string() + ": this library was built without pugixml", "Install libpugixml-dev and build again.");
}
#endif

std::map<std::string, std::array<float, 4>> read_box_file(const std::string& path) {
  std::map<std::string, std::array<float, 4>> boxes;
  if (path.empty()) return boxes;
  std::ifstream in(path);
  if (!in) throw IoError(IoKind::missing, "read_five_points", path, "can't be opened");
  std::string line;
  for (int row = 1; std::getline(in, line); ++row) {
    std::istringstream fields(line);
    std::string name;
    std::array<float, 4> b{};
    if (!(fields >> name)) continue;
    if (!(fields >> b[0] >> b[1] >> b[2] >> b[3])) throw IoError(IoKind::bad_data, "read_five_points", path, "line " + std::to_string(row) + " is not: path x1 y1 x2 y2");
    boxes[name] = b;
  }
  return boxes;
}

// The authors' boxes reach from above the eyes to below the mouth: a square of 2.2 times the larger of eye distance and eye-mouth height, a little above the points' middle.
std::array<float, 4> box_around(const std::array<std::array<float, 2>, 5>& p) {
  const float eyes = std::hypot(p[1][0] - p[0][0], p[1][1] - p[0][1]);
  const float ex = (p[0][0] + p[1][0]) / 2, ey = (p[0][1] + p[1][1]) / 2, mx = (p[3][0] + p[4][0]) / 2, my = (p[3][1] + p[4][1]) / 2;
  const float half = 1.1f * std::max(eyes, std::hypot(mx - ex, my - ey)), cx = (ex + mx) / 2, cy = (ey + my) / 2;
  return {cx - half, cy - half, cx + half, cy + half};
}

}  // namespace

std::vector<LabelledPhoto> read_voc_faces(const std::string& folder) {
  const fs::path images = one_of(folder, "images", "JPEGImages"), annotations = one_of(folder, "annotations", "Annotations");
  std::vector<LabelledPhoto> photos;
  for (const auto& entry : fs::directory_iterator(images)) {
    const fs::path xml = annotations / (entry.path().stem().string() + ".xml");
    if (entry.is_regular_file() && fs::exists(xml)) photos.push_back({entry.path().string(), read_boxes(xml), true});
  }
  if (photos.empty()) throw IoError(IoKind::missing, "read_voc_faces", folder, "has no picture with an annotation");
  std::sort(photos.begin(), photos.end(), [](const auto& a, const auto& b) { return a.file < b.file; });
  return photos;
}

std::vector<LabelledPhoto> read_five_points(const std::string& folder, const std::string& labels_file, const std::string& boxes_file) {
  const auto boxes = read_box_file(boxes_file);
  std::ifstream in(labels_file);
  if (!in) throw IoError(IoKind::missing, "read_five_points", labels_file, "can't be opened");
  std::vector<LabelledPhoto> photos;
  std::string line;
  for (int row = 1; std::getline(in, line); ++row) {
    std::istringstream fields(line);
    std::string name;
    if (!(fields >> name)) continue;
    std::array<float, 10> v{};
    for (auto& x : v)
      if (!(fields >> x) || !std::isfinite(x))
        throw IoError(IoKind::bad_data, "read_five_points", labels_file, "line " + std::to_string(row) + " is not: path x1..x5 y1..y5");
    std::array<std::array<float, 2>, 5> points;
    for (std::size_t k = 0; k < 5; ++k) points[k] = {v[k], v[k + 5]};
    std::replace(name.begin(), name.end(), '\\', '/');
    const auto box = boxes.find(name);
    photos.push_back({(fs::path(folder) / name).string(), {{box != boxes.end() ? box->second : box_around(points), points}}, false});
  }
  return photos;
}

}  // namespace mien
