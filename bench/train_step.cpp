// CPU time of one training step (forward, three losses, backward, SGD) of O-Net; the same work as `tools/oracle.py onet-step` gives PyTorch.
//
//   bench_train_step [BATCH=256] [THREADS=1] [STEPS=7]      one JSON line; the median after two steps of warm-up
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/factory.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/generator.h"

using namespace mien;

int main(int argc, char** argv) {
  const std::int64_t batch = argc > 1 ? std::atoll(argv[1]) : 256;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1, steps = argc > 3 ? std::atoi(argv[3]) : 7;
  set_num_threads(threads);
  manual_seed(1);
  ONet net;
  net.require_grad();
  net.train();
  Sgd optimizer({.lr = .001, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net.parameters());
  const Tensor x = randn({batch, 3, 48, 48}), boxes = randn({batch, 4}), points = randn({batch, 10});
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < batch; ++i) rows.push_back(std::array<std::int64_t, 4>{1, 0, -1, -2}[static_cast<std::size_t>(i % 4)]);
  const Tensor labels = Tensor::from(rows, {batch});
  std::vector<double> ms;
  for (int step = 0; step < steps + 2; ++step) {
    const std::clock_t t = std::clock();
    const MtcnnOutput out = net.forward(x);
    backward(mtcnn::three_task_loss(out.logits, out.boxes, out.points, labels, boxes, points, {.points = 1}).total);
    optimizer.step();
    optimizer.zero_grad();
    if (step >= 2) ms.push_back(1000.0 * static_cast<double>(std::clock() - t) / CLOCKS_PER_SEC);
  }
  std::sort(ms.begin(), ms.end());
  std::printf("{\"schema\": \"mien.train_step/1\", \"model\": \"onet\", \"batch\": %ld, \"threads\": %d, \"level\": \"%s\", \"cpu_ms\": %.1f}\n", static_cast<long>(batch), threads,
              name(max_cpu_level()), ms[ms.size() / 2]);
}
