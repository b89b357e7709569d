#include "mien/models/mtcnn/samples.h"

#include <algorithm>
#include <cmath>

#include "mien/ops/resize.h"
#include "mien/tensor/generator.h"

namespace mien::mtcnn {
namespace {

// Draws that depend on (seed, stream) and their number alone.
class Draw {
 public:
  Draw(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_((std::uint64_t{1} << 49) + stream) {}
  float uniform(float low, float high) { return low + (high - low) * philox_uniform(seed_, stream_, next_++); }
  std::int64_t integer(std::int64_t low, std::int64_t high) {  // [low, high)
    return high <= low ? low : low + philox_integer(seed_, stream_, next_++, high - low);
  }

 private:
  std::uint64_t seed_, stream_, next_ = 0;
};

struct Crop {
  Box square;  // as the detector sees it: what targets are relative to
  std::array<std::int64_t, 4> pixels;  // what is cut out, half-open and inside the picture
  Label label;
  Box box{};
  std::array<float, 10> points{};
};

// The square that P-Net's decoding gives for the window [x, x + size): see the head of samples.h.
Box cell_of_window(float x, float y, float size) {
  const float lead = size / 12;
  return {x + lead, y + lead, x + size, y + size};
}

Box box_target(const Box& truth, const Box& square, bool inclusive) {
  const float w = square[2] - square[0] + (inclusive ? 1.f : 0.f), h = square[3] - square[1] + (inclusive ? 1.f : 0.f);
  return {(truth[0] - square[0]) / w, (truth[1] - square[1]) / h, (truth[2] - square[2]) / w, (truth[3] - square[3]) / h};
}

bool usable(const std::array<std::int64_t, 4>& p) { return p[2] - p[0] >= 4 && p[3] - p[1] >= 4; }

void append(SampleSet& set, const Image& image, const std::vector<Crop>& crops) {
  if (crops.empty()) return;
  const Tensor planes = planes_of(image);
  constexpr std::size_t chunk = 512;
  for (std::size_t begin = 0; begin < crops.size(); begin += chunk) {
    const std::size_t end = std::min(begin + chunk, crops.size());
    std::vector<std::int64_t> corners;
    for (std::size_t i = begin; i < end; ++i) corners.insert(corners.end(), crops[i].pixels.begin(), crops[i].pixels.end());
    const Tensor cut_out = crop_resize_area(planes, Tensor::from(corners, {static_cast<std::int64_t>(end - begin), 4}), {set.size, set.size});
    for (const float v : cut_out.span<float>()) set.pixels.push_back(static_cast<std::uint8_t>(std::lround(std::clamp(v, 0.f, 255.f))));
    for (std::size_t i = begin; i < end; ++i) {
      set.labels.push_back(crops[i].label);
      set.boxes.push_back(crops[i].box);
      set.points.push_back(crops[i].points);
    }
  }
}

float best_iou(const Box& square, const std::vector<LabelledFace>& faces, const LabelledFace** best = nullptr) {
  float top = 0;
  for (const auto& f : faces)
    if (const float o = iou(square, f.box); o > top) {
      top = o;
      if (best) *best = &f;
    }
  return top;
}

// A window of the photograph and what the net should see as its box, for stages of either kind.
struct Window {
  Box square;
  std::array<std::int64_t, 4> pixels;
};
Window window_at(float x, float y, float size, const SampleSet& set, const Image& image) {
  if (set.size == 12) {
    const auto left = std::lround(x), top = std::lround(y), side = std::lround(size);
    return {cell_of_window(static_cast<float>(left), static_cast<float>(top), static_cast<float>(side)),
            {std::max<std::int64_t>(left, 0), std::max<std::int64_t>(top, 0), std::min<std::int64_t>(left + side, image.width), std::min<std::int64_t>(top + side, image.height)}};
  }
  const Box b{x, y, x + size, y + size};
  return {b, pixels_of(b, image.width, image.height)};
}

void add_negatives(std::vector<Crop>& crops, Draw& draw, const SampleSet& set, const Scene& scene, const SamplingOptions& o) {
  const auto& image = scene.image;
  const float shorter = static_cast<float>(std::min(image.width, image.height));
  if (shorter < 24) return;
  if (scene.photo.all_faces)
    for (int i = 0; i < o.negatives_per_photo; ++i) {
      // Uniform in the logarithm: small windows are what the pyramid mostly shows.
      const float size = std::exp(draw.uniform(std::log(12.f), std::log(shorter / 1.5f)));
      const Window w = window_at(draw.uniform(0, static_cast<float>(image.width) - size), draw.uniform(0, static_cast<float>(image.height) - size), size, set, image);
      if (best_iou(w.square, scene.photo.faces) < .3f && usable(w.pixels)) crops.push_back({w.square, w.pixels, negative});
    }
  for (const auto& f : scene.photo.faces) {
    const float fw = f.box[2] - f.box[0], fh = f.box[3] - f.box[1];
    if (std::max(fw, fh) < 12) continue;
    for (int i = 0; i < o.negatives_per_face; ++i) {
      const float size = draw.uniform(std::min(12.f, shorter / 2), std::max(shorter / 2, 1.5f * std::max(fw, fh)));
      const float x = f.box[0] + draw.uniform(-size, fw), y = f.box[1] + draw.uniform(-size, fh);
      if (x < 0 || y < 0 || x + size > static_cast<float>(image.width) || y + size > static_cast<float>(image.height)) continue;
      const Window w = window_at(x, y, size, set, image);
      if (best_iou(w.square, scene.photo.faces) < .3f && usable(w.pixels)) crops.push_back({w.square, w.pixels, negative});
    }
  }
}

std::array<float, 10> point_target(const LabelledFace& f, const Box& square) {
  std::array<float, 10> out{};
  const float w = square[2] - square[0] + 1, h = square[3] - square[1] + 1;
  for (std::size_t k = 0; k < 5; ++k) {
    out[k] = ((*f.points)[k][0] - square[0] + 1) / w;
    out[k + 5] = ((*f.points)[k][1] - square[1] + 1) / h;
  }
  return out;
}

void add_near_face(std::vector<Crop>& crops, Draw& draw, const SampleSet& set, const Scene& scene, const LabelledFace& f, const SamplingOptions& o) {
  const float fw = f.box[2] - f.box[0], fh = f.box[3] - f.box[1], low = std::min(fw, fh), high = std::max(fw, fh);
  if (high < o.smallest_face) return;
  const auto near = [&](float reach) {
    const float size = draw.uniform(.8f * low, 1.25f * high);
    const float cx = (f.box[0] + f.box[2]) / 2 + draw.uniform(-reach, reach) * fw, cy = (f.box[1] + f.box[3]) / 2 + draw.uniform(-reach, reach) * fh;
    return window_at(cx - size / 2, cy - size / 2, size, set, scene.image);
  };
  for (int i = 0; i < o.tries_per_face; ++i) {
    const Window w = near(i % 2 ? .2f : .35f);
    const float overlap = iou(w.square, f.box);
    if (overlap < .4f || !usable(w.pixels)) continue;
    crops.push_back({w.square, w.pixels, overlap >= .65f ? positive : part, box_target(f.box, w.square, set.size != 12)});
  }
  if (!f.points) return;
  for (int i = 0, made = 0; i < 3 * o.landmarks_per_face && made < o.landmarks_per_face; ++i) {
    const Window w = near(.2f);
    if (iou(w.square, f.box) < .6f || !usable(w.pixels)) continue;
    crops.push_back({w.square, w.pixels, landmark, {}, point_target(f, w.square)});
    ++made;
  }
}

}  // namespace

std::int64_t SampleSet::count(Label label) const noexcept { return std::count(labels.begin(), labels.end(), label); }

std::array<std::int64_t, 4> pixels_of(const Box& b, std::int64_t width, std::int64_t height) noexcept {
  const auto t = [](float v) { return static_cast<std::int64_t>(std::trunc(v)); };
  return {std::max<std::int64_t>(t(b[0]), 1) - 1, std::max<std::int64_t>(t(b[1]), 1) - 1, std::min(t(b[2]), width), std::min(t(b[3]), height)};
}

float iou(const Box& a, const Box& b) noexcept {
  const float w = std::min(a[2], b[2]) - std::max(a[0], b[0]), h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const float overlap = w * h;
  return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap);
}

Scene read_scene(const LabelledPhoto& photo) { return {read_image(photo.file), photo}; }

Scene mirrored(const Scene& scene) {
  Scene out = scene;
  const auto w = scene.image.width, h = scene.image.height;
  for (std::int64_t y = 0; y < h; ++y)
    for (std::int64_t x = 0; x < w; ++x)
      for (std::int64_t c = 0; c < 3; ++c)
        out.image.pixels[static_cast<std::size_t>((y * w + x) * 3 + c)] = scene.image.pixels[static_cast<std::size_t>((y * w + w - 1 - x) * 3 + c)];
  const float width = static_cast<float>(w);
  for (auto& f : out.photo.faces) {
    f.box = {width - f.box[2], f.box[1], width - f.box[0], f.box[3]};
    if (!f.points) continue;
    for (auto& p : *f.points) p[0] = width - 1 - p[0];
    std::swap((*f.points)[0], (*f.points)[1]);  // left and right are the viewer's
    std::swap((*f.points)[3], (*f.points)[4]);
  }
  return out;
}

void add_random_crops(SampleSet& set, const Scene& scene, std::uint64_t stream, const SamplingOptions& options) {
  Draw draw(options.seed, stream);
  std::vector<Crop> crops;
  add_negatives(crops, draw, set, scene, options);
  for (const auto& f : scene.photo.faces) add_near_face(crops, draw, set, scene, f, options);
  append(set, scene.image, crops);
}

void add_proposals(SampleSet& set, const Scene& scene, const std::vector<Box>& squares, const SamplingOptions& options) {
  std::vector<Crop> crops;
  int negatives = 0;
  for (const auto& s : squares) {
    const auto pixels = pixels_of(s, scene.image.width, scene.image.height);
    if (!usable(pixels)) continue;
    const LabelledFace* face = nullptr;
    const float overlap = best_iou(s, scene.photo.faces, &face);
    if (overlap < .3f) {
      if (!scene.photo.all_faces || negatives >= options.max_negatives) continue;
      ++negatives;
      crops.push_back({s, pixels, negative});
    } else if (overlap >= .4f && std::max(face->box[2] - face->box[0], face->box[3] - face->box[1]) >= options.smallest_face * .6f) {
      crops.push_back({s, pixels, overlap >= .65f ? positive : part, box_target(face->box, s, true)});
      if (face->points && options.landmarks_per_face > 0 && overlap >= .6f) crops.push_back({s, pixels, landmark, {}, point_target(*face, s)});
    }
  }
  append(set, scene.image, crops);
}

Batch make_batch(const SampleSet& set, std::span<const std::int64_t> rows, std::uint64_t epoch, std::uint64_t seed, bool augment) {
  const auto n = static_cast<std::int64_t>(rows.size()), bytes = 3 * set.size * set.size;
  const Tensor crops = Tensor::empty({n, 3, set.size, set.size}), labels = Tensor::empty({n}, DType::i64), boxes = Tensor::empty({n, 4}), points = Tensor::empty({n, 10});
  for (std::int64_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(rows[static_cast<std::size_t>(i)]);
    float contrast = 1, brightness = 0;
    if (augment) {
      const std::uint64_t stream = (std::uint64_t{1} << 50) + epoch;
      contrast = .75f + .5f * philox_uniform(seed, stream, 2 * row);
      brightness = (philox_uniform(seed, stream, 2 * row + 1) - .5f) * 50;
    }
    const std::uint8_t* from = set.pixels.data() + row * static_cast<std::size_t>(bytes);
    float* to = crops.data<float>() + i * bytes;
    for (std::int64_t k = 0; k < bytes; ++k)
      to[k] = std::clamp((static_cast<float>(from[k]) - 127.5f) * contrast + brightness, -127.5f, 127.5f) * (1.f / 128.f);
    labels.data<std::int64_t>()[i] = set.labels[row];
    std::copy(set.boxes[row].begin(), set.boxes[row].end(), boxes.data<float>() + i * 4);
    std::copy(set.points[row].begin(), set.points[row].end(), points.data<float>() + i * 10);
  }
  return {crops, labels, boxes, points};
}

}  // namespace mien::mtcnn
