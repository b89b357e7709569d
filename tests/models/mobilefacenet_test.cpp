// MobileFaceNet: sizes, test vectors of weights that others published, the model file's facts, and what is refused.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "mien/autograd/gradcheck.h"
#include "mien/face/embedder.h"
#include "mien/io/torch_file.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"

namespace mien::test {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

EmbeddingSpec small_spec() {
  EmbeddingSpec s;
  s.architecture = "mobilefacenet";
  s.height = s.width = 32;
  s.size = 16;
  s.points = five_point_template(32, 32);
  s.threshold = 1.1;
  s.threshold_source = "a test";
  s.threshold_flip = true;
  return s;
}

}  // namespace

TEST_CASE("MobileFaceNet has the published number of parameters", "[mobilefacenet]") {
  MobileFaceNet narrow;
  CHECK(narrow.parameter_count() == 999552);
  MobileFaceNet wide({.height = 112, .width = 112, .size = 512});
  CHECK(wide.parameter_count() == 999552 + 512 * 7 + 384 * 512 + 2 * 384);
  CHECK(contains(message_of<Error>([] { MobileFaceNet bad({.height = 100}); }), "multiples of 16"));
  CHECK(contains(message_of<Error>([&] { narrow.forward(Tensor::empty({1, 3, 112, 112})); }), "expects [N, 3, 112, 96], got f32[1, 3, 112, 112]"));
}

TEST_CASE("published MobileFaceNet weights give the published embeddings", "[mobilefacenet]") {
  MIEN_REQUIRE_DATA(folder, "mobilefacenet");
  const TensorFile file = convert_embedding_net("mobilefacenet", load_tensors(folder + "/xiaoccer/mobilefacenet_xiaoccer.npz"));
  EmbeddingSpec spec;
  const auto net = load_embedding_net(file, "converted", &spec);
  CHECK(spec.height == 112);
  CHECK(spec.width == 96);
  CHECK(spec.size == 128);
  const Embedder embedder(*net, spec);
  const auto vectors = nlohmann::json::parse(std::ifstream(folder + "/test-vectors/test_vectors.json"));
  REQUIRE(vectors.size() == 8);
  double worst = 0;
  for (const auto& v : vectors) {
    const Image crop = read_image(folder + "/test-vectors/" + v["image"].get<std::string>() + "_112x96.png");
    const auto got = embedder.embed({&crop, 1}).to_vector(), want = v["xiaoccer_embedding_112x96_rgb"].get<std::vector<double>>();
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
  }
  INFO("worst " << worst);
  CHECK(worst <= 1e-4);
}

TEST_CASE("the derivative of a small MobileFaceNet in random directions", "[mobilefacenet]") {
  manual_seed(11);
  MobileFaceNet net({.height = 16, .width = 16, .size = 4});
  net.to(DType::f64);
  std::vector<Tensor> inputs{randn({3, 3, 16, 16}, {.dtype = DType::f64})};
  for (const bool training : {true, false}) {
    net.train(training);
    const auto report = gradcheck([&](std::span<const Tensor> in) { return net.forward(in[0]); }, inputs, {.step = 1e-7, .directions = 4});  // a small step: thousands of PReLU kinks lie around
    INFO(report.message);
    CHECK(report.ok);
  }
}

TEST_CASE("a model file brings net and facts back, and says what it lacks", "[mobilefacenet]") {
  manual_seed(3);
  const EmbeddingSpec spec = small_spec();
  const auto net = make_embedding_net(spec);
  net->eval();
  const TensorFile file = to_model_file(*net, spec);
  EmbeddingSpec back;
  const auto again = load_embedding_net(file, "f", &back);
  CHECK(back.to_metadata() == spec.to_metadata());
  CHECK(back.threshold == spec.threshold);
  const Tensor x = randn({2, 3, 32, 32});
  CHECK(again->forward(x).to_vector() == net->forward(x).to_vector());

  const auto without = [&](const std::string& key) {
    TensorFile f = file;
    f.metadata.erase(key);
    return message_of<Error>([&] { load_embedding_net(f, "f"); });
  };
  for (const char* key : {"mien.architecture", "mien.input_height", "mien.embedding_size", "mien.mean", "mien.alignment", "mien.points", "mien.threshold_source"})
    CHECK(contains(without(key), std::string("f: its metadata has no ") + key));
  const auto with = [&](const std::string& key, const std::string& value) {
    TensorFile f = file;
    f.metadata[key] = value;
    return message_of<Error>([&] { load_embedding_net(f, "f"); });
  };
  CHECK(contains(with("mien.input_height", "many"), "f: its metadata has mien.input_height = 'many', which makes no sense"));
  CHECK(contains(with("mien.input_height", "1e9"), "makes no sense"));
  CHECK(contains(with("mien.points", "1,2 3"), "makes no sense"));
  CHECK(contains(with("mien.threshold", "nan"), "makes no sense"));
  CHECK(contains(with("mien.threshold_flip", "maybe"), "makes no sense"));
  CHECK(contains(with("mien.architecture", "mtcnn"), "holds weights of mtcnn, expected a face-embedding net"));
  CHECK(contains(with("mien.embedding_size", "17"), "wrong shape: linear1.conv.weight expects [17, 512, 1, 1], got [16, 512, 1, 1]"));
  TensorFile wrapped;  // as a checkpoint of a training program has it
  for (const auto& [tensor, t] : file.tensors) wrapped.tensors.emplace_back("net_state_dict.module." + tensor, t);
  wrapped.tensors.emplace_back("epoch", zeros({}));
  CHECK(convert_embedding_net("mobilefacenet", wrapped).tensors.size() == file.tensors.size());
  TensorFile broken = file;
  broken.tensors[0].second = full(broken.tensors[0].second.shape(), std::nan(""));
  CHECK(contains(message_of<Error>([&] { load_embedding_net(broken, "f"); }), "conv1.conv.weight holds a value that is not finite"));
  CHECK(contains(message_of<Error>([&] { convert_embedding_net("mobilefacenet", {}, "g"); }), "g: has no 4-dimensional linear7.conv.weight"));
}

TEST_CASE("embeddings do not depend on the batch, and a mirrored sum is symmetric", "[mobilefacenet]") {
  manual_seed(3);
  const EmbeddingSpec spec = small_spec();
  const auto net = make_embedding_net(spec);
  net->eval();
  const Embedder embedder(*net, spec);
  std::vector<Image> crops(3, Image{32, 32, std::vector<std::uint8_t>(32 * 32 * 3)});
  std::uint64_t i = 0;
  for (auto& c : crops)
    for (auto& p : c.pixels) p = static_cast<std::uint8_t>(philox_bits(1, 2, i++) % 256);
  const auto all = embedder.embed(crops).to_vector();
  const auto one = embedder.embed({&crops[1], 1}).to_vector();
  for (std::size_t k = 0; k < 16; ++k) CHECK(one[k] == Approx(all[16 + k]).margin(1e-5));
  Image mirrored = crops[0];
  for (std::int64_t y = 0; y < 32; ++y)
    for (std::int64_t x = 0; x < 32; ++x)
      for (std::int64_t c = 0; c < 3; ++c) mirrored.pixels[static_cast<std::size_t>((y * 32 + x) * 3 + c)] = crops[0].pixels[static_cast<std::size_t>((y * 32 + 31 - x) * 3 + c)];
  const auto a = embedder.embed({&crops[0], 1}, true).to_vector(), b = embedder.embed({&mirrored, 1}, true).to_vector();
  for (std::size_t k = 0; k < 16; ++k) CHECK(a[k] == Approx(b[k]).margin(1e-5));
  CHECK(contains(message_of<Error>([&] { const Image bad{10, 32, {}}; embedder.embed({&bad, 1}); }), "expects crops of 32x32 pixels (width x height), got 10x32"));
  CHECK(embedder.embed({}).shape() == Shape{0, 16});
  std::vector<float> v{3, 4};
  l2_normalize(v);
  CHECK(v[0] == Approx(.6));
  CHECK_THROWS_AS(squared_distance(v, std::vector<float>{1}), ShapeError);
}

}  // namespace mien::test
