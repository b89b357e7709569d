// Time of a detector, stage by stage, on one photograph.
//
//   bench_detect WEIGHTS PHOTO [MIN_FACE=20] [THREADS=1] [RUNS=9]
//
// One JSON line: medians in milliseconds (CPU and wall time) of P-Net with its boxes, of R-Net with crops and boxes, of O-Net, and of the whole; the number of
// squares that R- and O-Net look at, and of faces. The stages are differences of runs that end earlier.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "measure.h"
#include "mien/face/detector.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"

using namespace mien;

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
  const auto one = bench::measure([&] { detector.propose(image, 1); }, runs), two = bench::measure([&] { detector.propose(image, 2); }, runs);
  const auto all = bench::measure([&] { detector.detect(image); }, runs);
  const double to_r = one.cpu_ms.median, to_o = two.cpu_ms.median, cpu = all.cpu_ms.median;
  std::printf("{\"picture\": \"%lldx%lld\", \"min_face\": %g, \"threads\": %d, \"level\": \"%s\", \"p_ms\": %.2f, \"r_ms\": %.2f, \"o_ms\": %.2f, \"cpu_ms\": %.2f, "
              "\"wall_ms\": %.2f, \"r_squares\": %zu, \"o_squares\": %zu, \"faces\": %zu, \"load_and_first_ms\": %.1f, \"peak_mb\": %.1f}\n",
              static_cast<long long>(image.width), static_cast<long long>(image.height), min_face, threads, name(max_cpu_level()), to_r, to_o - to_r,
              cpu - to_o, cpu, all.wall_ms.median, r, o, faces, first, static_cast<double>(bench::peak_resident_bytes()) / (1 << 20));
}
