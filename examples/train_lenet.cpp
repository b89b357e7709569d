// LeNet on Fashion-MNIST or MNIST: the recipe of "Dive into Deep Learning" (sigmoid, average pooling, Xavier weights, SGD with rate .9).
//
//   train_lenet --data /usr/share/datasets/fashion-mnist --epochs 10 --out runs/lenet
//
// The five steps of every training: build the net, load the data, define the loss, find the best parameters, save the net.
#include <cstdio>

#include <CLI/CLI.hpp>

#include "common_main.h"
#include "common_train.h"
#include "mien/autograd/autograd.h"
#include "mien/data/idx.h"
#include "mien/io/crc32c.h"
#include "mien/io/safetensors.h"
#include "mien/kernels/parallel.h"
#include "mien/layers/init.h"
#include "mien/models/lenet/lenet.h"
#include "mien/ops/loss.h"
#include "mien/ops/reduce.h"

using namespace mien;

namespace {

// Rows of u8 images as f32 in [0, 1], and their labels.
Batch make_batch(const LabelledImages& data, std::span<const std::int64_t> rows) {
  const std::int64_t pixels = data.images.size(1) * data.images.size(2), n = static_cast<std::int64_t>(rows.size());
  const Tensor x = Tensor::empty({n, 1, data.images.size(1), data.images.size(2)}), y = Tensor::empty({n}, DType::i64);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    const std::uint8_t* from = data.images.data<std::uint8_t>() + row * pixels;
    float* to = x.data<float>() + i * pixels;
    for (std::int64_t k = 0; k < pixels; ++k) to[k] = static_cast<float>(from[k]) / 255.f;
    y.data<std::int64_t>()[i] = data.labels.data<std::uint8_t>()[row];
  }
  return {x, y};
}

double correct(const Tensor& logits, const Tensor& labels) {
  const Tensor best = on_cpu(argmax(logits, 1)), wanted = on_cpu(labels);
  std::int64_t hits = 0;
  for (std::int64_t i = 0; i < wanted.numel(); ++i) hits += best.data<std::int64_t>()[i] == wanted.data<std::int64_t>()[i];
  return static_cast<double>(hits) / static_cast<double>(labels.numel());
}

int run(int argc, char** argv) {
  CLI::App app{"Trains LeNet on Fashion-MNIST or MNIST."};
  example::TrainOptions options{.out = "runs/lenet"};
  options.best_metric = "test_accuracy";
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::int64_t batch = 256;
  double lr = .9;
  int workers = 1;
  app.add_option("--data", data, "Folder with the four idx files, plain or .gz")->capture_default_str();
  app.add_option("--batch", batch, "Samples per step")->capture_default_str()->check(cli::whole_number(1, 65536));
  app.add_option("--lr", lr, "Learning rate")->capture_default_str()->check(cli::above_zero());
  example::add_workers(app, workers);
  example::add_train_options(app, options);
  if (const int code = example::parse(app, argc, argv); code >= 0) return code;
  example::make_out("train_lenet", options.out);

  // 1. The net.
  manual_seed(options.seed);
  LeNet net;
  for (auto& p : net.parameters())
    if (p.value.rank() >= 2) init::xavier_uniform(p.value);
  net.require_grad();
  net.to(options.device);
  // 2. The data.
  const LabelledImages train = read_mnist(data, true), test = read_mnist(data, false);
  Loader loader({.size = train.images.size(0), .batch = batch, .seed = options.seed, .workers = workers},
                [&](std::span<const std::int64_t> rows, std::uint64_t) { return make_batch(train, rows); });
  const auto bytes = [](const Tensor& t) { return std::span(static_cast<const std::byte*>(t.raw_data()), static_cast<std::size_t>(t.numel())); };
  options.settings = example::settings_of(app, {"--data"});
  options.settings["training pictures"] = example::fingerprint(static_cast<std::size_t>(train.images.size(0)), crc32c(bytes(train.labels), crc32c(bytes(train.images))));
  // 3. - 4. The loss and the search for its minimum.
  Sgd optimizer({.lr = lr});
  optimizer.add_group(net.parameters());
  const auto scaler = example::make_scaler(options.autocast);
  const auto parameters = net.parameters();
  const auto step = [&](const Batch& b) -> example::Metrics {
    const Tensor logits = net.forward(b[0]);
    const Tensor loss = cross_entropy(logits, b[1]);
    const example::Metrics metrics{{"loss", loss.item()}, {"accuracy", correct(logits.detach(), b[1])}};
    example::learn(loss, optimizer, parameters, 0, scaler.get());
    return metrics;
  };
  const auto evaluate = [&]() -> example::Metrics {
    double hits = 0, loss = 0;
    std::vector<std::int64_t> rows(1000);
    const std::int64_t n = test.images.size(0);
    for (std::int64_t begin = 0; begin < n; begin += 1000) {
      rows.resize(static_cast<std::size_t>(std::min<std::int64_t>(1000, n - begin)));
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = begin + static_cast<std::int64_t>(i);
      const Batch b = example::on_device(make_batch(test, rows), options.device);
      const Tensor logits = net.forward(b[0]);
      hits += correct(logits, b[1]) * static_cast<double>(rows.size());
      loss += cross_entropy(logits, b[1], {.reduction = Reduction::sum}).item();
    }
    return {{"test_loss", loss / static_cast<double>(n)}, {"test_accuracy", hits / static_cast<double>(n)}};
  };
  const auto result = example::run_training({net, optimizer, loader, [&](std::int64_t, std::int64_t) { return lr; }, step, evaluate, nullptr, scaler.get()}, options);
  // 5. Save.
  TensorFile file;
  file.metadata = {{"mien.architecture", "lenet"}, {"mien.recipe", "d2l LeNet, SGD lr " + std::to_string(lr) + ", batch " + std::to_string(batch)}};
  for (const auto& t : net.state_dict()) file.tensors.emplace_back(t.name, t.value);
  save_safetensors(options.out + "/lenet.safetensors", file);
  for (const auto& [epoch, m] : result.history) {
    if (epoch != result.history.back().first) continue;
    for (const auto& [name, value] : m) std::printf("%s %.4f\n", name.c_str(), value);
  }
  std::printf("seconds %.1f\nsaved %s\n", result.seconds, (options.out + "/lenet.safetensors").c_str());
  return result.end == example::TrainEnd::interrupted ? 128 + example::signal_received() : 0;
}

}  // namespace

int main(int argc, char** argv) { return example::guarded_main("train_lenet", [&] { return run(argc, argv); }); }
