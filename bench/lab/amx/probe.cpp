// What the machine gives a thread, four times a second: products of tiles from registers, from the first and from the second cache, and dependent additions (a clock).
// On a shared host all of them move together when a neighbour has the other half of the core.
//   g++ -O2 -march=sapphirerapids -std=c++20 probe.cpp -o probe && ./probe [SECONDS=5] [THREADS=1]
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#define LOAD(tile, at) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"(std::int64_t{64}) : "memory")
#define MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct alignas(64) Config {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr double tile_flop = 2. * 16 * 16 * 32;

double registers(int times) {
  for (int i = 0; i < times; ++i) {
    MULTIPLY(0, 4, 6);
    MULTIPLY(1, 4, 7);
    MULTIPLY(2, 5, 6);
    MULTIPLY(3, 5, 7);
  }
  return 4 * tile_flop * times;
}
// Two row tiles by two column tiles, all four loaded for each step.
double from_memory(const char* memory, std::size_t bytes, int times) {
  for (int i = 0; i < times; ++i)
    for (const char* at = memory; at < memory + bytes; at += 4096) {
      LOAD(6, at);
      LOAD(4, at + 1024);
      MULTIPLY(0, 4, 6);
      LOAD(7, at + 2048);
      MULTIPLY(1, 4, 7);
      LOAD(5, at + 3072);
      MULTIPLY(2, 5, 6);
      MULTIPLY(3, 5, 7);
    }
  return static_cast<double>(times) * static_cast<double>(bytes) / 4096 * 4 * tile_flop;
}
double additions(int times) {
  std::int64_t x = 0;
  for (int i = 0; i < times; ++i) __asm__ volatile("add $1, %0" : "+r"(x));
  return times;
}

void work(int thread, double seconds) {
  const Config config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
  constexpr std::size_t first_cache = 32 << 10, second_cache = 1 << 20;
  auto* memory = static_cast<char*>(mmap(nullptr, 2 * second_cache, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::size_t i = 0; i < second_cache; i += 64) memory[i] = 0;
  double done[4] = {}, took[4] = {};
  const double begin = now();
  for (double printed = begin; now() - begin < seconds;) {
    int k = 0;
    const auto measure = [&](auto f) {
      const double from = now();
      done[k] += f();
      took[k++] += now() - from;
    };
    measure([] { return registers(8000); });
    measure([&] { return from_memory(memory, first_cache, 100); });
    measure([&] { return from_memory(memory, second_cache, 4); });
    measure([] { return additions(1000000); });
    if (now() - printed < .25) continue;
    printed = now();
    std::printf("thread %d, %4.1f s: tiles from registers %5.0f, first cache %5.0f, second cache %5.0f GFLOP/s, %.2f GHz\n", thread, printed - begin, done[0] / took[0] / 1e9,
                done[1] / took[1] / 1e9, done[2] / took[2] / 1e9, done[3] / took[3] / 1e9);
    for (int i = 0; i < 4; ++i) done[i] = took[i] = 0;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) return std::fprintf(stderr, "probe: no tiles here\n"), 1;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  std::vector<std::thread> team;
  for (int i = 0; i < threads; ++i) team.emplace_back(work, i, seconds);
  for (std::thread& t : team) t.join();
}
