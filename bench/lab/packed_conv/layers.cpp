// Times every convolution of a net with the packed kernels, layer after layer as inference runs them (weights of all layers distinct, each layer reads
// what the one before wrote). One level a binary:
//   g++ -std=c++20 -O3 LEVEL_FLAGS -DMIEN_LEVEL=avx512 -DMIEN_LEVEL_IS_avx512=1 layers.cpp kernels/cpu/packed_*.cpp kernels/parallel.cpp tensor/error.cpp tensor/shape.cpp
//   OMP_NUM_THREADS=1 ./layers irv1|mfn BATCH [check]
// Or several builds of the kernels by turns, a pass each, on a machine whose speed changes:
//   g++ ... -DLAB_SHARED -fPIC -shared -Wl,-Bsymbolic layers.cpp kernels/cpu/packed_*.cpp kernels/parallel.cpp tensor/error.cpp tensor/shape.cpp -o new.so
//   OMP_NUM_THREADS=1 ./layers irv1|mfn BATCH PASSES old.so new.so
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

#include <dlfcn.h>
#include <sys/mman.h>

#include "layers.h"
#include "mien/kernels/cpu/packed_conv.h"
#include "mien/kernels/cpu/simd.h"

namespace mien::MIEN_LEVEL {
extern const KernelEntry packed_conv2d_entry;
}
#ifdef LAB_SHARED
extern "C" const mien::KernelEntry* lab_entry() { return &mien::MIEN_LEVEL::packed_conv2d_entry; }
#else
using namespace mien;
using namespace mien::MIEN_LEVEL;

namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
double peak() {
#if MIEN_LEVEL_IS_avx512 || MIEN_LEVEL_IS_avx2
  std::vector<double> times;
  for (int rep = 0; rep < 7; ++rep) {
    const double begin = now();
    Vec a[12];
    for (auto& x : a) x = Set(1.f);
    Vec m = Set(.999f);
    for (int i = 0; i < 1000000; ++i) {
      asm volatile("" : "+x"(m));
#pragma GCC unroll 12
      for (int j = 0; j < 12; ++j) a[j] = MulAdd(m, m, a[j]);
    }
    for (int j = 1; j < 12; ++j) a[0] = Add(a[0], a[j]);
    float out[lanes];
    Store(a[0], out);
    volatile float sink = out[0];
    (void)sink;
    times.push_back(now() - begin);
  }
  return 1e6 * 12 * lanes * 2 / median(times) * 1e-9;
#else
  return 1;
#endif
}
// From one region of huge pages (LAB_SMALL_PAGES=1: small ones): weights in pages of 4 KiB cost a tenth of the speed at batch 1.
float* floats(std::int64_t n) {
  static std::byte *at = nullptr, *end = nullptr;
  constexpr std::int64_t region = std::int64_t{64} << 20;
  const std::int64_t bytes = (n * 4 + 127) / 64 * 64;
  if (end - at < bytes) {
    void* p = nullptr;
    const std::int64_t size = std::max(region, (bytes + (2 << 20)) >> 21 << 21);
    if (posix_memalign(&p, 2 << 20, static_cast<std::size_t>(size))) std::abort();
    if (!std::getenv("LAB_SMALL_PAGES")) madvise(p, static_cast<std::size_t>(size), MADV_HUGEPAGE);
    at = static_cast<std::byte*>(p);
    end = at + size;
  }
  auto* f = reinterpret_cast<float*>(at);
  at += bytes;
  for (std::int64_t i = 0; i < n; ++i) f[i] = static_cast<float>(std::rand() % 2001 - 1000) * 1e-3f;
  return f;
}
View view(float* data, Shape shape) { return {data, DType::f32, shape, shape.rank() == 4 ? channels_last_strides(shape) : contiguous_strides(shape)}; }
// So many floats between the pixels of maps for depthwise layers, where their channels are a multiple of 128.
std::int64_t gap = 0;
View map_of(float* data, Shape shape, bool for_depthwise) {
  Shape wide = shape;
  if (gap && for_depthwise && shape[1] % 128 == 0 && shape[2] > 1) wide[1] += gap;
  return {data, DType::f32, shape, channels_last_strides(wide)};
}

struct Call {
  lab::Layer layer;
  PackedConvParams params;
  std::vector<View> in, out;
  void* workspace;
  std::vector<double> times;
  KernelArgs args() const { return {in, out, &params, workspace}; }
};

double checked(const Call& c) {
  const auto& s = c.layer;
  const std::int64_t n = c.in[0].size(0), oh = s.oh(), ow = s.ow();
  const float *x = c.in[0].ptr<float>(), *w = c.in[1].ptr<float>(), *bias = c.in[2].ptr<float>();
  const bool prelu = s.activation == Activation::prelu;
  double worst = 0;
  for (int probe = 0; probe < 4000; ++probe) {
    const std::int64_t b = std::rand() % n, y = std::rand() % oh, z = std::rand() % ow, o = std::rand() % s.o();
    std::int64_t which = 0, first = 0, panels = 0;
    while (o >= first + s.outputs[static_cast<std::size_t>(which)]) {
      first += s.outputs[static_cast<std::size_t>(which)];
      panels += (s.outputs[static_cast<std::size_t>(which++)] + 15) / 16;
    }
    const std::int64_t column = o - first, depth = s.kh * s.kw * s.c;
    double sum = bias[o], size = 1;
    for (std::int64_t i = 0; i < s.kh; ++i)
      for (std::int64_t j = 0; j < s.kw; ++j)
        for (std::int64_t k = s.depthwise ? o : 0; k < (s.depthwise ? o + 1 : s.c); ++k) {
          const std::int64_t iy = y * s.stride - s.ph + i, ix = z * s.stride - s.pw + j;
          if (iy < 0 || ix < 0 || iy >= s.h || ix >= s.w) continue;
          const std::int64_t tap = i * s.kw + j;
          const double v = static_cast<double>(x[((b * s.h + iy) * s.w + ix) * s.c + k]) *
                           static_cast<double>(s.depthwise ? w[tap * s.c + k] : w[((panels + column / 16) * depth + tap * s.c + k) * 16 + column % 16]);
          sum += v;
          size += std::fabs(v);
        }
    const std::int64_t at = ((b * oh + y) * ow + z) * s.outputs[static_cast<std::size_t>(which)] + column;
    if (s.residual) sum += static_cast<double>(c.in.back().ptr<float>()[at]);
    if (s.activation == Activation::relu) sum = std::max(sum, 0.);
    if (prelu && sum < 0) sum *= static_cast<double>(c.in[3].ptr<float>()[o]);
    worst = std::max(worst, std::fabs(sum - static_cast<double>(c.out[static_cast<std::size_t>(which)].ptr<float>()[at])) / size);
  }
  return worst;
}

// Passes of all builds by turns; ratios of neighbours, per layer and in all.
int alternate(const std::vector<std::vector<Call>>& ways, const std::vector<const KernelEntry*>& builds, const std::vector<std::string>& names, int passes) {
  const auto& calls = ways[0];
  using Times = std::vector<double>;
  std::vector<std::vector<Times>> times(builds.size(), std::vector<Times>(calls.size()));  // the last: of the whole pass
  for (auto& t : times) t.emplace_back();
  for (int pass = 0; pass < passes; ++pass)
    for (std::size_t turn = 0; turn < builds.size(); ++turn) {
      const std::size_t b = (turn + static_cast<std::size_t>(pass)) % builds.size();
      const double begin = now();
      for (std::size_t i = 0; i < calls.size(); ++i) {
        const double t = now();
        builds[b]->run(ways[b][i].args());
        times[b][i].push_back(now() - t);
      }
      times[b].back().push_back(now() - begin);
    }
  const auto print = [&](const char* what, std::size_t begin, std::size_t end) {
    std::vector<Times> sum(builds.size(), Times(static_cast<std::size_t>(passes)));
    for (std::size_t b = 0; b < builds.size(); ++b)
      for (std::size_t i = begin; i < end; ++i)
        for (std::size_t k = 0; k < sum[b].size(); ++k) sum[b][k] += times[b][i][k];
    std::printf("%-24s %8.3f ms", what, 1e3 * median(sum[0]));
    for (std::size_t b = 1; b < builds.size(); ++b) {
      Times ratios;
      for (std::size_t k = 0; k < sum[b].size(); ++k) ratios.push_back(sum[0][k] / sum[b][k]);
      std::printf("  %.3f", median(ratios));
    }
    std::puts("");
  };
  std::printf("time with %s, and that as a multiple of:", names[0].c_str());
  for (std::size_t b = 1; b < builds.size(); ++b) std::printf(" %s", names[b].c_str());
  std::puts("");
  for (std::size_t i = 0, j = 0; i < calls.size(); i = j) {
    while (j < calls.size() && calls[j].layer.name == calls[i].layer.name) ++j;
    print(calls[i].layer.name.c_str(), i, j);
  }
  print("all", calls.size(), calls.size() + 1);
  return 0;
}

std::vector<Call> calls_of(const std::vector<lab::Layer>& layers, bool mobile, std::int64_t batch, bool check, const std::vector<const KernelEntry*>& builds) {
  std::vector<Call> calls;
  std::int64_t largest = 0;
  for (const auto& s : layers) largest = std::max({largest, (s.c + gap) * s.h * s.w, (s.o() + gap) * s.oh() * s.ow()});
  float* maps[3] = {floats(largest * batch), floats(largest * batch), floats(largest * batch)};
  int turn = 0;
  for (const auto& s : layers)
    for (int k = 0; k < (check ? 1 : s.count); ++k) {
      Call c{.layer = s, .params = {}, .in = {}, .out = {}, .workspace = nullptr, .times = {}};
      c.params.kernel = {s.kh, s.kw};
      c.params.stride = {s.stride, s.stride};
      c.params.padding = {s.ph, s.ph, s.pw, s.pw};
      c.params.groups = s.depthwise ? s.c : 1;
      c.params.activation = s.activation;
      c.params.residual = s.residual;
      c.params.outputs = static_cast<int>(s.outputs.size());
      std::int64_t panels = 0, at = 0;
      float* to = maps[(turn + 1) % 3];
      for (std::size_t i = 0; i < s.outputs.size(); ++i) {
        c.params.channels[i] = s.outputs[i];
        panels += (s.outputs[i] + 15) / 16;
        c.out.push_back(map_of(to + at, {batch, s.outputs[i], s.oh(), s.ow()}, mobile && s.o() > s.c));
        at += batch * s.outputs[i] * s.oh() * s.ow();
      }
      const std::int64_t depth = s.kh * s.kw * s.c;
      c.in.push_back(map_of(maps[turn], {batch, s.c, s.h, s.w}, s.depthwise));
      c.in.push_back(s.depthwise ? view(floats(depth), {s.kh * s.kw, s.c}) : view(floats(panels * depth * 16), {panels, depth, 16}));
      c.in.push_back(view(floats(s.o()), {s.o()}));
      if (s.activation == Activation::prelu) c.in.push_back(view(floats(s.o()), {s.o()}));
      if (s.residual) c.in.push_back(map_of(maps[(turn + 2) % 3], {batch, s.o(), s.oh(), s.ow()}, false));
      turn = (turn + 1) % 3;
      std::int64_t bytes = 0;
      for (const auto* b : builds) bytes = std::max(bytes, b->workspace(c.args()));
      c.workspace = floats(bytes / 4 + 64);
      if (const char* why = packed_conv2d_entry.decline(c.args())) {
        std::printf("%s declined: %s\n", s.name.c_str(), why);
        continue;
      }
      calls.push_back(std::move(c));
    }
  return calls;
}

}  // namespace

int main(int argc, char** argv) {
  const bool mobile = argc > 1 && !std::strcmp(argv[1], "mfn"), check = argc == 4;
  std::vector<const KernelEntry*> builds;
  for (int i = 4; i < argc; ++i) {
    void* build = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
    if (!build) return std::puts(dlerror()), 1;
    builds.push_back(reinterpret_cast<const KernelEntry* (*)()>(dlsym(build, "lab_entry"))());
  }
  if (builds.empty()) builds.push_back(&packed_conv2d_entry);
  const std::int64_t batch = argc > 2 ? std::atoi(argv[2]) : 1;
  auto layers = mobile ? lab::mobilefacenet() : lab::inception_resnet_v1();
  if (const char* only = std::getenv("LAB_ONLY")) std::erase_if(layers, [&](const lab::Layer& s) { return s.name.find(only) == std::string::npos; });
  if (argc > 4) {
    // LAB_GAP=16: every build also with gaps.
    const char* gaps = std::getenv("LAB_GAP");
    std::vector<std::vector<Call>> ways;
    std::vector<std::string> names;
    std::vector<const KernelEntry*> each;
    for (const int with : {0, gaps ? std::atoi(gaps) : 0}) {
      if (with == 0 && !ways.empty()) break;
      gap = with;
      for (std::size_t b = 0; b < builds.size(); ++b) {
        ways.push_back(calls_of(layers, mobile, batch, check, builds));
        names.push_back(argv[4 + b] + std::string(with ? " with gaps" : ""));
        each.push_back(builds[b]);
      }
    }
    return alternate(ways, each, names, std::atoi(argv[3]));
  }
  std::vector<Call> calls = calls_of(layers, mobile, batch, check, builds);
  for (auto& c : calls) {
    if (!check) break;
    packed_conv2d_entry.run(c.args());
    const double error = checked(c);
    if (error > 1e-6) std::printf("%-24s WRONG %g\n", c.layer.name.c_str(), error);
  }
  if (check) return std::puts("checked"), 0;
  const double top = peak();
  std::vector<double> whole;
  for (int rep = 0; rep < (batch > 8 ? 6 : batch > 1 ? 12 : 40); ++rep) {
    const double begin = now();
    for (auto& c : calls) {
      const double t = now();
      packed_conv2d_entry.run(c.args());
      c.times.push_back(now() - t);
    }
    whole.push_back(now() - begin);
  }
  double macs = 0;
  for (std::size_t i = 0; i < calls.size();) {
    double seconds = 0, mine = 0;
    std::size_t j = i;
    for (; j < calls.size() && calls[j].layer.name == calls[i].layer.name; ++j) {
      seconds += median(calls[j].times);
      mine += calls[j].layer.macs() * static_cast<double>(batch);
    }
    macs += mine;
    const double rate = 2e-9 * mine / seconds;
    std::printf("%-24s x%-2zu %8.3f ms %7.1f GFLOP/s %3.0f %%\n", calls[i].layer.name.c_str(), j - i, seconds * 1e3, rate, 100 * rate / top);
    i = j;
  }
  const double t = median(whole), rate = 2e-9 * macs / t;
  std::printf("batch %ld: %.2f ms, %.1f images/s, %.1f GFLOP/s, %.0f %% of %.0f\n", batch, t * 1e3, static_cast<double>(batch) / t, rate, 100 * rate / top, top);
}
#endif
