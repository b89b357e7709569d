// Time and memory of one training step (forward, loss over the people, backward, SGD) and of one forward pass in eval mode of a face-embedding net; the
// same work as `tools/oracle_facenet.py step` gives PyTorch.
//
//   bench_embedding_step mobilefacenet|inception-resnet-v1 [LOSS=softmax|cosface|arcface] [BATCH=32] [THREADS=1] [STEPS=5] [CLASSES=10575] [PRODUCTS=f32|bf16x3|bf16]
//
// One JSON line; medians. Peak memory: tensors alive at once, and the process.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "measure.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/models/facenet/embedding_net.h"
#include "mien/models/facenet/objective.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/generator.h"

using namespace mien;

int main(int argc, char** argv) {
  const auto argument = [&](int i, const char* otherwise) { return std::string(argc > i ? argv[i] : otherwise); };
  const std::string name = argument(1, "mobilefacenet"), loss = argument(2, "softmax");
  const std::int64_t batch = std::atoll(argument(3, "32").c_str()), classes = std::atoll(argument(6, "10575").c_str());
  const int threads = std::atoi(argument(4, "1").c_str()), steps = std::atoi(argument(5, "5").c_str());
  set_num_threads(threads);
  const std::string products = argument(7, "f32");
  for (const Precision p : {Precision::f32, Precision::bf16x3, Precision::bf16})
    if (products == mien::name(p)) set_matmul_precision(p);
  manual_seed(1);
  EmbeddingSpec spec;
  spec.architecture = name;
  const bool mobile = name == "mobilefacenet";
  spec.height = mobile ? 112 : 160;
  spec.width = mobile ? 96 : 160;
  spec.size = mobile ? 128 : 512;
  const auto net = make_embedding_net(spec);
  const PeopleLoss people = loss == "arcface" ? PeopleLoss::arcface : loss == "cosface" ? PeopleLoss::cosface : PeopleLoss::softmax;
  EmbeddingObjective objective({.size = spec.size, .classes = classes, .people = people, .scale = 64, .margin = people == PeopleLoss::arcface ? .5 : .35});
  net->require_grad();
  objective.require_grad();
  Sgd optimizer({.lr = .01, .momentum = .9, .weight_decay = 5e-4});
  optimizer.add_group(net->parameters());
  optimizer.add_group(objective.parameters());
  const Tensor x = channels_last(randn({batch, 3, spec.height, spec.width})), labels = randint(0, classes, {batch});
  net->train();
  const auto train = bench::measure([&] {
    backward(objective(net->forward(x), labels, 0).total);
    optimizer.step();
    optimizer.zero_grad();
  }, steps);
  const std::int64_t tensors = cpu_allocator()->stats().peak;
  net->eval();
  const NoGrad guard;
  const auto infer = bench::measure([&] { net->forward(x); }, steps);
  std::printf("{\"schema\": \"mien.embedding_step/1\", \"net\": \"%s\", \"loss\": \"%s\", \"classes\": %ld, \"batch\": %ld, \"threads\": %d, \"level\": \"%s\", \"products\": \"%s\", \"train_wall_ms\": %.1f, "
              "\"train_cpu_ms\": %.1f, \"infer_wall_ms\": %.1f, \"infer_cpu_ms\": %.1f, \"tensors_MiB\": %ld, \"resident_MiB\": %ld}\n",
              name.c_str(), loss.c_str(), static_cast<long>(classes), static_cast<long>(batch), threads, mien::name(max_cpu_level()), mien::name(matmul_precision()), train.wall_ms.median,
              train.cpu_ms.median, infer.wall_ms.median, infer.cpu_ms.median, static_cast<long>(tensors >> 20), static_cast<long>(bench::peak_resident_bytes() >> 20));
}
