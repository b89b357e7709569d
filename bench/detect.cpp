// Time of a detector, stage by stage, on one photograph.
//
//   bench_detect WEIGHTS PHOTO [MIN_FACE=20] [THREADS=1] [RUNS=9]
//
// One JSON line: medians in milliseconds (CPU and wall time) of P-Net with its boxes, of R-Net with crops and boxes, of O-Net, and of the whole; the number of
// squares that R- and O-Net look at, and of faces. The stages are differences of runs that end earlier.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "mien/face/detector.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"

using namespace mien;

namespace {

struct Times {
  double wall, cpu;
};
template <class F>
Times median_ms(int runs, const F& f) {
  std::vector<double> wall, cpu;
  for (int run = 0; run < runs + 2; ++run) {
    const auto t = std::chrono::steady_clock::now();
    const std::clock_t c = std::clock();
    f();
    if (run < 2) continue;
    cpu.push_back(1000.0 * static_cast<double>(std::clock() - c) / CLOCKS_PER_SEC);
    wall.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - t).count());
  }
  std::sort(wall.begin(), wall.end());
  std::sort(cpu.begin(), cpu.end());
  return {wall[wall.size() / 2], cpu[cpu.size() / 2]};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_detect WEIGHTS PHOTO [MIN_FACE=20] [THREADS=1] [RUNS=9]\n");
    return 2;
  }
  const double min_face = argc > 3 ? std::atof(argv[3]) : 20;
  const int threads = argc > 4 ? std::atoi(argv[4]) : 1, runs = argc > 5 ? std::atoi(argv[5]) : 9;
  set_num_threads(threads);
  const Image image = read_image(argv[2]);
  const auto start = std::chrono::steady_clock::now();
  const Detector detector = Detector::load(argv[1], {.min_face = min_face});
  const std::size_t faces = detector.detect(image).size();
  const double first = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const std::size_t r = detector.propose(image, 1).size(), o = detector.propose(image, 2).size();
  const Times one = median_ms(runs, [&] { detector.propose(image, 1); }), two = median_ms(runs, [&] { detector.propose(image, 2); });
  const Times all = median_ms(runs, [&] { detector.detect(image); });
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"picture\": \"%lldx%lld\", \"min_face\": %g, \"threads\": %d, \"level\": \"%s\", \"p_ms\": %.2f, \"r_ms\": %.2f, \"o_ms\": %.2f, \"cpu_ms\": %.2f, "
              "\"wall_ms\": %.2f, \"r_squares\": %zu, \"o_squares\": %zu, \"faces\": %zu, \"load_and_first_ms\": %.1f, \"peak_mb\": %.1f}\n",
              static_cast<long long>(image.width), static_cast<long long>(image.height), min_face, threads, name(max_cpu_level()), one.cpu, two.cpu - one.cpu,
              all.cpu - two.cpu, all.cpu, all.wall, r, o, faces, first, static_cast<double>(usage.ru_maxrss) / 1024);
}
