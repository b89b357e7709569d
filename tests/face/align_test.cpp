// Alignment by five points and by box, the choice of a face, and the set of crops that training reads.
#include <cmath>
#include <fstream>

#include "catch.h"
#include "mien/data/encode.h"
#include "mien/face/align.h"
#include "mien/face/aligned_set.h"
#include "mien/models/mtcnn/mtcnn.h"

namespace mien::test {
namespace {

std::array<double, 2> apply(const std::array<double, 6>& m, double x, double y) { return {m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]}; }

// A picture whose red is its column and green its row.
Image ramp(std::int64_t width, std::int64_t height) {
  Image image{width, height, {}};
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (const auto v : {x, y, std::int64_t{7}}) image.pixels.push_back(static_cast<std::uint8_t>(v));
  return image;
}

EmbeddingSpec spec_of(std::int64_t height, std::int64_t width) {
  EmbeddingSpec s;
  s.architecture = "mobilefacenet";
  s.height = height;
  s.width = width;
  s.size = 128;
  s.points = five_point_template(height, width);
  return s;
}

Face at_points(const FivePoints& points) {
  Face f;
  f.points = points;
  f.box = {points[0][0] - 20, points[0][1] - 20, points[4][0] + 20, points[4][1] + 20};
  return f;
}

}  // namespace

TEST_CASE("similarity_transform finds the turn, scale and shift that made the points", "[align]") {
  const FivePoints from = five_point_template(112, 112);
  const double angle = .3, scale = 1.7, a = scale * std::cos(angle), b = scale * std::sin(angle);
  FivePoints to;
  for (std::size_t i = 0; i < 5; ++i) {
    const double x = static_cast<double>(from[i][0]), y = static_cast<double>(from[i][1]);
    to[i] = {static_cast<float>(a * x - b * y + 5), static_cast<float>(b * x + a * y - 9)};
  }
  const auto m = similarity_transform(from, to);
  CHECK(std::abs(m[0] - a) < 1e-6);
  CHECK(std::abs(m[3] - b) < 1e-6);
  CHECK(m[1] == -m[3]);
  CHECK(m[4] == m[0]);
  CHECK(std::abs(m[2] - 5) < 1e-4);
  CHECK(std::abs(m[5] + 9) < 1e-4);
  // Not exact: no small change of a, b, or the shift comes nearer.
  FivePoints bent = to;
  bent[2][0] += 11, bent[3][1] -= 7;
  const auto best = similarity_transform(from, bent);
  const auto error = [&](const std::array<double, 6>& t) {
    double sum = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      const auto p = apply(t, static_cast<double>(from[i][0]), static_cast<double>(from[i][1]));
      sum += std::pow(p[0] - static_cast<double>(bent[i][0]), 2) + std::pow(p[1] - static_cast<double>(bent[i][1]), 2);
    }
    return sum;
  };
  for (const double d : {-1e-3, 1e-3})
    for (int k = 0; k < 4; ++k) {
      auto other = best;
      if (k == 0) other[0] += d, other[4] += d;
      if (k == 1) other[1] -= d, other[3] += d;
      if (k == 2) other[2] += d;
      if (k == 3) other[5] += d;
      CHECK(error(other) > error(best));
    }
  CHECK_THROWS_AS(similarity_transform(FivePoints{}, to), ValueError);
}

TEST_CASE("a face whose points lie on the template gives the picture itself", "[align]") {
  const Image image = ramp(112, 112);
  const EmbeddingSpec spec = spec_of(112, 112);
  CHECK(align_face(image, at_points(spec.points), spec).pixels == image.pixels);
  // Twice as large: every second pixel pair averaged; 112x96 is the same without 8 columns on each side.
  FivePoints twice = spec.points;
  for (auto& p : twice) p[0] *= 2, p[1] *= 2;
  const Image large = ramp(224, 224), crop = align_face(large, at_points(twice), spec), narrow = align_face(large, at_points(twice), spec_of(112, 96));
  for (const std::int64_t y : {1, 50, 110})
    for (const std::int64_t x : {8, 40, 100}) {
      CHECK(std::abs(crop.pixels[static_cast<std::size_t>((y * 112 + x) * 3)] - 2 * x) <= 1);
      CHECK(std::abs(crop.pixels[static_cast<std::size_t>((y * 112 + x) * 3 + 1)] - 2 * y) <= 1);
      CHECK(std::abs(narrow.pixels[static_cast<std::size_t>((y * 96 + x - 8) * 3)] - 2 * x) <= 1);
    }
}

TEST_CASE("alignment by box keeps facenet's margin and the picture's edges", "[align]") {
  EmbeddingSpec spec = spec_of(160, 160);
  spec.alignment = EmbeddingSpec::Alignment::box;
  spec.margin = 32;
  Face f;
  f.box = {40, 60, 168, 188};  // 128 wide: 32 of 160 pixels of margin are 32 pixels, 16 on each side
  const Image crop = align_face(ramp(250, 250), f, spec);
  REQUIRE(crop.width == 160);
  CHECK(crop.pixels[0] == 24);
  CHECK(crop.pixels[1] == 44);
  CHECK(crop.pixels[static_cast<std::size_t>((159 * 160 + 159) * 3)] == 183);
  f.box = {300, 300, 400, 400};
  CHECK(align_face(ramp(250, 250), f, spec).width == 0);
}

TEST_CASE("the middle face and the largest face", "[align]") {
  Face small, large;
  small.box = {95, 95, 125, 125};
  large.box = {0, 0, 80, 80};
  const std::vector<Face> faces{large, small};
  const Image image = ramp(220, 220);
  CHECK(centre_face(faces, image) == &faces[1]);
  CHECK(largest_face(faces) == &faces[0]);
  CHECK(centre_face({}, image) == nullptr);
  CHECK(largest_face({}) == nullptr);
}

TEST_CASE("five_point_template", "[align]") {
  CHECK(five_point_template(112, 112)[0][0] == Approx(38.2946));
  CHECK(five_point_template(112, 96)[4][0] == Approx(62.7299));
  CHECK(five_point_template(160, 160)[2][1] == Approx(71.7366 * 160 / 112));
  CHECK_THROWS_AS(five_point_template(112, 100), ValueError);
}

TEST_CASE("crops of people are kept in a file and made anew when a picture changes", "[align]") {
  const auto dir = temp_dir("aligned");
  std::filesystem::create_directories(dir / "Ann");
  std::filesystem::create_directories(dir / "Bob");
  const std::string photos = source_path("demo/photos/images/");
  std::filesystem::copy(photos + "maksssksksss19.jpg", dir / "Ann/1.jpg");
  std::filesystem::copy(photos + "maksssksksss23.jpg", dir / "Bob/1.jpg");
  std::ofstream(dir / "Bob/2.jpg") << "no picture";
  write_png((dir / "Ann/2.png").string(), ramp(100, 100));  // no face
  const Detector detector = Detector::load(source_path("weights/mtcnn.safetensors"));
  const People people = read_people(dir.string());
  std::size_t asked = 0;
  AlignOptions o;
  o.cache = (dir / "cache.safetensors").string();
  o.detector_id = "own";
  o.progress = [&](std::size_t, std::size_t total) {
    ++asked;
    REQUIRE(total == 4);
  };
  const AlignedSet first = align_people(people, detector, spec_of(112, 96), o);
  CHECK(asked == 4);
  CHECK(first.names == std::vector<std::string>{"Ann", "Bob"});
  CHECK(first.crops.shape() == Shape{2, 128, 112, 3});
  CHECK(first.without_face == 1);
  REQUIRE(first.unreadable.size() == 1);
  CHECK(first.unreadable[0].find("Bob/2.jpg") != std::string::npos);
  const AlignedSet again = align_people(people, detector, spec_of(112, 96), o);
  CHECK(asked == 4);
  CHECK(again.crops.to_vector() == first.crops.to_vector());
  CHECK(again.files == first.files);
  CHECK(again.person == first.person);
  // What the net sees is the middle of the crop with its border.
  const Image image = read_image(first.files[0]);
  const Image plain = aligned_faces(image, &detector, spec_of(112, 96))[0].crop;
  const View wide = first.crop(0);
  for (const std::int64_t y : {0, 60, 111})
    for (const std::int64_t x : {0, 50, 95})
      CHECK(std::abs(static_cast<int>(plain.pixels[static_cast<std::size_t>((y * 96 + x) * 3)]) - static_cast<int>(wide.ptr<std::uint8_t>()[(y + 8) * wide.stride(1) + (x + 8) * wide.stride(2)])) <= 1);
  o.detector_id = "another";
  align_people(people, detector, spec_of(112, 96), o);
  CHECK(asked == 8);
  std::filesystem::resize_file(o.cache, 1000);  // a damaged file is made anew
  align_people(people, detector, spec_of(112, 96), o);
  CHECK(asked == 12);
  // Stopped before the third and again before the fourth picture.
  o.cache = (dir / "stopped.safetensors").string();
  for (const std::size_t stop : {2, 3, 4}) {
    asked = 0;
    std::size_t before = stop == 2 ? 0 : stop - 1;
    o.stop = [&] { return before + asked == stop; };
    const AlignedSet part = align_people(people, detector, spec_of(112, 96), o);
    CHECK(asked == stop - before);
    CHECK(part.pictures() == stop);
  }
  const AlignedSet joined = align_people(people, detector, spec_of(112, 96), o);
  CHECK(asked == 1);
  CHECK(joined.crops.to_vector() == first.crops.to_vector());
  CHECK(joined.names == first.names);
  CHECK(joined.files == first.files);
  CHECK(joined.person == first.person);
  CHECK(joined.unreadable == first.unreadable);
  asked = 12;
  o.stop = {};
  o.cache = (dir / "weights.safetensors").string();  // another kind of file stays as it is
  std::filesystem::copy_file(source_path("weights/mtcnn.safetensors"), o.cache);
  const auto size = std::filesystem::file_size(o.cache);
  CHECK(message_of<IoError>([&] { align_people(people, detector, spec_of(112, 96), o); }).find("weights.safetensors: is no cache of aligned crops") != std::string::npos);
  CHECK(asked == 12);
  CHECK(std::filesystem::file_size(o.cache) == size);
  std::filesystem::remove_all(dir);
}

}  // namespace mien::test
