#include "peak.h"

#include <algorithm>

#include "measure.h"
#include "mien/kernels/parallel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mien::bench {
namespace {

// Where results go, so that no loop is thrown away.
volatile float sink;

// 12 sums are in flight: more than latency times throughput needs on any machine of these years, and few enough for 16 registers.
constexpr int sums = 12;
using Loop = void (*)(std::int64_t rounds);

using Four = float __attribute__((vector_size(16)));
void loop_base(std::int64_t rounds) {
  Four a[sums] = {}, m = {.5f, .5f, .5f, .5f}, c = {sink, 1, 1, 1};
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < sums; ++k) a[k] = a[k] * m + c;
  }
  Four total{};
  for (const Four& v : a) total += v;
  sink = total[0];
}

#if defined(__x86_64__)
// Functions of one level each, by attribute: nothing here is a template, so no other level can end up with their code.
__attribute__((target("avx2,fma"))) void loop_avx2(std::int64_t rounds) {
  __m256 a[sums];
  const __m256 m = _mm256_set1_ps(.5f), c = _mm256_set1_ps(1 + sink);
  for (int k = 0; k < sums; ++k) a[k] = _mm256_setzero_ps();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < sums; ++k) a[k] = _mm256_fmadd_ps(a[k], m, c);
  }
  for (int k = 1; k < sums; ++k) a[0] = _mm256_add_ps(a[0], a[k]);
  sink = _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) void loop_avx512(std::int64_t rounds) {
  __m512 a[sums];
  const __m512 m = _mm512_set1_ps(.5f), c = _mm512_set1_ps(1 + sink);
  for (int k = 0; k < sums; ++k) a[k] = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < sums; ++k) a[k] = _mm512_fmadd_ps(a[k], m, c);
  }
  for (int k = 1; k < sums; ++k) a[0] = _mm512_add_ps(a[0], a[k]);
  sink = _mm512_cvtss_f32(a[0]);
}

// Tiles need the CPU's bits, the operating system's state (XCR0), and leave asked of the kernel: without it the first tile instruction is a SIGILL.
bool tiles_allowed() {
  static const bool allowed = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return false;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0x60000u) != 0x60000u || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool bf16 = d & (1u << 22), tile = d & (1u << 24);
    constexpr long ask_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    return bf16 && tile && syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
  }();
  return allowed;
}

constexpr int tile_products = 4;                                  // per round: 2 x 2 tiles of sums
constexpr double tile_flop = 2.0 * 16 * 16 * 32 * tile_products;  // 16 rows, 16 columns, 32 products each

__attribute__((target("amx-tile,amx-bf16"))) void loop_tiles(std::int64_t rounds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  __asm__ volatile("" : : "r"(&config) : "memory");  // g++ 12 tells its optimiser of the first 8 bytes only
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
#endif

// GFLOP/s of `threads` copies of a loop.
double rate(Loop loop, double flop_a_round, int threads) {
  const auto stretch = [&](std::int64_t rounds) {
    const Clock begin = Clock::now();
    if (threads == 1) loop(rounds);
    else parallel_for(threads, 1, [&](std::int64_t, std::int64_t) { loop(rounds); });
    const Clock end = Clock::now();
    return threads == 1 ? end.cpu_ms - begin.cpu_ms : end.wall_ms - begin.wall_ms;
  };
  std::int64_t rounds = 20000;
  double ms = 0;
  while ((ms = stretch(rounds)) < 5) rounds *= 2;
  rounds = static_cast<std::int64_t>(static_cast<double>(rounds) * 10 / ms) + 1;
  double best = 1e300;
  for (int i = 0; i < 5; ++i) best = std::min(best, stretch(rounds));
  return flop_a_round * static_cast<double>(rounds) * threads / best / 1e6;
}

Peak both(Loop loop, double flop_a_round, int threads) {
  const double one = rate(loop, flop_a_round, 1);
  return {threads > 1 ? rate(loop, flop_a_round, threads) : one, one};
}

}  // namespace

Peak f32_peak(Level level, int threads) {
#if defined(__x86_64__)
  if (level >= Level::avx512) return both(loop_avx512, 2.0 * 16 * sums, threads);
  if (level == Level::avx2) return both(loop_avx2, 2.0 * 8 * sums, threads);
#else
  static_cast<void>(level);
#endif
  return both(loop_base, 2.0 * 4 * sums, threads);
}

Peak bf16_tile_peak(int threads) {
#if defined(__x86_64__)
  if (tiles_allowed()) return both(loop_tiles, tile_flop, threads);
#endif
  static_cast<void>(threads);
  return {};
}

}  // namespace mien::bench
