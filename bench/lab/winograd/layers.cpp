// The 3x3 convolutions with stride 1 of Inception-ResNet-v1 (160x160), direct sum against Winograd's F(4x4, 3x3), one thread, CPU time.
//   layers [batch ...]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "mien/kernels/parallel.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"

using namespace mien;

namespace {
double now() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}
struct Layer {
  const char* name;
  std::int64_t side, c, o, padding;
};
}  // namespace

int main(int argc, char** argv) {
  set_num_threads(1);
  const Layer layers[] = {{"2a", 79, 32, 32, 0}, {"2b", 77, 32, 64, 1}, {"4a", 38, 80, 192, 0}, {"block35", 17, 32, 32, 1}, {"6a", 17, 192, 192, 1}, {"7a", 8, 256, 256, 1}, {"mtcnn o2", 23, 32, 64, 0}, {"o3", 10, 64, 64, 0}, {"r2", 11, 32, 48, 0}};
  for (int i = 1; i < std::max(argc, 2); ++i) {
    const std::int64_t n = argc > 1 ? std::atol(argv[i]) : 16;
    for (const Layer& l : layers) {
      const Tensor x = channels_last(uniform({n, l.c, l.side, l.side}, -1, 1)), w = uniform({l.o, l.c, 3, 3}, -.1, .1), bias = uniform({l.o}, -1, 1);
      PackedConvParams p;
      p.padding = {l.padding, l.padding, l.padding, l.padding};
      p.kernel = {3, 3};
      p.activation = Activation::relu;
      p.channels[0] = l.o;
      const Tensor packed[2] = {pack_conv_weights(w), pack_winograd_weights(w)};
      double best[2] = {1e9, 1e9};
      Tensor y[2];
      for (int round = 0; round < 15; ++round)
        for (int way = 0; way < 2; ++way) {
          const double begin = now();
          int runs = 0;
          do y[way] = packed_conv2d({x, packed[way], bias, {}, {}}, p)[0], ++runs;
          while (now() - begin < 15);
          best[way] = std::min(best[way], (now() - begin) / runs);
        }
      double worst = 0, largest = 0;
      for (std::int64_t k = 0; k < y[0].numel(); ++k) {
        const double a = static_cast<double>(y[0].data<float>()[k]), b = static_cast<double>(y[1].data<float>()[k]);
        worst = std::max(worst, std::abs(a - b));
        largest = std::max(largest, std::abs(a));
      }
      const double work = 2e-6 * static_cast<double>(y[0].numel() * l.c * 9);
      std::printf("b%ld %-9s direct %8.3f ms %4.0f GFLOP/s   winograd %8.3f ms %4.0f GFLOP/s   %.2fx   differ by %.1e\n", n, l.name, best[0], work / best[0], best[1], work / best[1], best[0] / best[1], worst / largest);
    }
  }
}
