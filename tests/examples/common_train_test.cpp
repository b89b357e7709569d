// The training loop when memory runs out: a run that got over it has the bits of one that was never disturbed.
#include "common_train.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "catch.h"
#include "exit_codes.h"
#include "mien/autograd/autograd.h"
#include "mien/io/checkpoint.h"
#include "mien/layers/layers.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/view.h"
#include "mien/tensor/device_allocator.h"
#include "mien/tensor/generator.h"
#include "tensor/fake_device.h"

namespace mien::test {
namespace {

// Running statistics, random numbers and an optimizer with buffers: all that a step changes.
struct SmallNet : Module {
  Conv2d conv{{.in = 1, .out = 3, .kernel = {3, 3}}};
  BatchNorm2d norm{{.channels = 3}};
  Dropout dropout{.3};
  Linear linear{{.in = 27, .out = 4}};
  Tensor forward(const Tensor& x) { return linear(dropout(reshape(norm(conv(x)), {x.size(0), 27}))); }
  void visit(Visitor& v) override {
    v("conv", conv);
    v("norm", norm);
    v("dropout", dropout);
    v("linear", linear);
  }
};

std::unique_ptr<Optimizer> make_optimizer(const std::string& kind) {
  if (kind == "sgd") return std::make_unique<Sgd>(SgdOptions{.lr = .05, .momentum = .9, .dampening = .1, .weight_decay = 1e-3});
  if (kind == "adam") return std::make_unique<Adam>(AdamOptions{.lr = .01});
  return std::make_unique<Adagrad>(AdagradOptions{.lr = .05, .initial_accumulator = .1});
}

// Two steps an epoch. Returns the weights; OutOfMemory leaves the folder as it is.
std::vector<std::vector<double>> train(const std::string& folder, const std::string& kind, bool resume = false, std::int64_t epochs = 1, LossScaler* scaler = nullptr) {
  manual_seed(11);
  SmallNet net;
  net.require_grad();
  const auto optimizer = make_optimizer(kind);
  const auto parameters = net.parameters();
  optimizer->add_group(parameters);
  Loader loader({.size = 8, .batch = 4, .seed = 11}, [](std::span<const std::int64_t> rows, std::uint64_t) {
    const auto n = static_cast<std::int64_t>(rows.size());
    const Tensor x = Tensor::empty({n, 1, 5, 5}), y = Tensor::empty({n}, DType::i64);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < 25; ++k) x.data<float>()[i * 25 + k] = static_cast<float>((rows[static_cast<std::size_t>(i)] * 31 + k * 7) % 13) / 13;
      y.data<std::int64_t>()[i] = rows[static_cast<std::size_t>(i)] % 4;
    }
    return Batch{x, y};
  });
  const auto step = [&](const Batch& b) -> example::Metrics {
    const Tensor loss = cross_entropy(net.forward(b[0]), b[1]);
    const example::Metrics m{{"loss", loss.item()}};
    example::learn(loss, *optimizer, parameters, 0, scaler);
    return m;
  };
  example::run_training({net, *optimizer, loader, [](std::int64_t, std::int64_t) { return .05; }, step, {}, nullptr, scaler},
                        {.out = folder, .epochs = epochs, .seed = 11, .resume = resume, .save_every = 1, .progress = "off"});
  std::vector<std::vector<double>> values;
  for (const auto& t : net.state_dict()) values.push_back(t.value.to_vector());
  return values;
}

struct WithAllocator {
  explicit WithAllocator(std::shared_ptr<Allocator> a) : before(set_cpu_allocator(std::move(a))) {}
  ~WithAllocator() { set_cpu_allocator(before); }
  std::shared_ptr<Allocator> before;
};

constexpr std::int64_t MiB = std::int64_t{1} << 20;

// Steps that need 1 MiB of a device for each sample of a batch of 64, and what else the test does in them.
void train_on(Device device, const std::string& folder, const std::function<void()>& also = {}) {
  struct Nothing : Module {
    void visit(Visitor&) override {}
  } net;
  Sgd optimizer({.lr = .1});
  Loader loader({.size = 128, .batch = 64}, [](std::span<const std::int64_t> rows, std::uint64_t) { return Batch{Tensor::empty({static_cast<std::int64_t>(rows.size()), 16})}; });
  const auto step = [&](const Batch& b) -> example::Metrics {
    if (also) also();
    std::vector<Tensor> activations;
    for (int layer = 0; layer < 4; ++layer) activations.push_back(Tensor::empty({b[0].size(0), MiB / 4}, DType::u8, Layout::contiguous, device));
    return {{"loss", 1}};
  };
  example::run_training({net, optimizer, loader, [](std::int64_t, std::int64_t) { return .1; }, step, {}}, {.out = folder, .epochs = 1, .progress = "off", .device = device});
}

}  // namespace

TEST_CASE("whichever allocation of a training fails: the same bits, at once or after --resume", "[training][memory]") {
  const std::string kind = GENERATE("sgd", "adam", "adagrad");
  const auto folder = temp_dir("retry");
  const auto expected = train(folder / "whole", kind);
  const auto inner = make_caching_allocator();
  const std::int64_t all = [&] {
    const WithAllocator count(inner);
    train(folder / "count", kind);
    return inner->stats().allocations;
  }();
  int stopped = 0, got_over = 0;
  for (std::int64_t k = 0; k < all; ++k) {
    const std::string out = folder / std::to_string(k);
    INFO(kind << ": allocation " << k << " of " << all);
    std::string said;
    try {
      const WithAllocator failing(make_failing_allocator(make_caching_allocator(), k));
      const auto values = train(out, kind);
      REQUIRE(values == expected);
      ++got_over;
    } catch (const OutOfMemory& e) {
      said = e.what();
      ++stopped;
    }
    if (said.empty()) continue;
    const bool saved = std::filesystem::exists(out + "/checkpoint") && CheckpointFolder(out + "/checkpoint").exists();
    if (said.find("is intact") != std::string::npos) REQUIRE(saved);
    REQUIRE(train(saved ? out : out + "-anew", kind, saved) == expected);
  }
  // What lies outside of steps (making the net, beginning, saving) is not tried again.
  CHECK(got_over > 3 * stopped);
  std::filesystem::remove_all(folder);
}

TEST_CASE("the scale of the loss is part of a checkpoint and of what a second try begins with", "[training][memory]") {
  const auto folder = temp_dir("scaler");
  const auto scaler = [] { return LossScaler({.start = 2e39, .interval = 3}); };  // too large at first: steps are left out and the scale falls; then it grows
  LossScaler first = scaler(), cut = scaler(), resumed = scaler();
  const auto expected = train(folder / "whole", "sgd", false, 6, &first);
  CHECK(first.factor() < 2e39);
  for (const std::int64_t stop : {1, 2, 4, 5}) {
    const std::string out = folder / std::to_string(stop);
    cut = scaler();
    resumed = scaler();
    train(out, "sgd", false, stop, &cut);
    CHECK(train(out, "sgd", true, 6, &resumed) == expected);
    CHECK(resumed.factor() == first.factor());
    CHECK(resumed.good_steps() == first.good_steps());
  }
  int got_over = 0;
  for (std::int64_t k = 30; k < 400; k += 23) {
    LossScaler s = scaler();
    try {
      const WithAllocator failing(make_failing_allocator(make_caching_allocator(), k));
      const auto values = train(folder / std::to_string(1000 + k), "sgd", false, 6, &s);
      CHECK(values == expected);
      CHECK(s.factor() == first.factor());
      ++got_over;
    } catch (const OutOfMemory&) {  // while it was saving
    }
  }
  CHECK(got_over > 8);
  CHECK_THROWS_AS(first.restore(0, 0), ValueError);
  CHECK_THROWS_AS(first.restore(2, 3), ValueError);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a step that fits the second time goes on", "[training][memory][device]") {
  FakeDevice device(100 * MiB);
  const Installed installed(device);
  const auto folder = temp_dir("retry");
  Tensor ballast = Tensor::empty({60 * MiB}, DType::u8, Layout::contiguous, Device::cuda());
  int calls = 0;
  train_on(Device::cuda(), folder, [&] {
    if (++calls == 2) ballast = Tensor();  // another program gives memory back
  });
  CHECK(calls == 3);  // two steps, the first of them twice
  std::filesystem::remove_all(folder);
}

TEST_CASE("a step that never fits: the numbers, the batch that does, and where the run stands", "[training][memory][device]") {
  FakeDevice device(50 * MiB);
  const Installed installed(device);
  const auto folder = temp_dir("retry");
  const auto said = message_of<OutOfMemory>([&] { train_on(Device::cuda(), folder); });
  INFO(said);
  for (const char* part : {"cuda:0: wanted 16 MiB", "free of 50 MiB", "kept for reuse", "a batch of 64, a trial with 40 passed", "nothing had been saved yet", "--batch 40"})
    CHECK(said.find(part) != std::string::npos);
  CHECK(said.find("Use a smaller batch or picture") == std::string::npos);
  CHECK(device_allocator(Device::cuda())->device_stats().live == 0);
  std::filesystem::remove_all(folder);
}

TEST_CASE("exit codes of what ends a training", "[training]") {
  CHECK(code(exit_code(OutOfMemory("train", "no memory"))) == 71);
  CHECK(code(exit_code(DeviceLost("train", "lost"))) == 69);
  CHECK(code(exit_code(Diverged("train", "NaN"))) == 76);
}

TEST_CASE("a device that is lost on the way: one message, no second try, nothing read back, the checkpoint as it was", "[training][device]") {
  struct Weights : Module {
    Tensor w = Tensor::empty({8}, DType::f32, Layout::contiguous, Device::cuda());
    void visit(Visitor& v) override { v("w", w); }
  };
  const auto folder = temp_dir("lost");
  std::int64_t all = 0;
  int with_checkpoint = 0;
  for (std::int64_t k = -1; k < all; k += k < 0 ? 1 : 3) {
    FakeDevice device;
    const Installed installed(device);
    const std::string out = folder / std::to_string(k);
    std::string said;
    int steps = 0;
    {
      Weights net;
      const std::vector<float> first(8, 1);
      copy_memory(net.w.raw_data(), Device::cuda(), first.data(), Device::cpu(), 32);
      device.lost_at = k < 0 ? -1 : static_cast<std::int64_t>(device.calls().size()) + k;
      Sgd optimizer({.lr = .1});
      Loader loader({.size = 8, .batch = 2}, [](std::span<const std::int64_t>, std::uint64_t) { return Batch{Tensor::from<float>({1, 2}, {2})}; });
      const auto step = [&](const Batch&) -> example::Metrics {
        ++steps;
        const Tensor activation = Tensor::empty({steps * MiB}, DType::u8, Layout::contiguous, Device::cuda());
        std::vector<float> values(8, static_cast<float>(steps));
        copy_memory(net.w.raw_data(), Device::cuda(), values.data(), Device::cpu(), 32);
        return {{"loss", net.w.to_vector()[0]}};
      };
      const auto begun = device.calls().size();
      try {
        example::run_training({net, optimizer, loader, [](std::int64_t, std::int64_t) { return .1; }, step, {}},
                              {.out = out, .epochs = 1, .save_every = 1, .progress = "off"});
      } catch (const DeviceLost& e) {
        said = e.what();
      }
      if (k < 0) all = static_cast<std::int64_t>(device.calls().size() - begun);
    }  // tensors go: nothing throws or hangs
    INFO(k << ": " << said);
    CHECK(said.empty() == (k < 0));
    CHECK(device.calls_after_loss == (k < 0 ? 0 : 1));
    if (k < 0) continue;
    CHECK(said.find("fake: the device is lost to this process (in step ") == 0);
    CHECK(said.find("Start the program anew.") != std::string::npos);
    if (said.find("is intact") == std::string::npos) continue;
    const Checkpoint c = CheckpointFolder(out + "/checkpoint").load_last();
    CHECK(said.find("the checkpoint of step " + c.state.at("step") + " in") != std::string::npos);
    CHECK(c.model.tensors[0].second.to_vector()[0] == std::stod(c.state.at("step")));  // what the step had made of the weights
    ++with_checkpoint;
  }
  CHECK(with_checkpoint > 3);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a training that ends in bad steps or with bad weights says so and keeps what was saved", "[training]") {
  const auto folder = temp_dir("diverged");
  Linear net({.in = 1, .out = 1});
  Sgd optimizer({.lr = .1});
  optimizer.add_group(net.parameters());
  Loader loader({.size = 4, .batch = 1}, [](std::span<const std::int64_t>, std::uint64_t) { return Batch{Tensor::empty({1})}; });
  std::function<double()> loss = [] { return 1.0; };
  const auto train_to = [&](std::int64_t steps, bool resume, const std::string& out) {
    example::run_training({net, optimizer, loader, [](std::int64_t, std::int64_t) { return .1; }, [&](const Batch&) -> example::Metrics { return {{"loss", loss()}}; }, {}},
                          {.out = folder / out, .epochs = 9, .resume = resume, .max_steps = steps, .progress = "off"});
  };
  const auto run = [&](std::int64_t steps, bool resume, const std::string& out) { return message_of<Diverged>([&] { train_to(steps, resume, out); }); };
  train_to(2, false, "a");
  loss = [] { return std::nan(""); };
  CHECK(run(3, true, "a").find("loss was not finite in the last step (step 3); the checkpoint of step 2") != std::string::npos);
  CHECK(run(4, true, "a").find("2 steps in a row (step 4)") != std::string::npos);  // at the limit and at the end of the epoch
  CHECK(run(3, false, "b").find("nothing had been saved yet") != std::string::npos);
  loss = [&] {
    net.parameters()[0].value.data<float>()[0] = INFINITY;
    return 1.0;
  };
  CHECK(run(1, false, "c").find("after step 1; nothing had been saved yet. Lower --lr.") != std::string::npos);
  CHECK(run(3, true, "a").find("after step 3; the checkpoint of step 2") != std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a run that was killed while it judged an epoch: metrics.csv has the rate of the epoch's last step", "[training]") {
  const auto folder = temp_dir("judged");
  Linear net({.in = 1, .out = 1});
  Loader loader({.size = 3, .batch = 1}, [](std::span<const std::int64_t>, std::uint64_t) { return Batch{Tensor::empty({1})}; });
  const auto lr = [](std::int64_t epoch, std::int64_t step) { return 1 / static_cast<double>(10 * epoch + step + 1); };
  const auto rows = [&](const std::string& out, bool resume, bool killed) {
    Sgd optimizer({.lr = .5});
    optimizer.add_group(net.parameters());
    const auto evaluate = [&]() -> example::Metrics {
      if (killed) throw std::runtime_error("killed");
      return {};
    };
    const example::TrainTask task{net, optimizer, loader, lr, [](const Batch&) -> example::Metrics { return {{"loss", 1}}; }, evaluate};
    return example::run_training(task, {.out = folder / out, .epochs = 2, .resume = resume, .save_every = 1, .progress = "off"}).history;
  };
  const auto whole = rows("whole", false, false);
  CHECK_THROWS_AS(rows("cut", false, true), std::runtime_error);
  CHECK(rows("cut", true, false) == whole);
  CHECK(whole[0].second[1] == std::pair<std::string, double>("lr", lr(0, 2)));
  std::filesystem::remove_all(folder);
}

TEST_CASE("columns of metrics.csv that come and go with a resume", "[training]") {
  const auto folder = temp_dir("columns");
  Linear net({.in = 1, .out = 1});
  Sgd optimizer({.lr = .5});
  Loader loader({.size = 1, .batch = 1}, [](std::span<const std::int64_t>, std::uint64_t) { return Batch{Tensor::empty({1})}; });
  for (std::int64_t epochs = 1; epochs <= 3; ++epochs) {
    const auto evaluate = [&]() -> example::Metrics { return epochs == 2 ? example::Metrics{} : example::Metrics{{epochs == 1 ? "a" : "b", epochs}}; };
    const auto step = [](const Batch&) -> example::Metrics { return {{"loss", 4}}; };
    example::run_training({net, optimizer, loader, [](std::int64_t, std::int64_t) { return .5; }, step, evaluate}, {.out = folder, .epochs = epochs, .resume = epochs > 1, .progress = "off"});
  }
  std::ifstream csv(folder / "metrics.csv");
  CHECK(std::string(std::istreambuf_iterator<char>(csv), {}) == "epoch,loss,lr,a,b\n1,4,0.5,1,\n2,4,0.5,,\n3,4,0.5,,3\n");
  std::filesystem::remove_all(folder);
}

TEST_CASE("settings that contradict the run: refused by --resume, taken with --force, and not noticed by checkpoints that have none", "[training]") {
  const auto folder = temp_dir("settings");
  Linear net({.in = 1, .out = 1});
  const auto train_with = [&](example::Settings settings, std::int64_t batch, example::TrainOptions more) {
    Sgd optimizer({.lr = .5});
    optimizer.add_group(net.parameters());
    Loader loader({.size = 6, .batch = batch}, [](std::span<const std::int64_t>, std::uint64_t) { return Batch{Tensor::empty({1})}; });
    more.out = folder.string();
    more.settings = std::move(settings);
    more.progress = "off";
    const auto step = [](const Batch&) -> example::Metrics { return {{"loss", 1}}; };
    return example::run_training({net, optimizer, loader, [](std::int64_t, std::int64_t) { return .1; }, step, {}}, more).steps;
  };
  CHECK(train_with({{"--clip", ""}, {"--lr", "0.1"}, {"--net", "a"}}, 2, {.epochs = 2, .max_steps = 4}) == 4);
  const auto said = message_of<ValueError>([&] { train_with({{"--clip", "3"}, {"--lr", "0.2"}, {"--net", "a"}}, 3, {.epochs = 2, .seed = 1, .resume = true}); });
  CHECK(said.find("was begun with other settings: batches an epoch 3, now 2; --seed 0, now 1; --clip not given, now 3; --lr 0.1, now 0.2. Give the same ones") != std::string::npos);
  CHECK(train_with({{"--lr", "0.1"}, {"--new-option", "1"}}, 2, {.epochs = 3, .resume = true, .max_steps = 5}) == 5);  // options come and go between versions
  CHECK(train_with({{"--lr", "0.2"}}, 3, {.epochs = 3, .resume = true, .force = true, .max_steps = 6}) == 6);
  CHECK(train_with({{"--lr", "0.2"}}, 3, {.epochs = 3, .resume = true}) == 9);  // the second epoch was dealt out anew, in 2 batches
  Checkpoint old = CheckpointFolder(folder.string() + "/checkpoint").load_last();
  std::erase_if(old.state, [](const auto& s) { return s.first.starts_with("setting."); });
  CheckpointFolder(folder.string() + "/checkpoint").save(old);
  CHECK(train_with({{"--lr", "0.3"}}, 3, {.epochs = 4, .resume = true}) == 11);
  std::filesystem::remove_all(folder);
}

}  // namespace mien::test
