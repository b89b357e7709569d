#include "mien/tensor/generator.h"

#include <cmath>
#include <numbers>

namespace mien {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0], p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

namespace {
std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) noexcept {
  return philox4x32({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), static_cast<std::uint32_t>(stream),
                     static_cast<std::uint32_t>(stream >> 32)},
                    {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}
}  // namespace

std::uint32_t philox_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept {
  return block(seed, stream, index / 4)[index % 4];
}

float philox_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept {
  return static_cast<float>(philox_bits(seed, stream, index) >> 8) * 0x1p-24f;
}

std::int64_t philox_integer(std::uint64_t seed, std::uint64_t stream, std::uint64_t index, std::int64_t n) noexcept {
  // Multiply-shift on 64 bits: the bias is below n / 2^64.
  const auto b = block(seed, stream, index / 2);
  const std::uint64_t wide = (static_cast<std::uint64_t>(b[2 * (index % 2)]) << 32) | b[2 * (index % 2) + 1];
  return static_cast<std::int64_t>((static_cast<unsigned __int128>(wide) * static_cast<std::uint64_t>(n)) >> 64);
}

double philox_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) noexcept {
  const auto b = block(seed, stream, index / 2);
  const double u = (static_cast<double>(b[0]) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(b[1]) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u));
  return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

Generator& default_generator() {
  static thread_local Generator generator;
  return generator;
}

void manual_seed(std::uint64_t seed) { default_generator() = Generator(seed); }

}  // namespace mien
