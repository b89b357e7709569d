// Inception-ResNet-v1's convolutions in planned bf16 inference (packed_conv2d, siblings merged, ReLU), one by one.
//   packed [BATCH=8] [REPEATS=7]     one thread: OMP_NUM_THREADS=1
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"

using namespace mien;

struct Layer {
  const char* name;
  std::int64_t count, size, c, o, siblings, kh, kw, stride, ph, pw;
};
const Layer layers[] = {
    {"1a", 1, 160, 3, 32, 1, 3, 3, 2, 0, 0},      {"2a", 1, 79, 32, 32, 1, 3, 3, 1, 0, 0},     {"2b", 1, 77, 32, 64, 1, 3, 3, 1, 1, 1},   {"3b", 1, 38, 64, 80, 1, 1, 1, 1, 0, 0},
    {"4a", 1, 38, 80, 192, 1, 3, 3, 1, 0, 0},     {"4b", 1, 36, 192, 256, 1, 3, 3, 2, 0, 0},   {"35 in", 5, 17, 256, 32, 3, 1, 1, 1, 0, 0}, {"35 3x3", 15, 17, 32, 32, 1, 3, 3, 1, 1, 1},
    {"35 up", 5, 17, 96, 256, 1, 1, 1, 1, 0, 0},  {"6a s2", 1, 17, 256, 384, 1, 3, 3, 2, 0, 0}, {"6a in", 1, 17, 256, 192, 1, 1, 1, 1, 0, 0}, {"6a 3x3", 1, 17, 192, 192, 1, 3, 3, 1, 1, 1},
    {"6a out", 1, 17, 192, 256, 1, 3, 3, 2, 0, 0}, {"17 in", 10, 8, 896, 128, 2, 1, 1, 1, 0, 0}, {"17 1x7", 10, 8, 128, 128, 1, 1, 7, 1, 0, 3}, {"17 7x1", 10, 8, 128, 128, 1, 7, 1, 1, 3, 0},
    {"17 up", 10, 8, 256, 896, 1, 1, 1, 1, 0, 0}, {"7a in", 1, 8, 896, 256, 3, 1, 1, 1, 0, 0}, {"7a s2", 1, 8, 256, 384, 1, 3, 3, 2, 0, 0}, {"7a s2b", 2, 8, 256, 256, 1, 3, 3, 2, 0, 0},
    {"7a 3x3", 1, 8, 256, 256, 1, 3, 3, 1, 1, 1}, {"8 in", 6, 3, 1792, 192, 2, 1, 1, 1, 0, 0}, {"8 1x3", 6, 3, 192, 192, 1, 1, 3, 1, 0, 1}, {"8 3x1", 6, 3, 192, 192, 1, 3, 1, 1, 1, 0},
    {"8 up", 6, 3, 384, 1792, 1, 1, 1, 1, 0, 0},  {"fc", 1, 1, 1792, 512, 1, 1, 1, 1, 0, 0}};

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int main(int argc, char** argv) {
  const std::int64_t batch = argc > 1 ? std::atoll(argv[1]) : 8;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 7;
  const NoGrad guard;
  double total = 0, work = 0;
  for (const Layer& l : layers) {
    PackedConvParams p;
    p.stride = {l.stride, l.stride};
    p.padding = {l.ph, l.ph, l.pw, l.pw};
    p.kernel = {l.kh, l.kw};
    p.activation = Activation::relu;
    p.outputs = static_cast<int>(l.siblings);
    std::vector<Tensor> packs;
    for (std::int64_t i = 0; i < l.siblings; ++i) {
      p.channels[static_cast<std::size_t>(i)] = l.o;
      packs.push_back(pack_conv_weights(randn({l.o, l.c, l.kh, l.kw}), 1, DType::bf16));
    }
    const PackedConvInputs in{channels_last(cast(randn({batch, l.c, l.size, l.size}), DType::bf16)), join_packed_weights(packs), randn({l.siblings * l.o}), {}, {}};
    const auto y = packed_conv2d(in, p, DType::bf16);
    const View views[] = {in.x.view(), in.weight.view(), in.bias.view()};
    std::vector<View> out;
    for (const auto& t : y) out.push_back(t.view());
    const double flop = 2e-9 * static_cast<double>(y[0].numel() * l.siblings * l.c * l.kh * l.kw);
    std::vector<double> times;
    for (int i = 0; i <= repeats; ++i) {
      const double t = now();
      run_kernel("packed_conv2d", {nullptr, &KernelTable::packed_conv2d}, views, out, &p);
      times.push_back(now() - t);
    }
    std::sort(times.begin(), times.end());
    const double t = times[times.size() / 2];
    std::printf("%-7s %8.3f GFLOP x %2ld  %7.3f ms  %5.0f GFLOP/s  %5.2f ms in all\n", l.name, flop, static_cast<long>(l.count), 1000 * t, flop / t, 1000 * t * static_cast<double>(l.count));
    total += t * static_cast<double>(l.count);
    work += flop * static_cast<double>(l.count);
  }
  std::printf("all: %.2f GFLOP, %.2f ms, %.0f GFLOP/s, %.0f pictures/s\n", work, 1000 * total, work / total, static_cast<double>(batch) / total);
}
