#include "mien/face/align.h"

#include <algorithm>
#include <cmath>

#include "mien/ops/resize.h"

namespace mien {
namespace {

// f32 [1, 3, h, w] in 0..255 as a picture.
Image to_image(const Tensor& planes) {
  const std::int64_t h = planes.size(2), w = planes.size(3);
  Image out{w, h, std::vector<std::uint8_t>(static_cast<std::size_t>(h * w * 3))};
  const float* from = planes.data<float>();
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t i = 0; i < h * w; ++i) out.pixels[static_cast<std::size_t>(i * 3 + c)] = static_cast<std::uint8_t>(std::clamp(std::lround(from[c * h * w + i]), 0l, 255l));
  return out;
}

Image aligned_by_points(const Tensor& picture, const Face& face, const EmbeddingSpec& spec) {
  // The map from the crop to the picture is the one that the kernel wants.
  const auto m = similarity_transform(spec.points, face.points);
  return to_image(warp_affine(picture, Tensor::from(std::span<const double>(m), {1, 2, 3}), {spec.height, spec.width}));
}

// facenet-pytorch's extract_face: the margin is given in pixels of the crop and grows with the box.
Image aligned_by_box(const Tensor& picture, const Image& image, const Face& face, const EmbeddingSpec& spec) {
  const auto side = [&](float low, float high, std::int64_t crop, std::int64_t limit) {
    const double margin = spec.margin * static_cast<double>(high - low) / (static_cast<double>(crop) - spec.margin);
    return std::pair{static_cast<std::int64_t>(std::max(static_cast<double>(low) - margin / 2, 0.0)), static_cast<std::int64_t>(std::min(static_cast<double>(high) + margin / 2, static_cast<double>(limit)))};
  };
  const auto [x1, x2] = side(face.box[0], face.box[2], spec.width, image.width);
  const auto [y1, y2] = side(face.box[1], face.box[3], spec.height, image.height);
  if (x1 >= x2 || y1 >= y2) return {};
  return to_image(crop_resize_area(picture, Tensor::from({x1, y1, x2, y2}, {1, 4}), {spec.height, spec.width}));
}

}  // namespace

// With points as complex numbers around their means, the best factor is sum(conj(from) to) / sum(|from|^2).
std::array<double, 6> similarity_transform(const FivePoints& from, const FivePoints& to) {
  double fx = 0, fy = 0, tx = 0, ty = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    fx += static_cast<double>(from[i][0]) / 5, fy += static_cast<double>(from[i][1]) / 5;
    tx += static_cast<double>(to[i][0]) / 5, ty += static_cast<double>(to[i][1]) / 5;
  }
  double a = 0, b = 0, spread = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    const double x = static_cast<double>(from[i][0]) - fx, y = static_cast<double>(from[i][1]) - fy, u = static_cast<double>(to[i][0]) - tx, v = static_cast<double>(to[i][1]) - ty;
    a += x * u + y * v;
    b += x * v - y * u;
    spread += x * x + y * y;
  }
  if (!(spread > 0)) throw ValueError("similarity_transform", "the five points lie on one spot");
  a /= spread, b /= spread;
  return {a, -b, tx - a * fx + b * fy, b, a, ty - b * fx - a * fy};
}

Image align_face(const Image& image, const Face& face, const EmbeddingSpec& spec) {
  if (image.width < 1 || image.height < 1) return {};
  const Tensor picture = planes_of(image);
  return spec.alignment == EmbeddingSpec::Alignment::similarity ? aligned_by_points(picture, face, spec) : aligned_by_box(picture, image, face, spec);
}

std::vector<AlignedFace> aligned_faces(const Image& image, const Detector* detector, const EmbeddingSpec& spec, FaceChoice choice) {
  if (!detector) {
    if (image.width != spec.width || image.height != spec.height)
      throw ShapeError("align", "an aligned picture must have " + std::to_string(spec.width) + "x" + std::to_string(spec.height) + " pixels (width x height), this one has " +
                                    std::to_string(image.width) + "x" + std::to_string(image.height), "Leave out --aligned for ordinary pictures.");
    return {{std::nullopt, image}};
  }
  std::vector<Face> faces = detector->detect(image);
  if (choice != FaceChoice::all && !faces.empty()) faces = {*(choice == FaceChoice::centre ? centre_face(faces, image) : largest_face(faces))};
  std::vector<AlignedFace> out;
  for (const Face& f : faces)
    if (Image crop = align_face(image, f, spec); crop.width > 0) out.push_back({f, std::move(crop)});
  return out;
}

const Face* centre_face(const std::vector<Face>& faces, const Image& image) {
  const auto distance = [&](const Face& f) {
    const double x = static_cast<double>(f.box[0] + f.box[2]) / 2 - static_cast<double>(image.width) / 2, y = static_cast<double>(f.box[1] + f.box[3]) / 2 - static_cast<double>(image.height) / 2;
    return x * x + y * y;
  };
  const auto best = std::min_element(faces.begin(), faces.end(), [&](const Face& a, const Face& b) { return distance(a) < distance(b); });
  return best == faces.end() ? nullptr : &*best;
}

const Face* largest_face(const std::vector<Face>& faces) {
  const auto area = [](const Face& f) { return (f.box[2] - f.box[0]) * (f.box[3] - f.box[1]); };
  const auto best = std::max_element(faces.begin(), faces.end(), [&](const Face& a, const Face& b) { return area(a) < area(b); });
  return best == faces.end() ? nullptr : &*best;
}

}  // namespace mien
