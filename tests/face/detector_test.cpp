// The detector against boxes that facenet-pytorch computed (tools/oracle.py boxes and mtcnn; the reference set of the data folder).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "mien/face/detector.h"
#include "mien/io/torch_file.h"
#include "mien/kernels/parallel.h"
#include "mien/models/mtcnn/mtcnn.h"

namespace mien::test {
namespace {

using nlohmann::json;

json read_json(const std::string& path) { return json::parse(std::ifstream(path)); }

// The authors' weights as a mien model.
void load_authors(Mtcnn& nets, const std::string& folder) {
  std::vector<TensorFile> parts;
  for (const char* name : {"pnet", "rnet", "onet"}) parts.push_back(load_tensors(folder + "/" + name + ".pt"));
  nets.load(convert_mtcnn(parts), folder);
  nets.pnet.eval(), nets.rnet.eval(), nets.onet.eval();
}

// The reference photographs lie in the folders of the projects that they come from.
std::string find_photo(const std::string& root, const std::string& name) {
  for (const char* folder : {"facenet-pytorch", "face-api.js", "ipazc"})
    if (const std::string path = root + "/" + folder + "/" + name; std::filesystem::exists(path)) return path;
  FAIL("no " << name << " below " << root);
  return {};
}

double distance(const std::array<float, 4>& a, const json& b) {
  double worst = 0;
  for (std::size_t k = 0; k < 4; ++k) worst = std::max(worst, std::abs(static_cast<double>(a[k]) - b[k].get<double>()));
  return worst;
}

// Each expected box has exactly one partner: both lists hold the same boxes, in whatever order.
void check_boxes(const std::vector<std::array<float, 4>>& got, const json& expected) {
  REQUIRE(got.size() == expected.size());
  std::vector<bool> used(got.size());
  for (const auto& e : expected) {
    std::size_t best = got.size();
    double nearest = 1e9;
    for (std::size_t i = 0; i < got.size(); ++i)
      if (const double d = distance(got[i], e); !used[i] && d < nearest) nearest = d, best = i;
    CHECK(nearest <= .05);
    if (best < got.size()) used[best] = true;
  }
}

// {"box", "prob", "landmarks"} a face, by falling probability.
void check_faces(const std::vector<Face>& got, const json& expected, double score_tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    // Faces whose scores agree to the tolerance may stand in either order.
    std::size_t best = 0;
    for (std::size_t k = 1; k < expected.size(); ++k)
      if (distance(got[i].box, expected[k]["box"]) < distance(got[i].box, expected[best]["box"])) best = k;
    const json& e = expected[best];
    CHECK(distance(got[i].box, e["box"]) <= .05);
    CHECK(std::abs(static_cast<double>(got[i].score) - e["prob"].get<double>()) <= score_tolerance);
    for (std::size_t k = 0; k < 5; ++k)
      for (std::size_t c = 0; c < 2; ++c) CHECK(std::abs(static_cast<double>(got[i].points[k][c]) - e["landmarks"][k][c].get<double>()) <= .05);
  }
}

Image gray(std::int64_t width, std::int64_t height) { return {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 127)}; }

const std::string own_weights = source_path("weights/mtcnn.safetensors");

struct Threads {
  int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

}  // namespace

TEST_CASE("the repository's weights find what facenet-pytorch finds with them", "[detector]") {
  const Detector detector = Detector::load(own_weights);
  const json expected = read_json(fixture("demo_boxes.json"));
  REQUIRE(expected.size() >= 20);
  for (const auto& [name, faces] : expected.items()) {
    INFO(name);
    check_faces(detector.detect(read_image(source_path("demo/photos/images/" + name))), faces, 1e-4);
  }
}

TEST_CASE("the authors' weights give the reference boxes", "[detector][data]") {
  MIEN_REQUIRE_DATA(reference, "mtcnn-reference");
  MIEN_REQUIRE_DATA(weights, "mtcnn-weights/facenet-pytorch");
  Mtcnn nets;
  load_authors(nets, weights);
  const Detector detector(nets);
  const json all = read_json(reference + "/facenet-pytorch/reference_boxes.json");
  std::size_t faces = 0;
  for (const auto& [name, value] : all.items()) {
    INFO(name);
    faces += value["faces"].size();
    check_faces(detector.detect(read_image(find_photo(reference, name))), value["faces"], 1e-3);
  }
  CHECK(faces == 83);
  CHECK(detector.detect(read_image(find_photo(reference, "no-faces.jpg"))).empty());
}

TEST_CASE("every stage gives the boxes of facenet-pytorch's", "[detector][data]") {
  MIEN_REQUIRE_DATA(reference, "mtcnn-reference");
  MIEN_REQUIRE_DATA(weights, "mtcnn-weights/facenet-pytorch");
  Mtcnn nets;
  load_authors(nets, weights);
  const Detector detector(nets);
  const json all = read_json(fixture("mtcnn_stages.json"));
  for (const auto& [name, stages] : all.items()) {
    INFO(name);
    const Image image = read_image(find_photo(reference, name));
    check_boxes(detector.propose(image, 1), stages["p"]);
    check_boxes(detector.propose(image, 2), stages["r"]);
    json faces = json::array();
    for (std::size_t i = 0; i < stages["o"].size(); ++i) faces.push_back({{"box", stages["o"][i]}, {"prob", stages["o"][i][4]}, {"landmarks", stages["points"][i]}});
    check_faces(detector.detect(image), faces, 1e-4);
  }
}

TEST_CASE("odd pictures have no faces and do no harm", "[detector]") {
  for (const bool zero_pad : {false, true}) {
    const Detector detector = Detector::load(own_weights, {.zero_pad_crops = zero_pad});
    for (const auto& [w, h] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {1, 1}, {11, 2000}, {2000, 11}, {12, 12}, {19, 19}, {20, 20}, {21, 333}}) {
      INFO(w << " x " << h);
      CHECK(detector.detect(gray(w, h)).empty());
    }
  }
}

TEST_CASE("detections have the same bits for any number of threads; the size of a chunk does not matter", "[detector][determinism]") {
  const Threads restore;
  const json demo = read_json(fixture("demo_boxes.json"));
  const Image image = read_image(source_path("demo/photos/images/") + demo.begin().key());
  const auto run = [&](int threads, int chunk) {
    set_num_threads(threads);
    return Detector::load(own_weights, {.chunk = chunk}).detect(image);
  };
  const auto expected = run(1, 64);
  REQUIRE(!expected.empty());
  for (const int threads : {2, 3, 4, 8}) {
    const auto got = run(threads, 64);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].box == expected[i].box);
      CHECK(got[i].score == expected[i].score);
      CHECK(got[i].points == expected[i].points);
    }
  }
  for (const int chunk : {1, 7}) {
    const auto got = run(2, chunk);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      for (std::size_t k = 0; k < 4; ++k) CHECK(std::abs(got[i].box[k] - expected[i].box[k]) <= .01f);
  }
}

TEST_CASE("options of the detector are checked", "[detector]") {
  const auto message = [](DetectorOptions o) {
    try {
      Detector::load(own_weights, o);
    } catch (const ValueError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(message({.min_face = 11}) == "detector: min_face must be at least 12 pixels, got 11.000000");
  CHECK(message({.min_face = NAN}).find("min_face") != std::string::npos);
  CHECK(message({.thresholds = {.6f, 1.7f, .7f}}).find("thresholds must lie between 0 and 1") != std::string::npos);
  CHECK(message({.factor = 1}).find("factor must be above") != std::string::npos);
  CHECK(message({.chunk = 0}).find("chunk must be at least 1") != std::string::npos);
  CHECK_THROWS_AS(Detector::load("/nowhere/mtcnn.safetensors"), IoError);
}

TEST_CASE("weights that are not MTCNN's are refused by name", "[detector][io]") {
  TensorFile file = load_safetensors(own_weights);
  Mtcnn nets;
  const auto message = [&](const TensorFile& f) {
    try {
      nets.load(f, "w.safetensors");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  TensorFile missing = file, shaped = file, extra = file, nan = file;
  missing.tensors.erase(missing.tensors.begin());
  CHECK(message(missing).find(file.tensors[0].first) != std::string::npos);
  CHECK(message(missing).find("w.safetensors") != std::string::npos);
  shaped.tensors[0].second = Tensor::empty({3, 3});
  CHECK(message(shaped).find(file.tensors[0].first) != std::string::npos);
  extra.tensors.emplace_back("pnet.conv9.weight", Tensor::from(std::vector<float>{1}, {1}));
  CHECK(message(extra).find("pnet.conv9.weight") != std::string::npos);
  const Tensor bad = Tensor::empty(file.tensors[0].second.shape());
  for (float& v : bad.span<float>()) v = NAN;
  nan.tensors[0].second = bad;
  CHECK(message(nan).find(file.tensors[0].first) != std::string::npos);
}

}  // namespace mien::test
