#include "mien/face/detector.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "mien/autograd/autograd.h"
#include "mien/kernels/parallel.h"
#include "mien/layers/init.h"
#include "mien/models/mtcnn/inference.h"
#include "mien/models/mtcnn/samples.h"
#include "mien/ops/copy.h"
#include "mien/ops/nms.h"
#include "mien/ops/resize.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

// Candidates of a stage, side by side.
struct Boxes {
  std::vector<std::array<float, 4>> box;
  std::vector<float> score;
  std::vector<std::array<float, 4>> offset;
  std::vector<std::array<float, 10>> points;
  std::size_t size() const { return box.size(); }

  Boxes pick(const std::vector<std::int64_t>& keep) const {
    Boxes out;
    for (const auto k : keep) {
      const auto i = static_cast<std::size_t>(k);
      out.box.push_back(box[i]);
      out.score.push_back(score[i]);
      if (!offset.empty()) out.offset.push_back(offset[i]);
      if (!points.empty()) out.points.push_back(points[i]);
    }
    return out;
  }
  void append(const Boxes& o) {
    box.insert(box.end(), o.box.begin(), o.box.end());
    score.insert(score.end(), o.score.begin(), o.score.end());
    offset.insert(offset.end(), o.offset.begin(), o.offset.end());
  }
};

Boxes suppress(const Boxes& b, double threshold, NmsMode mode = NmsMode::union_, int offset = 0) {
  if (b.size() == 0) return b;
  const auto n = static_cast<std::int64_t>(b.size());
  const Tensor boxes = Tensor::from(std::span<const float>(b.box[0].data(), b.size() * 4), {n, 4});
  const Tensor kept = nms(boxes, Tensor::from(b.score, {n}), threshold, mode, offset);
  std::vector<std::int64_t> keep(static_cast<std::size_t>(kept.numel()));
  for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = kept.data<std::int64_t>()[i];
  return b.pick(keep);
}

// Moves the sides by the net's offsets, in units of the box (R and O count pixels inclusively: `one` = 1).
void regress(Boxes& b, float one) {
  for (std::size_t i = 0; i < b.size(); ++i) {
    auto& [x1, y1, x2, y2] = b.box[i];
    const float w = x2 - x1 + one, h = y2 - y1 + one;
    b.box[i] = {x1 + b.offset[i][0] * w, y1 + b.offset[i][1] * h, x2 + b.offset[i][2] * w, y2 + b.offset[i][3] * h};
  }
}

// The square of the longer side around the same middle.
void make_square(Boxes& b) {
  for (auto& [x1, y1, x2, y2] : b.box) {
    const float w = x2 - x1, h = y2 - y1, l = std::max(w, h);
    x1 = x1 + w * .5f - l * .5f;
    y1 = y1 + h * .5f - l * .5f;
    x2 = x1 + l;
    y2 = y1 + l;
  }
}

// Softmax of the two classes in float steps, as PyTorch does it: near 1 its scores are coarse, so neighbours often tie, and ties keep their order
// in NMS. A more exact quotient would order them otherwise and give other boxes.
float face_probability(float no, float yes) {
  const float top = std::max(no, yes), a = std::exp(no - top), b = std::exp(yes - top);
  return b / (a + b);
}

class Cascade {
 public:
  Cascade(const mtcnn::Inference& nets, const DetectorOptions& options, const Image& image)
      : nets_(nets), options_(options), width_(image.width), height_(image.height),
        bytes_(Tensor::borrow(std::span(image.pixels), {image.height, image.width, 3})), there_(to(bytes_, nets.device())) {}

  Boxes stage1() const {
    const std::vector<Scale> scales = pyramid();
    std::vector<std::array<std::int64_t, 2>> sizes;
    for (const Scale& s : scales) sizes.push_back({s.height, s.width});
    Boxes all;
    for (std::size_t done = 0, some; done < scales.size(); done += some) {
      some = pnet_scales_at_once(std::span(sizes).subspan(done));
      const Tensor part = Tensor::from(std::span<const std::int64_t>(sizes[done].data(), 2 * some), {static_cast<std::int64_t>(some), 2});
      const PnetCandidates found = fetch(nets_.candidates(picture(), part, options_.thresholds[0]));
      std::vector<std::int64_t> first{0};
      for (const auto count : found.counts.span<std::int64_t>()) first.push_back(first.back() + count);
      std::vector<Boxes> kept(some);
      parallel_for(static_cast<std::int64_t>(some), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto s = static_cast<std::size_t>(begin); s < static_cast<std::size_t>(end); ++s)
          kept[s] = suppress(boxes_of(found, first[s], first[s + 1] - first[s], scales[done + s]), .5);
      });
      for (const Boxes& boxes : kept) all.append(boxes);
    }
    Boxes b = suppress(all, .7);
    regress(b, 0);
    make_square(b);
    return b;
  }

  Boxes stage2(const Boxes& squares) const {
    Boxes b = classify(squares, 24, options_.thresholds[1]);
    b = suppress(b, .7);
    regress(b, 1);
    make_square(b);
    return b;
  }

  std::vector<Face> stage3(const Boxes& squares) const {
    Boxes b = classify(squares, 48, options_.thresholds[2]);
    for (std::size_t i = 0; i < b.size(); ++i) {  // points are relative to the square, before the box moves
      const float w = b.box[i][2] - b.box[i][0] + 1, h = b.box[i][3] - b.box[i][1] + 1;
      for (std::size_t k = 0; k < 5; ++k) {
        b.points[i][k] = w * b.points[i][k] + b.box[i][0] - 1;
        b.points[i][k + 5] = h * b.points[i][k + 5] + b.box[i][1] - 1;
      }
    }
    regress(b, 1);
    b = suppress(b, .7, NmsMode::min, 1);
    std::vector<Face> faces(b.size());
    for (std::size_t i = 0; i < b.size(); ++i) {
      faces[i].box = b.box[i];
      faces[i].score = b.score[i];
      for (std::size_t k = 0; k < 5; ++k) faces[i].points[k] = {b.points[i][k], b.points[i][k + 5]};
    }
    return faces;
  }

 private:
  // On the CPU: the counts, then no more rows than there are candidates.
  static PnetCandidates fetch(const PnetCandidates& found) {
    const Tensor counts = to(found.counts, Device::cpu());
    std::int64_t total = 0;
    for (const auto n : counts.span<std::int64_t>()) total += n;
    return {to(slice(found.cells, 0, 0, total), Device::cpu()), to(slice(found.values, 0, 0, total), Device::cpu()), counts};
  }
  // The same bytes as planes. (planes_of would reach another device in another order.)
  Tensor picture() const { return there_.as_strided({3, height_, width_}, {1, width_ * 3, 3}, 0); }

  struct Scale {
    double scale;
    std::int64_t height, width;
  };
  std::vector<Scale> pyramid() const {
    std::vector<Scale> out;
    const double smallest = 12.0 / options_.min_face;
    double side = static_cast<double>(std::min(width_, height_)) * smallest;
    for (double scale = smallest; side >= 12; scale *= options_.factor, side *= options_.factor)
      out.push_back({scale, static_cast<std::int64_t>(static_cast<double>(height_) * scale + 1), static_cast<std::int64_t>(static_cast<double>(width_) * scale + 1)});
    return out;
  }

  // The windows of `count` cells of one scale, in pixels of the picture.
  static Boxes boxes_of(const PnetCandidates& found, std::int64_t first, std::int64_t count, const Scale& scale) {
    const std::int64_t columns = (scale.width - 1) / 2 - 4;
    const auto s = static_cast<float>(scale.scale);
    Boxes b;
    for (std::int64_t i = first; i < first + count; ++i) {
      const std::int64_t cell = found.cells.data<std::int64_t>()[i];
      const float* v = found.values.data<float>() + 5 * i;
      const auto x = static_cast<float>(2 * (cell % columns)), y = static_cast<float>(2 * (cell / columns));
      b.box.push_back({std::floor((x + 1) / s), std::floor((y + 1) / s), std::floor((x + 12) / s), std::floor((y + 12) / s)});
      b.score.push_back(v[0]);
      b.offset.push_back({v[1], v[2], v[3], v[4]});
    }
    return b;
  }

  // The authors' way: the crop lies in a frame of zeros (before normalisation) as large as the square.
  Tensor padded_crop(const std::array<float, 4>& box, const std::array<std::int64_t, 4>& inside, std::int64_t size) const {
    const auto left = static_cast<std::int64_t>(std::trunc(box[0])) - 1, top = static_cast<std::int64_t>(std::trunc(box[1])) - 1;
    const auto right = static_cast<std::int64_t>(std::trunc(box[2])), bottom = static_cast<std::int64_t>(std::trunc(box[3]));
    const std::int64_t w = right - left, h = bottom - top;
    const Tensor frame = Tensor::empty({1, 3, h, w}, DType::u8);
    std::fill_n(frame.data<std::uint8_t>(), 3 * w * h, std::uint8_t{0});
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t y = inside[1]; y < inside[3]; ++y)
        for (std::int64_t x = inside[0]; x < inside[2]; ++x)
          frame.data<std::uint8_t>()[(c * h + y - top) * w + x - left] = bytes_.data<std::uint8_t>()[(y * width_ + x) * 3 + c];
    return affine(resize_area(frame, {size, size}), 1.0 / 128, -127.5 / 128);
  }

  Tensor crops(const std::vector<std::array<float, 4>>& boxes, const std::vector<std::array<std::int64_t, 4>>& cuts, std::int64_t size) const {
    const auto n = static_cast<std::int64_t>(cuts.size());
    if (!options_.zero_pad_crops) {
      const Tensor corners = Tensor::from(std::span<const std::int64_t>(cuts[0].data(), cuts.size() * 4), {n, 4});
      return crop_resize_area(picture(), to(corners, nets_.device()), {size, size}, 127.5f, 1.f / 128);
    }
    const Tensor out = Tensor::empty({n, 3, size, size});
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      const Tensor one = padded_crop(boxes[i], cuts[i], size);
      std::copy_n(one.data<float>(), 3 * size * size, out.data<float>() + static_cast<std::int64_t>(i) * 3 * size * size);
    }
    return to(out, nets_.device());
  }

  // R-Net (24) or O-Net (48) over all squares, in chunks; keeps those above the threshold.
  Boxes classify(const Boxes& squares, std::int64_t size, float threshold) const {
    Boxes out;
    std::vector<std::array<float, 4>> boxes;
    std::vector<std::array<std::int64_t, 4>> cuts;
    for (std::size_t i = 0; i < squares.size(); ++i) {
      if (const auto c = mtcnn::pixels_of(squares.box[i], width_, height_); c[0] < c[2] && c[1] < c[3]) {
        boxes.push_back(squares.box[i]);
        cuts.push_back(c);
      }
      if (!cuts.empty() && (static_cast<int>(cuts.size()) == options_.chunk || i + 1 == squares.size())) {
        const Tensor x = crops(boxes, cuts, size);
        collect(to(size == 24 ? nets_.rnet(x) : nets_.onet(x), Device::cpu()), boxes, threshold, out);
        boxes.clear();
        cuts.clear();
      }
    }
    return out;
  }

  // Rows of a net: logits (no face, face), four offsets, and ten coordinates of points if it makes them.
  static void collect(const Tensor& rows, const std::vector<std::array<float, 4>>& boxes, float threshold, Boxes& out) {
    const auto width = static_cast<std::size_t>(rows.size(1));
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      const float* row = rows.data<float>() + width * i;
      const float p = face_probability(row[0], row[1]);
      if (!(p > threshold)) continue;
      out.box.push_back(boxes[i]);
      out.score.push_back(p);
      out.offset.push_back({row[2], row[3], row[4], row[5]});
      if (width < 16) continue;
      std::array<float, 10> points;
      std::copy_n(row + 6, 10, points.begin());
      out.points.push_back(points);
    }
  }

  const mtcnn::Inference& nets_;
  const DetectorOptions& options_;
  const std::int64_t width_, height_;
  const Tensor bytes_, there_;  // [H, W, 3] here and where the nets run
};

void check(const DetectorOptions& o) {
  if (!(o.min_face >= 12 && std::isfinite(o.min_face))) throw ValueError("detector", "min_face must be at least 12 pixels, got " + std::to_string(o.min_face));
  if (!(o.factor > .1 && o.factor < .99)) throw ValueError("detector", "factor must be above .1 and below .99, got " + std::to_string(o.factor));
  for (const float t : o.thresholds)
    if (!(t >= 0 && t <= 1)) throw ValueError("detector", "thresholds must lie between 0 and 1, got " + std::to_string(t));
  if (o.chunk < 1) throw ValueError("detector", "chunk must be at least 1, got " + std::to_string(o.chunk));
}

}  // namespace

Detector Detector::load(const std::string& weights, DetectorOptions options) {
  const init::SkipRandom skip;
  Mtcnn nets;
  nets.load(load_safetensors(weights), weights);
  return {nets, options};
}

Detector::Detector(const Mtcnn& nets, DetectorOptions options) : nets_(std::make_unique<mtcnn::Inference>(nets, options.device)), options_(options) { check(options_); }
Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;

std::vector<Face> Detector::detect(const Image& image) const {
  if (image.width < 1 || image.height < 1) return {};
  const NoGrad guard;
  const Cascade cascade(*nets_, options_, image);
  return cascade.stage3(cascade.stage2(cascade.stage1()));
}

std::vector<std::array<float, 4>> Detector::propose(const Image& image, int stage) const {
  if (stage != 1 && stage != 2) throw ValueError("propose", "expected stage 1 or 2, got " + std::to_string(stage));
  const NoGrad guard;
  const Cascade cascade(*nets_, options_, image);
  const Boxes first = cascade.stage1();
  return stage == 1 ? first.box : cascade.stage2(first).box;
}

}  // namespace mien
