// Random numbers: counter-based Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A value depends on (seed, stream, element index) alone, so the bits do not depend on threads, workers or devices.
//
//   Generator g(42);
//   const auto stream = g.next_stream();         // one per random op, dataset epoch, ...
//   float u = philox_uniform(g.seed(), stream, i);
#pragma once

#include <array>
#include <cstdint>

namespace mien {

// Four 32-bit words for a 128-bit counter and a 64-bit key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) noexcept;
// Element `index` of stream `stream`: 32 random bits, uniform in [0, 1) with 24 bits, uniform integer in [0, n), standard normal (Box-Muller).
std::uint32_t philox_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept;
float philox_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept;
std::int64_t philox_integer(std::uint64_t seed, std::uint64_t stream, std::uint64_t index, std::int64_t n) noexcept;
double philox_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept;

// Seed and the number of streams handed out so far: the whole state, saved by checkpoints. Not thread-safe: one per training loop.
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0) : seed_(seed) {}
  std::uint64_t seed() const noexcept { return seed_; }
  std::uint64_t next_stream() noexcept { return position_++; }
  std::uint64_t position() const noexcept { return position_; }
  void restore(std::uint64_t seed, std::uint64_t position) noexcept {
    seed_ = seed;
    position_ = position;
  }

 private:
  std::uint64_t seed_, position_ = 0;
};

// The generator that factories and dropout use when none is given; one per thread, seed 0 until set.
Generator& default_generator();
void manual_seed(std::uint64_t seed);

}  // namespace mien
