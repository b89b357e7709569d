// Time of one training step (forward, loss, backward, SGD) and of one forward pass in eval mode of MobileFaceNet for 112 x 96 crops
// (Chen et al., "MobileFaceNets", 2018), channels_last. The net is written down here so that the measurement does not move with the model.
//
//   bench_mobilefacenet_step [BATCH=64] [THREADS=1] [STEPS=5] [LAYOUT=channels_last|contiguous]     one JSON line; medians after two steps of warm-up
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <optional>

#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/layers/layers.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/generator.h"

using namespace mien;

namespace {

struct ConvUnit : Module {
  ConvUnit(std::int64_t in, std::int64_t out, Pair kernel, std::int64_t stride, std::int64_t pad, std::int64_t groups, bool active)
      : conv({.in = in, .out = out, .kernel = kernel, .stride = {stride, stride}, .padding = {pad, pad, pad, pad}, .groups = groups, .bias = false}), norm({.channels = out}) {
    if (active) act.emplace(out);
  }
  Tensor operator()(const Tensor& x) {
    const Tensor y = norm(conv(x));
    return act ? (*act)(y) : y;
  }
  void visit(Visitor& v) override {
    v("conv", conv);
    v("norm", norm);
    if (act) v("act", *act);
  }
  Conv2d conv;
  BatchNorm2d norm;
  std::optional<PReLU> act;
};

struct Net : Module {
  Net() {
    add(3, 64, {3, 3}, 2, 1, 1, true);
    add(64, 64, {3, 3}, 1, 1, 64, true);
    struct Stage {
      std::int64_t expansion, channels, count, stride;
    };
    std::int64_t in = 64;
    for (const Stage s : {Stage{2, 64, 5, 2}, {4, 128, 1, 2}, {2, 128, 6, 1}, {4, 128, 1, 2}, {2, 128, 2, 1}})
      for (std::int64_t i = 0; i < s.count; ++i) {
        const std::int64_t stride = i == 0 ? s.stride : 1, wide = in * s.expansion;
        add(in, wide, {1, 1}, 1, 0, 1, true, stride == 1 && in == s.channels ? 3 : 0);
        add(wide, wide, {3, 3}, stride, 1, wide, true);
        add(wide, s.channels, {1, 1}, 1, 0, 1, false);
        in = s.channels;
      }
    add(in, 512, {1, 1}, 1, 0, 1, true);
    add(512, 512, {7, 6}, 1, 0, 512, false);
    add(512, 128, {1, 1}, 1, 0, 1, false);
  }
  Tensor forward(Tensor x) {
    for (std::size_t i = 0; i < units.size(); ++i) {
      const std::size_t end = i + std::max(skip[i], 1);
      const Tensor before = x;
      const bool residual = skip[i] > 0;
      for (; i < end; ++i) x = units[i](x);
      --i;
      if (residual) x = mien::add(x, before);
    }
    return x;
  }
  void visit(Visitor& v) override {
    for (std::size_t i = 0; i < units.size(); ++i) v("unit" + std::to_string(i), units[i]);
  }
  std::deque<ConvUnit> units;
  std::vector<int> skip;  // units that the sum with what came before closes; 0: none begins here

 private:
  void add(std::int64_t in, std::int64_t out, Pair kernel, std::int64_t stride, std::int64_t pad, std::int64_t groups, bool active, int residual = 0) {
    units.emplace_back(in, out, kernel, stride, pad, groups, active);
    skip.push_back(residual);
  }
};

struct Times {
  double wall, cpu;
};
template <class F>
Times median_ms(int steps, const F& f) {
  std::vector<double> wall, cpu;
  for (int step = 0; step < steps + 2; ++step) {
    const auto t = std::chrono::steady_clock::now();
    const std::clock_t c = std::clock();
    f();
    if (step < 2) continue;
    cpu.push_back(1000.0 * static_cast<double>(std::clock() - c) / CLOCKS_PER_SEC);
    wall.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - t).count());
  }
  std::sort(wall.begin(), wall.end());
  std::sort(cpu.begin(), cpu.end());
  return {wall[wall.size() / 2], cpu[cpu.size() / 2]};
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t batch = argc > 1 ? std::atoll(argv[1]) : 64;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1, steps = argc > 3 ? std::atoi(argv[3]) : 5;
  const Layout layout = argc > 4 && std::strcmp(argv[4], "contiguous") == 0 ? Layout::contiguous : Layout::channels_last;
  set_num_threads(threads);
  manual_seed(1);
  Net net;
  net.require_grad();
  net.train();
  Sgd optimizer({.lr = .01, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net.parameters());
  const Tensor x = randn({batch, 3, 112, 96}, {.layout = layout});
  const Times train = median_ms(steps, [&] {
    backward(mean(square(net.forward(x))));
    optimizer.step();
    optimizer.zero_grad();
  });
  net.eval();
  const NoGrad guard;
  const Times infer = median_ms(steps, [&] { net.forward(x); });
  std::printf("{\"schema\": \"mien.mobilefacenet_step/1\", \"batch\": %ld, \"threads\": %d, \"level\": \"%s\", \"layout\": \"%s\", \"train_wall_ms\": %.1f, \"train_cpu_ms\": %.1f, "
              "\"train_images_per_s\": %.1f, \"infer_wall_ms\": %.1f, \"infer_cpu_ms\": %.1f, \"parameters\": %ld}\n",
              static_cast<long>(batch), threads, name(max_cpu_level()), layout == Layout::contiguous ? "contiguous" : "channels_last", train.wall, train.cpu,
              1000.0 * static_cast<double>(batch) / train.wall, infer.wall, infer.cpu, static_cast<long>(net.parameter_count()));
}
