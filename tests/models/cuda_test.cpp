// Nets on a GPU: the same curves, boxes and embeddings as on the CPU. Skipped, with the reason, where no GPU can be used.
#include <algorithm>
#include <cmath>

#include "catch.h"
#include "mien/face/detector.h"
#include "mien/face/embedder.h"
#include "mien/infer/infer.h"
#include "mien/models/facenet/inception_resnet_v1.h"
#include "mien/models/lenet/lenet.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/autocast.h"
#include "mien/ops/binary.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/normalize.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/tensor/device_allocator.h"
#include "models/parity.h"

namespace mien::test {
namespace {

using Curve = std::vector<double>;

void start(Module& net, DType dtype, Device device) {
  net.to(dtype);
  {
    const NoGrad guard;
    std::uint64_t k = 0;
    for (auto& p : net.parameters()) {
      if (p.value.rank() >= 2) copy_into(p.value, hashed(p.value.shape(), 100 + k, dtype, 2 * std::sqrt(3.0 / static_cast<double>(p.value.numel() / p.value.size(0)))));
      else if (p.name.find("bias") != std::string::npos) fill(p.value, 0);
      ++k;
    }
  }
  net.require_grad();
  net.to(device);
}

Tensor classes(std::int64_t n, std::int64_t of, Device device) {
  std::vector<std::int64_t> y;
  for (std::int64_t i = 0; i < n; ++i) y.push_back(i * 7 % of);
  return to(Tensor::from(y, {n}), device);
}

Curve lenet(DType dtype, Device device) {
  LeNet net;
  start(net, dtype, device);
  const Tensor y = classes(16, 10, device);
  return sgd_curve(net, [&](int step) { return cross_entropy(net.forward(to(hashed({16, 1, 28, 28}, 1000 + static_cast<std::uint64_t>(step), dtype), device)), y); }, .1,
                   training_steps());
}

Curve onet(DType dtype, Device device) {
  ONet net;
  start(net, dtype, device);
  std::vector<std::int64_t> kinds;
  for (std::int64_t i = 0; i < 4; ++i) kinds.push_back(std::array<std::int64_t, 4>{1, 0, -1, -2}[static_cast<std::size_t>(i % 4)]);
  const Tensor labels = to(Tensor::from(kinds, {4}), device);
  return sgd_curve(
      net,
      [&](int step) {
        const auto s = static_cast<std::uint64_t>(step);
        const auto at = [&](const Shape& shape, std::uint64_t seed) { return to(hashed(shape, seed + s, dtype), device); };
        const MtcnnOutput out = net.forward(at({4, 3, 48, 48}, 1000));
        return mtcnn::three_task_loss(out.logits, out.boxes, out.points, labels, at({4, 4}, 2000), at({4, 10}, 3000), {.points = 1}).total;
      },
      .002, training_steps());
}

Curve mobilefacenet(DType dtype, Device device) {
  MobileFaceNet net({.height = 32, .width = 32, .size = 16});
  start(net, dtype, device);
  Tensor head = hashed({6, 16}, 5, dtype);
  const Tensor w = to(head, device), y = classes(8, 6, device);
  return sgd_curve(
      net, [&](int step) { return cross_entropy(linear(net.forward(to(channels_last(hashed({8, 3, 32, 32}, 1000 + static_cast<std::uint64_t>(step), dtype)), device)), w), y); }, .01,
      training_steps());
}

double furthest(const Curve& a, const Curve& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

void compare_devices(const char* name, Curve (*curve)(DType, Device)) {
  INFO(name);
  const Curve c64 = curve(DType::f64, Device::cpu()), g64 = curve(DType::f64, Device::cuda());
  for (std::size_t i = 0; i < c64.size(); ++i) {
    INFO("f64, step " << i << ": " << g64[i] << " on the GPU, " << c64[i] << " on the CPU");
    CHECK(std::abs(g64[i] - c64[i]) <= 1e-9 * std::abs(c64[i]));
  }
  const Curve c32 = curve(DType::f32, Device::cpu()), g32 = curve(DType::f32, Device::cuda()), again = curve(DType::f32, Device::cuda());
  CHECK(std::abs(g32[0] - c64[0]) <= 1e-5 * std::abs(c64[0]));
  const double ours = furthest(g32, c64), cpu = furthest(c32, c64);
  INFO("largest distance from f64: " << ours << " on the GPU, " << cpu << " on the CPU");
  CHECK(ours <= 4 * cpu + 1e-7);
  CHECK(g32 == again);  // the same bits
  std::cout << name << ": f64 " << furthest(g64, c64) << ", f32 from f64 " << ours << " (CPU " << cpu << ")" << std::endl;
}

std::vector<std::string> pictures_in(const std::string& folder) {
  std::vector<std::string> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (const auto kind = entry.path().extension(); kind == ".jpg" || kind == ".png") all.push_back(entry.path().string());
  std::sort(all.begin(), all.end());
  return all;
}

double box_difference(const std::vector<Face>& a, const std::vector<Face>& b) {
  double worst = 0;
  for (const auto& f : a) {  // faces of equal scores may stand in either order
    double nearest = 1e9;
    for (const auto& g : b) {
      double d = 0;
      for (std::size_t k = 0; k < 4; ++k) d = std::max(d, std::abs(static_cast<double>(f.box[k]) - static_cast<double>(g.box[k])));
      for (std::size_t k = 0; k < 5; ++k)
        for (std::size_t c = 0; c < 2; ++c) d = std::max(d, std::abs(static_cast<double>(f.points[k][c]) - static_cast<double>(g.points[k][c])));
      nearest = std::min(nearest, d);
    }
    worst = std::max(worst, nearest);
  }
  return worst;
}

const std::string detector_weights = source_path("weights/mtcnn.safetensors");

// The same faces as a detector on the CPU, to .05 of a pixel. Returns how many.
std::size_t compare_detectors(const Detector& there, const std::vector<std::string>& photos) {
  const Detector here = Detector::load(detector_weights);
  double worst = 0;
  std::size_t faces = 0;
  for (const auto& photo : photos) {
    const Image image = read_image(photo);
    const auto a = here.detect(image), b = there.detect(image);
    INFO(photo);
    CHECK(a.size() == b.size());
    worst = std::max(worst, box_difference(a, b));
    faces += a.size();
  }
  std::cout << photos.size() << " photographs, " << faces << " faces, worst difference " << worst << " px" << std::endl;
  CHECK(worst <= .05);
  return faces;
}

}  // namespace

TEST_CASE("training steps of LeNet on a GPU follow the CPU's", "[cuda][training]") {
  MIEN_NEEDS_CUDA();
  compare_devices("LeNet", lenet);
}
TEST_CASE("training steps of O-Net on a GPU follow the CPU's", "[cuda][training]") {
  MIEN_NEEDS_CUDA();
  compare_devices("O-Net", onet);
}
TEST_CASE("training steps of MobileFaceNet on a GPU follow the CPU's", "[cuda][training]") {
  MIEN_NEEDS_CUDA();
  compare_devices("MobileFaceNet", mobilefacenet);
}

TEST_CASE("training in bf16 and f16 under Autocast learns what f32 learns", "[cuda][training]") {
  MIEN_NEEDS_CUDA();
  const Curve f32 = mobilefacenet(DType::f32, Device::cuda());
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Autocast guard(dtype);
    const Curve half = mobilefacenet(DType::f32, Device::cuda());
    INFO(name(dtype) << ": first losses " << half[0] << ", " << half[5] << ", last " << half.back() << "; f32 " << f32[0] << ", " << f32[5] << ", " << f32.back());
    CHECK(std::abs(half[0] - f32[0]) <= .08 * std::abs(f32[0]));
    CHECK(half.back() < .5 * half[0]);  // after some steps on a handful of crops the curves part; both learn
    CHECK(f32.back() < .5 * f32[0]);
  }
}

TEST_CASE("the detector on a GPU finds the CPU's boxes", "[cuda][detector]") {
  MIEN_NEEDS_CUDA();
  const Detector there = Detector::load(detector_weights, {.device = Device::cuda()});
  CHECK(compare_detectors(there, pictures_in(source_path("demo/photos/images"))) > 30);
  CHECK(there.detect({8, 8, std::vector<std::uint8_t>(192, 127)}).empty());
  CHECK(there.detect({200, 150, std::vector<std::uint8_t>(90000, 127)}).empty());
}
TEST_CASE("the detector on a GPU takes a pyramid of more scales than P-Net does at once", "[cuda][detector]") {
  MIEN_NEEDS_CUDA();
  const Image photo = read_image(source_path("demo/photos/images/maksssksksss121.jpg"));
  Image image{120, 100, {}};  // with two faces; 42 scales
  for (std::int64_t y = 25; y < 125; ++y) image.pixels.insert(image.pixels.end(), photo.pixels.begin() + (y * photo.width + 85) * 3, photo.pixels.begin() + (y * photo.width + 205) * 3);
  DetectorOptions options{.min_face = 12, .factor = .95};
  const auto a = Detector::load(detector_weights, options).detect(image);
  options.device = Device::cuda();
  const auto b = Detector::load(detector_weights, options).detect(image);
  CHECK(a.size() == 2);
  CHECK(b.size() == a.size());
  CHECK(box_difference(a, b) <= .05);
}
TEST_CASE("MTCNN's reference photographs on a GPU give the CPU's boxes", "[cuda][detector]") {
  MIEN_NEEDS_CUDA();
  MIEN_REQUIRE_DATA(folder, "mtcnn-reference");
  const Detector there = Detector::load(detector_weights, {.device = Device::cuda()});
  CHECK(compare_detectors(there, pictures_in(folder)) > 30);
}

TEST_CASE("1,000 detections of mixed sizes on a GPU leave its memory flat", "[cuda][detector]") {
  MIEN_NEEDS_CUDA();
  const Detector there = Detector::load(detector_weights, {.device = Device::cuda()});
  const Image image = read_image(pictures_in(source_path("demo/photos/images")).front());
  std::int64_t reserved = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::int64_t w = std::min<std::int64_t>(image.width, 60 + i * 37 % 260), h = std::min<std::int64_t>(image.height, 50 + i * 53 % 240);
    Image part{w, h, std::vector<std::uint8_t>(static_cast<std::size_t>(w * h * 3))};
    for (std::int64_t y = 0; y < h; ++y) std::copy_n(image.pixels.begin() + y * image.width * 3, w * 3, part.pixels.begin() + y * w * 3);
    there.detect(part);
    const auto now = device_allocator(Device::cuda())->device_stats().reserved;
    if (i == 99) reserved = now;
    if (i > 99) REQUIRE(now == reserved);
  }
}

TEST_CASE("plans on a GPU give the CPU's embeddings", "[cuda][infer]") {
  MIEN_NEEDS_CUDA();
  manual_seed(1);
  const auto check = [](EmbeddingNet& net, const Shape& shape) {
    net.eval();
    const Tensor example = zeros(shape, {.layout = Layout::channels_last});
    infer::Session here(infer::compile(net, example)), there(infer::compile(net, example, {.device = Device::cuda()}));
    for (const std::int64_t batch : {1, 5, 1}) {
      Shape s = shape;
      s[0] = batch;
      for (int run = 0; run < 3; ++run) {  // call by call, recorded, replayed
        const Tensor x = channels_last(randn(s));
        const auto a = here(x).to_vector(), b = there(to(x, Device::cuda())).to_vector();
        REQUIRE(a.size() == b.size());
        double worst = 0, scale = 0;
        for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i])), scale = std::max(scale, std::abs(a[i]));
        INFO("batch " << batch << ", run " << run << ": worst " << worst << " of " << scale);
        CHECK(worst <= 1e-4 * scale);
      }
    }
  };
  MobileFaceNet mobile({.height = 112, .width = 112, .size = 512});
  check(mobile, {1, 3, 112, 112});
  InceptionResnetV1 inception;
  check(inception, {1, 3, 160, 160});
}

TEST_CASE("a session on a GPU that goes from shape to shape replays the right recording, with memory flat", "[cuda][infer]") {
  MIEN_NEEDS_CUDA();
  const Device gpu = Device::cuda();
  manual_seed(1);
  MobileFaceNet net({.height = 32, .width = 32, .size = 64});
  net.eval();
  const auto plan = infer::compile(net, zeros({1, 3, 32, 32}, {.layout = Layout::channels_last}), {.device = gpu});
  infer::Session kept(plan);
  std::int64_t reserved = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::int64_t n = 1 + (i * 7 + i / 40) % (i < 500 ? 6 : 12);  // first as many shapes as are kept, then more
    const Tensor x = to(channels_last(randn({n, 3, 32, 32})), gpu);
    const auto got = kept(x).to_vector();
    if (i % 50 == 0) {
      infer::Session fresh(plan);
      REQUIRE(got == fresh(x).to_vector());
    }
    const auto now = device_allocator(gpu)->device_stats().reserved;
    if (i == 699) reserved = now;
    if (i > 699) REQUIRE(now <= reserved + (std::int64_t{20} << 20));  // one segment of the allocator; a leak would be hundreds
  }
}

TEST_CASE("a GPU without memory says what was wanted, and goes on", "[cuda][memory]") {
  MIEN_NEEDS_CUDA();
  const auto memory = device_allocator(Device::cuda());
  const auto before = memory->device_stats().out_of_memory;
  const std::int64_t room = memory->largest_available();
  const Tensor ballast = Tensor::empty({room - (std::int64_t{1} << 30)}, DType::u8, Layout::contiguous, Device::cuda());
  for (int i = 0; i < 20; ++i) {
    const auto said = message_of<OutOfMemory>([] { Tensor::empty({std::int64_t{4} << 30}, DType::u8, Layout::contiguous, Device::cuda()); });
    CHECK(said.find("4096") != std::string::npos);  // MiB wanted
  }
  CHECK(memory->device_stats().out_of_memory == before + 20);
  CHECK(full({1000}, 2, {.device = Device::cuda()}).to_vector() == std::vector<double>(1000, 2.0));
}

TEST_CASE("tensors go from one GPU to another, with their gradients", "[cuda]") {
  MIEN_NEEDS_CUDA();
  if (cuda_device_count() < 2) MIEN_SKIP("one GPU only");
  const Device a = Device::cuda(0), b = Device::cuda(1);
  for (int i = 0; i < 20; ++i) {
    Tensor x = full({1 << 20}, i, {.device = a});
    set_requires_grad(x);
    const Tensor y = to(affine(x, 2, 1), b);
    CHECK(y.device() == b);
    backward(sum(square(y)));
    CHECK(on_cpu(y).at<float>({77}) == static_cast<float>(2 * i + 1));
    CHECK(grad(x).device() == a);
    CHECK(on_cpu(grad(x)).at<float>({99}) == static_cast<float>(4 * (2 * i + 1)));
  }
}

TEST_CASE("values, seeds and devices", "[cuda]") {
  MIEN_NEEDS_CUDA();
  const Device gpu = Device::cuda();
  const Tensor x = Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {2, 3}), y = to(x, gpu);
  CHECK(y.to_vector() == x.to_vector());
  CHECK(y.device() == gpu);
  CHECK(to(y, Device::cpu()).to_vector() == x.to_vector());
  CHECK(message_of<DeviceError>([&] { y.data<float>(); }).find("mien::to(x, Device::cpu())") != std::string::npos);
  CHECK(message_of<DeviceError>([&] { matmul(x, to(x, gpu)); }).find("mien::to(x, device)") != std::string::npos);
  CHECK(message_of<DeviceError>([] { Device::cuda(15); }).find("cuda:15 was asked for") != std::string::npos);
  manual_seed(7);
  const auto cpu_uniform = rand({1000}).to_vector();
  const auto cpu_integers = randint(0, 1000, {1000}).to_vector();
  manual_seed(7);
  CHECK(rand({1000}, {.device = gpu}).to_vector() == cpu_uniform);
  CHECK(randint(0, 1000, {1000}, {.dtype = DType::i64, .device = gpu}).to_vector() == cpu_integers);
}

}  // namespace mien::test
