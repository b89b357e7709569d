// Inception-ResNet-v1 beside facenet-pytorch (tools/oracle_facenet.py forward, training): every module's output, the embeddings,
// gradients, 50 training steps with each loss.
#include "mien/autograd/gradcheck.h"
#include "mien/layers/metric.h"
#include "mien/models/facenet/convert.h"
#include "mien/ops/loss.h"
#include "mien/ops/metric_loss.h"
#include "mien/ops/normalize.h"
#include "mien/ops/pool.h"
#include "mien/ops/reduce.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "models/inception_data.h"

namespace mien::test {
namespace {

// Runs the net module by module, as `forward` does, and shows each module's output under its name.
struct Walk {
  std::function<void(const std::string&, const Tensor&)> see;

  Tensor seen(const std::string& name, Tensor t) const {
    see(name, t);
    return t;
  }
  Tensor operator()(const std::string& name, inception::ConvNormRelu& m, const Tensor& x) const {
    const Tensor h = seen(name + ".bn", m.bn(seen(name + ".conv", m.conv(x))));
    return seen(name, seen(name + ".relu", relu(h)));
  }
  Tensor operator()(const std::string& name, inception::Branch& m, const Tensor& x) const {
    if (m.convs.empty()) return seen(name, m(x));
    if (m.convs.size() == 1) return (*this)(name, m.convs[0], x);
    Tensor h = x;
    for (std::size_t i = 0; i < m.convs.size(); ++i) h = (*this)(name + "." + std::to_string(i), m.convs[i], h);
    return seen(name, h);
  }
  Tensor parts(const std::string& name, inception::Mixed& m, const Tensor& x) const {
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < m.branches.size(); ++i) all.push_back((*this)(name + ".branch" + std::to_string(i), m.branches[i], x));
    return concat(all, 1);
  }
  Tensor operator()(const std::string& name, inception::Mixed& m, const Tensor& x) const { return seen(name, parts(name, m, x)); }
  Tensor operator()(const std::string& name, inception::Residual& m, const Tensor& x) const {
    const Tensor y = seen(name + ".conv2d", m.conv2d(parts(name, m.mixed, x))) * m.scale + x;
    return seen(name, m.rectify ? seen(name + ".relu", relu(y)) : y);
  }
  Tensor operator()(const std::string& name, inception::Repeat& m, const Tensor& x) const {
    Tensor h = x;
    for (std::size_t i = 0; i < m.blocks.size(); ++i) h = (*this)(name + "." + std::to_string(i), m.blocks[i], h);
    return seen(name, h);
  }
  Tensor operator()(InceptionResnetV1& net, const Tensor& x) const {
    const Walk& run = *this;
    Tensor h = run("conv2d_2b", net.conv2d_2b, run("conv2d_2a", net.conv2d_2a, run("conv2d_1a", net.conv2d_1a, x)));
    h = seen("maxpool_3a", max_pool2d(h, {.kernel = {3, 3}, .stride = {2, 2}}));
    h = run("conv2d_4b", net.conv2d_4b, run("conv2d_4a", net.conv2d_4a, run("conv2d_3b", net.conv2d_3b, h)));
    h = run("mixed_6a", net.mixed_6a, run("repeat_1", net.repeat_1, h));
    h = run("mixed_7a", net.mixed_7a, run("repeat_2", net.repeat_2, h));
    h = run("block8", net.block8, run("repeat_3", net.repeat_3, h));
    h = seen("dropout", seen("avgpool_1a", global_avg_pool2d(h)));
    return seen("last_bn", net.last_bn(seen("last_linear", net.last_linear(flatten(h, 1)))));
  }
};

double mean_abs(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += std::abs(x);
  return sum / static_cast<double>(v.size());
}

// Sums as check_sums(); then the value a third into the tensor and the last one, relative to the larger of itself and the mean absolute value.
void check_checksum(const Tensor& t, const std::vector<double>& expected, double tolerance, double value_tolerance) {
  check_sums(t, expected, tolerance);
  const auto v = t.to_vector();
  const double size = mean_abs(v);
  for (const auto& [got, want] : {std::pair{v[v.size() / 3], expected[2]}, std::pair{v.back(), expected[3]}}) {
    INFO(got << ", expected " << want);
    CHECK(std::abs(got - want) <= value_tolerance * std::max(size, std::abs(want)));
  }
}

void check_forward_and_gradients(DType dtype, double tolerance) {
  const auto expected = read_fixture("facenet.json")[dtype == DType::f64 ? "f64" : "f32"];
  InceptionResnetV1 net;
  start_hashed(net, dtype);
  net.eval();
  Tensor x = hashed_faces(2, 160, 85, dtype);  // chosen by its distance from kinks in f64: tools/oracle_facenet.py clearest
  set_requires_grad(x);
  const Tensor e = net.forward(x);
  REQUIRE(e.shape() == Shape{2, 512});
  const auto got = e.to_vector();
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected["output"][i / 512][i % 512].get<double>()));
  INFO("largest difference of the embeddings " << worst << ", mean absolute value " << mean_abs(got));
  CHECK(worst <= tolerance * mean_abs(got));

  backward(sum(e * cast(mixed({2, 512}, 2), dtype)));
  std::map<std::string, Tensor> gradients{{"input", grad(x)}};
  for (auto& p : net.parameters()) gradients[p.name] = grad(p.value);
  for (const auto& [name, sums] : expected["gradients"].items()) {
    INFO("gradient of " << name);
    // In f32 a rectifier whose input is near 0 may take the other side (at AVX-512 one of repeat_1.1, with 4e-7), another one at each level. The sums of the
    // gradients before it hardly notice; single values of theirs do.
    check_checksum(gradients.at(name), sums.get<std::vector<double>>(), tolerance, dtype == DType::f32 ? 5e-3 : tolerance);
  }
  if (!expected.contains("modules")) return;

  std::size_t count = 0;
  const NoGrad guard;
  const Walk walk{[&](const std::string& name, const Tensor& t) {
    INFO(name);
    REQUIRE(expected["modules"].contains(name));
    check_checksum(t, expected["modules"][name].get<std::vector<double>>(), tolerance, tolerance);
    ++count;
  }};
  CHECK(walk(net, x.detach()).to_vector() == got);
  CHECK(count == expected["modules"].size());
}

// A small net with what its losses need beside it.
struct Pupil : Module {
  explicit Pupil(std::int64_t classes, bool margin) : net({.embedding = 16, .dropout = 0, .classes = classes, .repeats = {1, 1, 1}, .divisor = 16}) {
    if (margin) head.emplace(MarginHeadOptions{.in = 16, .classes = 5, .margin = Margin::arcface(.5, 16)});
  }
  void visit(Visitor& v) override {
    net.visit(v);
    if (head) v("head", *head);
  }
  InceptionResnetV1 net;
  std::optional<MarginHead> head;
};

using PupilLoss = std::function<Tensor(Pupil&, const Tensor& x, const Tensor& labels)>;

void compare_with_pytorch(const char* key, std::int64_t classes, bool margin, const std::function<PupilLoss(DType)>& loss) {
  compare_training<Pupil>(
      read_fixture("facenet_training.json")[key], [&] { return std::make_unique<Pupil>(classes, margin); },
      [&](Pupil& pupil, DType dtype, double lr) {
        start_hashed(pupil, dtype);
        const Tensor labels = Tensor::from(std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4}, {20});
        const PupilLoss f = loss(dtype);
        return sgd_curve(pupil, [&](int step) { return f(pupil, hashed_faces(20, 107, 1000 + static_cast<std::uint64_t>(step) % 5, dtype), labels); }, lr);
      });
}

// Every ordered pair of one label with every row of another.
Triplets all_triplets(const Tensor& labels) {
  const auto y = labels.to_vector();
  const auto n = static_cast<std::int64_t>(y.size());
  const auto at = [&](std::int64_t i) { return y[static_cast<std::size_t>(i)]; };
  std::array<std::vector<std::int64_t>, 3> rows;
  for (std::int64_t a = 0; a < n; ++a)
    for (std::int64_t p = 0; p < n; ++p)
      for (std::int64_t k = 0; k < n; ++k)
        if (a != p && at(a) == at(p) && at(a) != at(k)) rows[0].push_back(a), rows[1].push_back(p), rows[2].push_back(k);
  const auto count = static_cast<std::int64_t>(rows[0].size());
  return {Tensor::from(rows[0], {count}), Tensor::from(rows[1], {count}), Tensor::from(rows[2], {count})};
}

InceptionResnetV1Options small_options() { return {.embedding = 16, .dropout = 0, .classes = 0, .repeats = {1, 1, 1}, .divisor = 8}; }

}  // namespace

TEST_CASE("Inception-ResNet-v1 has facenet-pytorch's parameters, by name and number", "[facenet]") {
  const auto expected = read_fixture("facenet.json");
  for (const std::int64_t classes : {0, 8631, 10575}) {
    InceptionResnetV1 net({.classes = classes});
    CHECK(net.parameter_count() == expected["parameters"][std::to_string(classes)].get<std::int64_t>());
    if (classes > 0) continue;
    CHECK(net.parameter_count() == 23482624);
    std::vector<std::string> names;
    for (const auto& t : net.state_dict()) names.push_back(t.name);
    CHECK(names == expected["names"].get<std::vector<std::string>>());
  }
}

TEST_CASE("Inception-ResNet-v1 gives facenet-pytorch's embeddings and gradients in f64", "[facenet]") { check_forward_and_gradients(DType::f64, 1e-9); }
TEST_CASE("Inception-ResNet-v1 gives facenet-pytorch's embeddings and gradients in f32", "[facenet]") { check_forward_and_gradients(DType::f32, 1e-4); }

TEST_CASE("a small Inception-ResNet's derivative in training mode", "[facenet][gradcheck]") {
  InceptionResnetV1 net(small_options());
  start_hashed(net, DType::f64);
  net.train();
  std::vector<Tensor> inputs{hashed_faces(4, 91, 8, DType::f64)};
  for (auto& p : net.parameters()) inputs.push_back(p.value.detach());
  const auto loss = [&](std::span<const Tensor> in) {
    std::size_t k = 1;
    struct Put final : Visitor {  // the tensors under test become the net's parameters
      std::span<const Tensor> in;
      std::size_t& k;
      Put(std::span<const Tensor> i, std::size_t& n) : in(i), k(n) {}
      void on_tensor(const std::string&, Tensor& value, Slot slot) override {
        if (slot == Slot::parameter) value = in[k++];
      }
    } put(in, k);
    net.visit(put);
    return net.forward(in[0]);
  };
  // The step is small because a direction moves every input at once: with 3e-7 a maximum of the pooling changes place on the way.
  const auto report = gradcheck(loss, inputs, {.step = 5e-8, .directions = 16});
  INFO(report.message << ", error " << report.worst);
  CHECK(report.ok);
}

TEST_CASE("50 steps of a small Inception-ResNet with softmax follow PyTorch's", "[facenet][training]") {
  compare_with_pytorch("softmax", 5, false, [](DType) -> PupilLoss { return [](Pupil& p, const Tensor& x, const Tensor& y) { return cross_entropy(p.net.classify(p.net.forward(x)), y); }; });
}
TEST_CASE("50 steps of a small Inception-ResNet with softmax and center loss follow PyTorch's", "[facenet][training]") {
  compare_with_pytorch("center", 5, false, [](DType dtype) -> PupilLoss {
    const auto center = std::make_shared<CenterLoss>(CenterLossOptions{.classes = 5, .features = 16});
    center->to(dtype);
    return [center](Pupil& p, const Tensor& x, const Tensor& y) {
      const Tensor e = p.net.forward(x);
      return cross_entropy(p.net.classify(e), y) + .01 * (*center)(e, y);
    };
  });
}
TEST_CASE("50 steps of a small Inception-ResNet with FaceNet's triplet loss follow PyTorch's", "[facenet][training]") {
  compare_with_pytorch("triplet", 0, false, [](DType) -> PupilLoss {
    return [](Pupil& p, const Tensor& x, const Tensor& y) {
      const Tensor e = normalize(p.net.forward(x));
      const Triplets t = all_triplets(y);
      return facenet_triplet_loss(index_select(e, t.anchor), index_select(e, t.positive), index_select(e, t.negative));
    };
  });
}
TEST_CASE("50 steps of a small Inception-ResNet with mined triplets follow PyTorch's", "[facenet][training]") {
  compare_with_pytorch("mined", 0, false, [](DType) -> PupilLoss {
    return [](Pupil& p, const Tensor& x, const Tensor& y) {
      const Tensor e = normalize(p.net.forward(x));
      const Triplets t = mine_triplets(pairwise_squared_distances(e.detach()), y, MiningRule::hard);
      return facenet_triplet_loss(index_select(e, t.anchor), index_select(e, t.positive), index_select(e, t.negative));
    };
  });
}
TEST_CASE("50 steps of a small Inception-ResNet with ArcFace follow PyTorch's", "[facenet][training]") {
  compare_with_pytorch("arcface", 0, true, [](DType) -> PupilLoss { return [](Pupil& p, const Tensor& x, const Tensor& y) { return cross_entropy((*p.head)(p.net.forward(x), y), y); }; });
}

TEST_CASE("weights of Inception-ResNet-v1 come from PyTorch's and from TensorFlow's names, and go back", "[facenet][io]") {
  InceptionResnetV1 net({.embedding = 24, .classes = 3, .repeats = {2, 1, 3}, .divisor = 16});
  start_hashed(net, DType::f32);
  for (auto& t : net.state_dict())
    if (t.name.find("bn.weight") != std::string::npos) fill(t.value, 1);  // TensorFlow's batch norm has no other
  std::map<std::string, std::string> variable;
  TensorFile torch, tensorflow;
  tensorflow.tensors.emplace_back("global_step", zeros({1}));
  const auto names = facenet_names(net);
  const auto state = net.state_dict();
  for (std::size_t i = 0; i < state.size(); ++i) {
    const auto& [name, t] = state[i];
    torch.tensors.emplace_back(name, t);
    if (name.find("running_var") != std::string::npos) torch.tensors.emplace_back(name.substr(0, name.size() - 11) + "num_batches_tracked", zeros({}, {.dtype = DType::i64}));
    variable[name] = names[i].variable;
    if (names[i].variable.empty()) continue;
    tensorflow.tensors.emplace_back(names[i].variable + ":0", t.rank() == 4 ? permute(t, {2, 3, 1, 0}) : t.rank() == 2 ? transpose(t, 0, 1) : t);
    tensorflow.tensors.emplace_back(names[i].variable + "/ExponentialMovingAverage:0", zeros({1}));
  }
  CHECK(variable["conv2d_1a.conv.weight"] == "InceptionResnetV1/Conv2d_1a_3x3/weights");
  CHECK(variable["conv2d_3b.bn.running_var"] == "InceptionResnetV1/Conv2d_3b_1x1/BatchNorm/moving_variance");
  CHECK(variable["conv2d_3b.bn.weight"].empty());
  CHECK(variable["repeat_1.0.branch0.conv.weight"] == "InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/weights");
  CHECK(variable["repeat_1.1.branch2.2.bn.bias"] == "InceptionResnetV1/Repeat/block35_2/Branch_2/Conv2d_0c_3x3/BatchNorm/beta");
  CHECK(variable["repeat_2.0.branch1.2.conv.weight"] == "InceptionResnetV1/Repeat_1/block17_1/Branch_1/Conv2d_0c_7x1/weights");
  CHECK(variable["repeat_3.2.conv2d.bias"] == "InceptionResnetV1/Repeat_2/block8_3/Conv2d_1x1/biases");
  CHECK(variable["mixed_6a.branch0.conv.weight"] == "InceptionResnetV1/Mixed_6a/Branch_0/Conv2d_1a_3x3/weights");
  CHECK(variable["block8.conv2d.weight"] == "InceptionResnetV1/Block8/Conv2d_1x1/weights");
  CHECK(variable["last_linear.weight"] == "InceptionResnetV1/Bottleneck/weights");
  CHECK(variable["last_bn.bias"] == "InceptionResnetV1/Bottleneck/BatchNorm/beta");
  CHECK(variable["logits.bias"] == "Logits/biases");

  EmbeddingSpec spec;
  spec.architecture = "inception-resnet-v1";
  spec.height = spec.width = 160;
  spec.size = 24;
  spec.classes = 3;
  const TensorFile mine = to_model_file(net, spec);
  CHECK(mine.metadata.at("mien.architecture") == "inception-resnet-v1");
  CHECK(mine.metadata.at("mien.classes") == "3");
  for (const TensorFile* input : std::initializer_list<const TensorFile*>{&torch, &tensorflow, &mine}) {
    const TensorFile out = convert_embedding_net("facenet", *input);
    REQUIRE(out.tensors.size() == state.size());
    for (std::size_t i = 0; i < state.size(); ++i) {
      INFO(state[i].name);
      CHECK(out.tensors[i].first == state[i].name);
      // last_bn is the one batch norm whose weight the file of TensorFlow lacks and which the loop above did not set.
      if (input == &tensorflow && state[i].name == "last_bn.weight") CHECK(out.tensors[i].second.to_vector() == ones({24}).to_vector());
      else CHECK(out.tensors[i].second.to_vector() == state[i].value.to_vector());
    }
  }

  TensorFile bad = torch;
  bad.tensors.erase(bad.tensors.begin());
  CHECK_THROWS_WITH(convert_embedding_net("facenet", bad, "net.pt"), Catch::Contains("net.pt") && Catch::Contains("conv2d_1a.conv.weight"));
  bad = torch;
  bad.tensors[1].first = "unknown";
  CHECK_THROWS_WITH(convert_embedding_net("facenet", bad, "net.pt"), Catch::Contains("missing: conv2d_1a.bn.weight") && Catch::Contains("unexpected: unknown"));
  bad = torch;
  bad.tensors[1].second = full(torch.tensors[1].second.shape(), std::nan(""));
  CHECK_THROWS_WITH(convert_embedding_net("facenet", bad, "net.pt"), Catch::Contains("not finite"));
  bad = mine;
  bad.metadata["mien.architecture"] = "mtcnn";
  CHECK_THROWS_WITH(load_embedding_net(bad, "net.safetensors"), Catch::Contains("holds weights of mtcnn"));
}

TEST_CASE("Inception-ResNet-v1 refuses what it cannot take", "[facenet]") {
  InceptionResnetV1 net(small_options());
  CHECK_THROWS_WITH(net.forward(zeros({1, 3, 74, 160})), Catch::Contains("at least 75, got f32[1, 3, 74, 160]"));
  CHECK_THROWS_WITH(net.forward(zeros({1, 1, 160, 160})), Catch::Contains("expects [N, 3, H, W]"));
  CHECK_THROWS_WITH(net.classify(zeros({1, 16})), Catch::Contains("a net with classes"));
  CHECK_THROWS_WITH(InceptionResnetV1({.divisor = 3}), Catch::Contains("divisor 1, 2, 4, 8 or 16, got 3"));
  CHECK_THROWS_WITH(InceptionResnetV1({.dropout = 1}), Catch::Contains("dropout in [0, 1)"));
  net.eval();
  CHECK(net.forward(zeros({1, 3, 75, 75})).shape() == Shape{1, 16});
}

}  // namespace mien::test
