// 50 training steps beside PyTorch's, from the same weights and data (tools/oracle.py training), and the same bits for any number of threads.
#include "mien/data/augment.h"
#include "mien/data/loader.h"
#include "mien/io/crc32c.h"
#include "mien/io/safetensors.h"
#include "mien/kernels/parallel.h"
#include "mien/models/facenet/objective.h"
#include "mien/models/lenet/lenet.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/loss.h"
#include "mien/optim/ema.h"
#include "mien/tensor/generator.h"
#include "models/parity.h"

namespace mien::test {
namespace {

void start(Module& net, DType dtype) {
  net.to(dtype);
  const NoGrad guard;
  std::uint64_t k = 0;
  for (auto& p : net.parameters()) {
    if (p.value.rank() >= 2) copy_into(p.value, hashed(p.value.shape(), 100 + k, dtype, 2 * std::sqrt(3.0 / static_cast<double>(p.value.numel() / p.value.size(0)))));
    else fill(p.value, p.name.find("prelu") != std::string::npos ? .25 : 0);
    ++k;
  }
  net.require_grad();
}

Tensor lenet_labels() {
  std::vector<std::int64_t> y;
  for (std::int64_t i = 0; i < 16; ++i) y.push_back(i * 7 % 10);
  return Tensor::from(y, {16});
}

std::vector<double> lenet_curve(LeNet& net, DType dtype, double lr) {
  start(net, dtype);
  return sgd_curve(net, [&](int step) { return cross_entropy(net.forward(hashed({16, 1, 28, 28}, 1000 + static_cast<std::uint64_t>(step), dtype)), lenet_labels()); }, lr);
}

// All three losses: faces, others, parts and landmark crops in turn.
Tensor onet_loss(const ONet& net, const Tensor& x, std::uint64_t s) {
  const std::int64_t n = x.size(0);
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < n; ++i) labels.push_back(std::array<std::int64_t, 4>{1, 0, -1, -2}[static_cast<std::size_t>(i % 4)]);
  const MtcnnOutput out = net.forward(x);
  return mtcnn::three_task_loss(out.logits, out.boxes, out.points, Tensor::from(labels, {n}), hashed({n, 4}, 2000 + s, x.dtype()), hashed({n, 10}, 3000 + s, x.dtype()), {.points = 1})
      .total;
}

std::vector<double> onet_curve(ONet& net, DType dtype, double lr) {
  start(net, dtype);
  return sgd_curve(
      net,
      [&](int step) {
        const auto s = static_cast<std::uint64_t>(step);
        return onet_loss(net, hashed({16, 3, 48, 48}, 1000 + s, dtype), s);
      },
      lr);
}

template <class Net>
void compare(const char* key, std::vector<double> (*curve)(Net&, DType, double)) {
  compare_training<Net>(read_fixture("training.json")[key], [] { return std::make_unique<Net>(); }, curve);
}

template <class Net>
std::string digest(Net& net) {
  TensorFile file;
  for (const auto& t : net.state_dict()) file.tensors.emplace_back(t.name, t.value);
  return sha256(to_safetensors(file));
}

// 100 steps on batches that worker threads make; the SHA-256 of all weights.
template <class Net>
std::string train_from_loader(Net& net, int workers, std::int64_t batch, const std::function<Tensor(const Tensor&, const Net&)>& loss, const Shape& shape, double lr) {
  start(net, DType::f32);
  net.train();
  Loader loader({.size = 50 * batch, .batch = batch, .seed = 3, .workers = workers},
                [&](std::span<const std::int64_t> rows, std::uint64_t epoch) { return Batch{hashed(shape, static_cast<std::uint64_t>(rows[0]) + 1000 * epoch, DType::f32)}; });
  Sgd optimizer({.lr = lr, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net.parameters());
  for (std::uint64_t epoch = 0; epoch < 2; ++epoch) {
    loader.start(epoch);
    while (auto b = loader.next()) {
      backward(loss((*b)[0], net));
      optimizer.step();
      optimizer.zero_grad();
    }
  }
  return digest(net);
}

// Crops from a formula, augmented by the workers, through a small MobileFaceNet with batch norm, a margin head and moving averages: what train_facenet does.
std::string train_faces(int workers) {
  manual_seed(5);
  MobileFaceNet net({.height = 16, .width = 16, .size = 8, .dropout = .1});
  EmbeddingObjective objective({.size = 8, .classes = 6, .people = PeopleLoss::cosface, .scale = 16, .margin = .1, .center_weight = .1, .triplets = TripletRule::semi_hard});
  net.require_grad();
  objective.require_grad();
  Loader loader({.size = 80, .batch = 8, .seed = 3, .workers = workers}, [&](std::span<const std::int64_t> rows, std::uint64_t epoch) {
    const Tensor x = Tensor::empty({8, 3, 16, 16}), y = Tensor::empty({8}, DType::i64);
    for (std::int64_t k = 0; k < 8; ++k) {
      const std::int64_t row = rows[static_cast<std::size_t>(k)];
      const Tensor picture = Tensor::empty({20, 20, 3}, DType::u8);
      std::uint64_t i = 0;
      for (auto& v : picture.span<std::uint8_t>()) v = static_cast<std::uint8_t>(philox_bits(1, static_cast<std::uint64_t>(row), i++));
      const View from{picture.raw_data(), DType::u8, {3, 20, 20}, {1, 60, 3}}, to{x.data<float>() + k * 768, DType::f32, {3, 16, 16}, {256, 16, 1}};
      augment_crop(from, to, {}, 9, epoch * 1000 + static_cast<std::uint64_t>(row), 127.5f, 1.f / 128);
      y.data<std::int64_t>()[k] = row % 6;
    }
    return Batch{x, y};
  });
  Adam optimizer({.lr = .002});
  optimizer.add_group(net.parameters());
  optimizer.add_group(objective.parameters());
  Ema ema(net.state_dict(), {.decay = .9});
  for (std::uint64_t epoch = 0; epoch < 2; ++epoch) {
    loader.start(epoch);
    while (auto b = loader.next()) {
      backward(objective(net.forward((*b)[0]), (*b)[1], static_cast<std::uint64_t>(optimizer.steps())).total);
      optimizer.step();
      optimizer.zero_grad();
      ema.update();
    }
  }
  ema.swap();
  return digest(net) + digest(objective);
}

struct Threads {
  int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

}  // namespace

TEST_CASE("50 steps of LeNet follow PyTorch's", "[training]") {
  compare<LeNet>("lenet", [](LeNet& n, DType d, double lr) { return lenet_curve(n, d, lr); });
}
TEST_CASE("50 steps of O-Net with three losses follow PyTorch's", "[training]") {
  compare<ONet>("onet", [](ONet& n, DType d, double lr) { return onet_curve(n, d, lr); });
}

TEST_CASE("training gives the same bits for any number of threads and of workers", "[training][determinism]") {
  const Threads restore;
  std::string lenet, onet, faces;
  for (const int threads : {1, 2, 3, 4, 8})
    for (const int workers : {0, 1, 4}) {
      set_num_threads(threads);
      INFO(threads << " threads, " << workers << " workers");
      LeNet a;
      const std::string first = train_from_loader<LeNet>(a, workers, 16, [](const Tensor& x, const LeNet& net) { return cross_entropy(net.forward(x), lenet_labels()); }, {16, 1, 28, 28}, .1);
      ONet b;
      const std::string second = train_from_loader<ONet>(b, workers, 12, [](const Tensor& x, const ONet& net) { return onet_loss(net, x, 7); }, {12, 3, 48, 48}, .002);
      const std::string third = train_faces(workers);
      if (lenet.empty()) lenet = first, onet = second, faces = third;
      CHECK(first == lenet);
      CHECK(second == onet);
      CHECK(third == faces);
    }
}

}  // namespace mien::test
