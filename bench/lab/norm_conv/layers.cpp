// Times norm_conv and its gradient on every layer of MobileFaceNet, several builds of the kernels by turns, as the machine's speed changes: a build a shared object,
//   g++ -std=c++20 -O3 LEVEL_FLAGS -DMIEN_LEVEL=avx2 -DMIEN_LEVEL_IS_avx2=1 -DLAB_SHARED -fPIC -shared -Wl,-Bsymbolic layers.cpp kernels/cpu/norm_conv.cpp
//     kernels/cpu/norm_conv_depthwise.cpp kernels/parallel.cpp tensor/error.cpp tensor/shape.cpp -o new.so
// and the program itself without LAB_SHARED and without the kernels, with -ldl. Of the first build it prints ms, of the others how many times as fast they are, and by how
// much their results differ from the first one's, relative to the largest:
//   OMP_NUM_THREADS=1 ./layers BATCH PASSES old.so new.so        (LAB_ONLY=part of a name)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"

using namespace mien;

#ifdef LAB_SHARED
namespace mien::MIEN_LEVEL {
extern const KernelEntry norm_conv_entry, norm_conv_backward_entry;
}
extern "C" const KernelEntry* lab_entry(int i) { return i == 0 ? &MIEN_LEVEL::norm_conv_entry : &MIEN_LEVEL::norm_conv_backward_entry; }
#else
namespace {

struct Layer {
  const char* name;
  std::int64_t in, out, size, stride, groups, count;
  Activation activation;  // of the map that it reads
};
constexpr auto none = Activation::none, prelu = Activation::prelu;
const Layer net[] = {
    {"dw 64 56", 64, 64, 56, 1, 64, 1, prelu},        {"64-128 56", 64, 128, 56, 1, 1, 1, prelu},    {"dw 128 56/2", 128, 128, 56, 2, 128, 1, prelu},
    {"128-64 28", 128, 64, 28, 1, 1, 5, prelu},       {"64-128 28", 64, 128, 28, 1, 1, 4, none},     {"dw 128 28", 128, 128, 28, 1, 128, 4, prelu},
    {"64-256 28", 64, 256, 28, 1, 1, 1, none},        {"dw 256 28/2", 256, 256, 28, 2, 256, 1, prelu}, {"256-128 14", 256, 128, 14, 1, 1, 7, prelu},
    {"128-256 14", 128, 256, 14, 1, 1, 6, none},      {"dw 256 14", 256, 256, 14, 1, 256, 6, prelu}, {"128-512 14", 128, 512, 14, 1, 1, 1, none},
    {"dw 512 14/2", 512, 512, 14, 2, 512, 1, prelu},  {"512-128 7", 512, 128, 7, 1, 1, 1, prelu},    {"128-256 7", 128, 256, 7, 1, 1, 2, none},
    {"dw 256 7", 256, 256, 7, 1, 256, 2, prelu},      {"256-128 7", 256, 128, 7, 1, 1, 2, prelu},    {"128-512 7", 128, 512, 7, 1, 1, 1, none},
};

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
View floats(Shape shape, float low = -1) {
  std::int64_t n = 1;
  for (const auto s : shape) n *= s;
  auto* p = static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(n * 4 + 127) / 64 * 64));
  for (std::int64_t i = 0; i < n; ++i) p[i] = low + (1 - low) * static_cast<float>(std::rand() % 2001) * 5e-4f;
  return {p, DType::f32, shape, shape.rank() == 4 ? channels_last_strides(shape) : contiguous_strides(shape)};
}

struct Call {
  NormConvParams params;
  std::vector<View> in[2], out[2];  // forward, backward
  void* workspace = nullptr;
  KernelArgs args(int way) const { return {in[way], out[way], &params, workspace}; }
};

Call make(const Layer& s, std::int64_t batch, const std::vector<const KernelEntry*>& entries) {
  Call c;
  const std::int64_t k = s.groups > 1 ? 3 : 1, to = (s.size - 1) / s.stride + 1;
  c.params.stride = {s.stride, s.stride};
  if (k == 3) c.params.padding = {1, 1, 1, 1};
  c.params.groups = s.groups;
  c.params.activation = s.activation;
  const auto norm_of = [](std::int64_t channels) { return std::vector<View>{floats({channels}), floats({channels}, .5f), floats({channels}, .5f), floats({channels})}; };
  c.in[0] = {floats({batch, s.in, s.size, s.size}), floats({s.out, s.in / s.groups, k, k})};
  for (const View& v : norm_of(s.in)) c.in[0].push_back(v);
  if (s.activation == prelu) c.in[0].push_back(floats({s.in}, 0));
  c.out[0] = {floats({batch, s.out, to, to}), floats({s.out}), floats({s.out}, .5f)};
  c.in[1] = {floats({batch, s.out, to, to}), floats({s.out}), floats({s.out}), floats({batch, s.out, to, to}), c.out[0][1], c.out[0][2]};
  for (const View& v : c.in[0]) {
    c.in[1].push_back(v);
    c.out[1].push_back(floats(v.shape));
  }
  std::int64_t bytes = 64;
  for (std::size_t i = 0; i < entries.size(); ++i) bytes = std::max(bytes, entries[i]->workspace(c.args(static_cast<int>(i % 2))));
  c.workspace = std::aligned_alloc(64, static_cast<std::size_t>(bytes + 63) / 64 * 64);
  return c;
}
double difference(const std::vector<View>& a, const std::vector<std::vector<float>>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double most = 1e-30, off = 0;
    for (std::size_t j = 0; j < b[i].size(); ++j) {
      const double x = static_cast<double>(a[i].ptr<float>()[j]), y = static_cast<double>(b[i][j]);
      most = std::max(most, std::fabs(y));
      off = std::max(off, std::isfinite(x) ? std::fabs(x - y) : 1e30);
    }
    worst = std::max(worst, off / most);
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::puts("layers BATCH PASSES BUILD.so..."), 2;
  const std::int64_t batch = std::atoi(argv[1]);
  const int passes = std::atoi(argv[2]);
  std::vector<const KernelEntry*> entries;  // forward and backward of each build
  for (int i = 3; i < argc; ++i) {
    void* build = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
    if (!build) return std::puts(dlerror()), 1;
    for (int way = 0; way < 2; ++way) entries.push_back(reinterpret_cast<const KernelEntry* (*)(int)>(dlsym(build, "lab_entry"))(way));
  }
  const std::size_t builds = entries.size() / 2;
  std::vector<std::vector<double>> whole(builds, std::vector<double>(static_cast<std::size_t>(passes), 0.));
  for (const Layer& s : net) {
    if (const char* only = std::getenv("LAB_ONLY"); only && !std::strstr(s.name, only)) continue;
    const Call c = make(s, batch, entries);
    for (int way = 0; way < 2; ++way) {
      std::vector<std::vector<double>> times(builds);
      std::vector<double> off(builds);
      std::vector<std::vector<float>> first;
      for (int pass = -1; pass < passes; ++pass)  // before the first: results
        for (std::size_t turn = 0; turn < builds; ++turn) {
          const std::size_t b = pass < 0 ? turn : (turn + static_cast<std::size_t>(pass)) % builds;
          const double begin = now();
          entries[2 * b + static_cast<std::size_t>(way)]->run(c.args(way));
          const double time = now() - begin;
          if (pass >= 0) {
            times[b].push_back(time);
            whole[b][static_cast<std::size_t>(pass)] += static_cast<double>(s.count) * time;
          } else if (b == 0) {
            for (const View& v : c.out[way]) first.emplace_back(v.ptr<float>(), v.ptr<float>() + v.numel());
          } else {
            off[b] = difference(c.out[way], first);
          }
        }
      std::printf("%-12s x%lld %s %8.3f ms", s.name, static_cast<long long>(s.count), way ? "backward" : "forward ", 1e3 * median(times[0]));
      for (std::size_t b = 1; b < builds; ++b) {
        std::vector<double> ratios;
        for (std::size_t k = 0; k < times[0].size(); ++k) ratios.push_back(times[0][k] / times[b][k]);
        std::printf("  %.3f (differs by %.0e)", median(ratios), off[b]);
      }
      std::puts("");
    }
    for (int way = 0; way < 2; ++way)
      for (const auto* views : {&c.in[way], &c.out[way]})
        for (const View& v : *views)
          if (way == 0 || std::none_of(c.in[0].begin(), c.in[0].end(), [&](const View& u) { return u.data == v.data; }))
            if (way == 0 || (v.data != c.out[0][1].data && v.data != c.out[0][2].data)) std::free(v.data);
    std::free(c.workspace);
  }
  std::printf("%-24s %8.3f ms", "the net", 1e3 * median(whole[0]));
  for (std::size_t b = 1; b < builds; ++b) {
    std::vector<double> ratios;
    for (std::size_t k = 0; k < whole[0].size(); ++k) ratios.push_back(whole[0][k] / whole[b][k]);
    std::printf("  %.3f", median(ratios));
  }
  std::puts("");
  return 0;
}
#endif
