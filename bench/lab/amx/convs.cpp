// Inception-ResNet-v1's convolutions one by one: GFLOP/s of forward, gradient of the input and of the weights, f32 channels_last tensors.
//   convs [BATCH=32] [PRECISION=bf16|bf16x3|f32] [REPEATS=5]     one thread: OMP_NUM_THREADS=1
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"

using namespace mien;

struct Layer {
  const char* name;
  std::int64_t count, size, c, o, kh, kw, stride, ph, pw;
};
const Layer layers[] = {
    {"1a", 1, 160, 3, 32, 3, 3, 2, 0, 0},      {"2a", 1, 79, 32, 32, 3, 3, 1, 0, 0},      {"2b", 1, 77, 32, 64, 3, 3, 1, 1, 1},     {"3b", 1, 38, 64, 80, 1, 1, 1, 0, 0},
    {"4a", 1, 38, 80, 192, 3, 3, 1, 0, 0},     {"4b", 1, 36, 192, 256, 3, 3, 2, 0, 0},    {"35 in", 15, 17, 256, 32, 1, 1, 1, 0, 0}, {"35 3x3", 15, 17, 32, 32, 3, 3, 1, 1, 1},
    {"35 up", 5, 17, 96, 256, 1, 1, 1, 0, 0},  {"6a s2", 1, 17, 256, 384, 3, 3, 2, 0, 0}, {"6a in", 1, 17, 256, 192, 1, 1, 1, 0, 0}, {"6a 3x3", 1, 17, 192, 192, 3, 3, 1, 1, 1},
    {"6a out", 1, 17, 192, 256, 3, 3, 2, 0, 0}, {"17 in", 20, 8, 896, 128, 1, 1, 1, 0, 0}, {"17 1x7", 10, 8, 128, 128, 1, 7, 1, 0, 3}, {"17 7x1", 10, 8, 128, 128, 7, 1, 1, 3, 0},
    {"17 up", 10, 8, 256, 896, 1, 1, 1, 0, 0}, {"7a in", 3, 8, 896, 256, 1, 1, 1, 0, 0},  {"7a s2", 1, 8, 256, 384, 3, 3, 2, 0, 0},  {"7a s2b", 2, 8, 256, 256, 3, 3, 2, 0, 0},
    {"7a 3x3", 1, 8, 256, 256, 3, 3, 1, 1, 1}, {"8 in", 12, 3, 1792, 192, 1, 1, 1, 0, 0}, {"8 1x3", 6, 3, 192, 192, 1, 3, 1, 0, 1},  {"8 3x1", 6, 3, 192, 192, 3, 1, 1, 1, 0},
    {"8 up", 6, 3, 384, 1792, 1, 1, 1, 0, 0}};

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int main(int argc, char** argv) {
  const std::int64_t batch = argc > 1 ? std::atoll(argv[1]) : 32;
  const std::string wanted = argc > 2 ? argv[2] : "bf16";
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 5;
  for (const Precision p : {Precision::f32, Precision::bf16x3, Precision::bf16})
    if (wanted == name(p)) set_matmul_precision(p);
  const NoGrad guard;
  double total[3] = {}, work = 0;
  std::printf("%-7s %8s | forward      | grad input   | grad weight\n", "layer", "GFLOP");
  for (const Layer& l : layers) {
    ConvParams p;
    p.stride = {l.stride, l.stride};
    p.padding = {l.ph, l.ph, l.pw, l.pw};
    const Tensor x = channels_last(randn({batch, l.c, l.size, l.size})), w = randn({l.o, l.c, l.kh, l.kw});
    const Tensor y = conv2d(x, w, {}, p), gx = channels_last(zeros(x.shape())), gw = zeros(w.shape());
    const double flop = 2e-9 * static_cast<double>(y.numel() * l.c * l.kh * l.kw);
    const KernelList lists[] = {{nullptr, &KernelTable::conv2d}, {nullptr, &KernelTable::conv2d_grad_input}, {nullptr, &KernelTable::conv2d_grad_weight}};
    const View in[][2] = {{x.view(), w.view()}, {y.view(), w.view()}, {y.view(), x.view()}};
    const View out[] = {y.view(), gx.view(), gw.view()};
    std::printf("%-7s %8.2f |", l.name, flop * static_cast<double>(l.count));
    for (int k = 0; k < 3; ++k) {
      std::vector<double> times;
      for (int i = 0; i <= repeats; ++i) {
        const double t = now();
        run_kernel("conv", lists[k], in[k], {&out[k], 1}, &p);
        times.push_back(now() - t);
      }
      std::sort(times.begin(), times.end());
      const double t = times[times.size() / 2];
      total[k] += t * static_cast<double>(l.count);
      std::printf(" %5.2f ms %4.0f |", 1000 * t, flop / t);
    }
    std::printf("\n");
    work += flop * static_cast<double>(l.count);
  }
  std::printf("%-7s %8.2f |", "all", work);
  for (const double t : total) std::printf(" %5.0f ms %4.0f |", 1000 * t, work / t);
  std::printf("\n");
}
