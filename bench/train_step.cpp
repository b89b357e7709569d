// CPU time of one training step (forward, losses, backward, SGD with momentum) of a small net; the same work as `tools/oracle.py step` gives PyTorch.
//
//   bench_train_step [NET=onet] [BATCH] [THREADS=1] [STEPS=9]      NET: pnet (512 crops unless told), rnet (512), onet (256), lenet (256)
//
// One JSON line: the median over the steps.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "measure.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/models/lenet/lenet.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/generator.h"

using namespace mien;

namespace {

Tensor repeated(const std::vector<std::int64_t>& labels, std::int64_t count) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(labels[static_cast<std::size_t>(i) % labels.size()]);
  return Tensor::from(rows, {count});
}

double median_ms(Module& net, int steps, const std::function<Tensor()>& loss) {
  net.require_grad();
  net.train();
  Sgd optimizer({.lr = .001, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net.parameters());
  const auto step = [&] {
    backward(loss());
    optimizer.step();
    optimizer.zero_grad();
  };
  return bench::measure(step, steps).cpu_ms.median;
}

template <class Net>
double cascade_ms(std::int64_t batch, std::int64_t size, bool points, int steps) {
  Net net;
  const Tensor x = randn({batch, 3, size, size}), boxes = randn({batch, 4}), marks = randn({batch, 10});
  const Tensor labels = points ? repeated({1, 0, -1, -2}, batch) : repeated({1, 0, -1, 0}, batch);
  return median_ms(net, steps, [&] {
    const MtcnnOutput out = net.forward(x);
    return mtcnn::three_task_loss(out.logits, out.boxes, out.points, labels, boxes, marks, {.points = 1}).total;
  });
}

double lenet_ms(std::int64_t batch, int steps) {
  LeNet net;
  const Tensor x = randn({batch, 1, 28, 28}), labels = repeated({0, 7, 4, 1, 8, 5, 2, 9, 6, 3}, batch);
  return median_ms(net, steps, [&] { return cross_entropy(net.forward(x), labels); });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string net = argc > 1 ? argv[1] : "onet";
  const std::int64_t batch = argc > 2 ? std::atoll(argv[2]) : net == "pnet" || net == "rnet" ? 512 : 256;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 1, steps = argc > 4 ? std::atoi(argv[4]) : 9;
  set_num_threads(threads);
  manual_seed(1);
  double ms = 0;
  if (net == "pnet") ms = cascade_ms<PNet>(batch, 12, false, steps);
  else if (net == "rnet") ms = cascade_ms<RNet>(batch, 24, false, steps);
  else if (net == "onet") ms = cascade_ms<ONet>(batch, 48, true, steps);
  else if (net == "lenet") ms = lenet_ms(batch, steps);
  else return std::fprintf(stderr, "bench_train_step: %s is none of pnet, rnet, onet, lenet\n", net.c_str()), 2;
  std::printf("{\"schema\": \"mien.train_step/1\", \"model\": \"%s\", \"batch\": %ld, \"threads\": %d, \"level\": \"%s\", \"cpu_ms\": %.3f}\n", net.c_str(), static_cast<long>(batch),
              threads, name(max_cpu_level()), ms);
}
