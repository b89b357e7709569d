// Average precision of a detector, and how many labelled faces are still there after each stage of the cascade.
//
//   bench_detector_quality WEIGHTS VOC_FOLDER NAMES [MIN_SIDE=20]
//
// A face counts as found when a box of the stage overlaps it with an IoU of at least .5. After P- and R-Net the boxes are the squares that the
// next stage looks at; an upright face of ratio 3:4 can reach .75 with its square at best. Average precision: greedy by score, IoU .5, area under
// the envelope at every point; smaller labelled faces are neither hit nor miss.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "mien/data/faces.h"
#include "mien/face/detector.h"
#include "mien/models/mtcnn/samples.h"

using namespace mien;
namespace fs = std::filesystem;

namespace {

std::int64_t found(const LabelledPhoto& photo, const std::vector<std::array<float, 4>>& boxes, float min_side) {
  std::int64_t n = 0;
  for (const auto& f : photo.faces) {
    if (std::min(f.box[2] - f.box[0], f.box[3] - f.box[1]) < min_side) continue;
    n += std::any_of(boxes.begin(), boxes.end(), [&](const auto& b) { return mtcnn::iou(b, f.box) >= .5f; });
  }
  return n;
}

struct Ranked {
  float score;
  bool hit;
};

// Adds the detections of one photograph, best first, to the ranking.
void rank(const LabelledPhoto& photo, const std::vector<Face>& faces, float min_side, std::vector<Ranked>& ranking) {
  std::vector<bool> used(photo.faces.size());
  for (const auto& f : faces) {
    std::vector<std::pair<float, std::size_t>> near;
    for (std::size_t k = 0; k < photo.faces.size(); ++k)
      if (const float overlap = mtcnn::iou(f.box, photo.faces[k].box); overlap >= .5f) near.emplace_back(-overlap, k);
    std::sort(near.begin(), near.end());
    bool hit = false, ignored = false;
    for (const auto& [overlap, k] : near) {
      const auto& b = photo.faces[k].box;
      if (std::min(b[2] - b[0], b[3] - b[1]) < min_side) {
        ignored = true;
        break;
      }
      if (!used[k]) {
        used[k] = hit = true;
        break;
      }
    }
    if (!ignored) ranking.push_back({f.score, hit});
  }
}

double average_precision(std::vector<Ranked> ranking, std::int64_t faces) {
  std::stable_sort(ranking.begin(), ranking.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  std::vector<double> precision;
  double hits = 0;
  for (std::size_t i = 0; i < ranking.size(); ++i) precision.push_back((hits += ranking[i].hit) / static_cast<double>(i + 1));
  for (std::size_t i = precision.size(); i-- > 1;) precision[i - 1] = std::max(precision[i - 1], precision[i]);
  double area = 0;
  for (std::size_t i = 0; i < ranking.size(); ++i) area += ranking[i].hit ? precision[i] : 0;
  return area / static_cast<double>(std::max<std::int64_t>(faces, 1));
}

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s WEIGHTS VOC_FOLDER NAMES [MIN_SIDE]\n", argv[0]);
    return 2;
  }
  const Detector detector = Detector::load(argv[1]);
  const float min_side = argc > 4 ? std::strtof(argv[4], nullptr) : 20;
  std::set<std::string> names;
  std::ifstream list(argv[3]);
  for (std::string line; std::getline(list, line);) names.insert(fs::path(line).stem().string());
  std::vector<Ranked> ranking;
  std::int64_t faces = 0, photos = 0, p = 0, r = 0, o = 0, squares_p = 0, squares_r = 0;
  for (const auto& photo : read_voc_faces(argv[2])) {
    if (!names.contains(fs::path(photo.file).stem().string())) continue;
    ++photos;
    for (const auto& f : photo.faces) faces += std::min(f.box[2] - f.box[0], f.box[3] - f.box[1]) >= min_side;
    const Image image = read_image(photo.file);
    const auto first = detector.propose(image, 1), second = detector.propose(image, 2);
    const std::vector<Face> detected = detector.detect(image);
    rank(photo, detected, min_side, ranking);
    std::vector<std::array<float, 4>> last;
    for (const auto& f : detected) last.push_back(f.box);
    p += found(photo, first, min_side), r += found(photo, second, min_side), o += found(photo, last, min_side);
    squares_p += static_cast<std::int64_t>(first.size()), squares_r += static_cast<std::int64_t>(second.size());
  }
  const auto share = [&](std::int64_t n) { return static_cast<double>(n) / static_cast<double>(std::max<std::int64_t>(faces, 1)); };
  std::printf("{\"schema\": \"mien.detector_quality/1\", \"photographs\": %ld, \"faces\": %ld, \"ap\": %.4f, \"recall\": {\"p\": %.4f, \"r\": %.4f, \"o\": %.4f}, \"boxes_a_photograph\": {\"p\": %.1f, \"r\": %.1f}}\n",
              static_cast<long>(photos), static_cast<long>(faces), average_precision(ranking, faces), share(p), share(r), share(o), static_cast<double>(squares_p) / static_cast<double>(std::max<std::int64_t>(photos, 1)),
              static_cast<double>(squares_r) / static_cast<double>(std::max<std::int64_t>(photos, 1)));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "detector_quality: %s\n", e.what());
    return 1;
  }
}
