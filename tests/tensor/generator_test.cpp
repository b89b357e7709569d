#include "mien/tensor/generator.h"

#include <cmath>
#include <set>
#include <thread>
#include <vector>

#include "catch.h"

namespace mien {

TEST_CASE("philox4x32-10 gives the published answers", "[generator]") {
  // kat_vectors of Random123.
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) == Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a random value is a function of seed, stream and index", "[generator]") {
  const Generator g(0);
  CHECK(philox_bits(0, 0, 0) == 0x6627e8d5);
  CHECK(philox_bits(0, 0, 3) == 0x9b00dbd8);
  CHECK(philox_bits(0, 0, 4) == philox4x32({1, 0, 0, 0}, {0, 0})[0]);
  CHECK(philox_bits(5, 9, 1) == philox4x32({0, 0, 9, 0}, {5, 0})[1]);
  std::set<std::uint32_t> seen;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (std::uint64_t stream = 0; stream < 10; ++stream)
      for (std::uint64_t i = 0; i < 10; ++i) seen.insert(philox_bits(seed, stream, i));
  CHECK(seen.size() == 1000);
}

TEST_CASE("uniforms, integers and normals have their distributions", "[generator]") {
  constexpr int n = 60000;
  double sum = 0, square = 0, cube = 0, uniform = 0;
  int low = 0;
  std::vector<int> hits(7, 0);
  for (std::uint64_t i = 0; i < n; ++i) {
    const float u = philox_uniform(1, 2, i);
    REQUIRE((u >= 0 && u < 1));
    REQUIRE(u * 0x1p24f == std::floor(u * 0x1p24f));
    uniform += static_cast<double>(u);
    low += u < .1f;
    const auto k = philox_integer(1, 3, i, 7);
    REQUIRE((k >= 0 && k < 7));
    ++hits[static_cast<std::size_t>(k)];
    const double x = philox_normal(1, 4, i);
    REQUIRE(std::isfinite(x));
    sum += x, square += x * x, cube += x * x * x;
  }
  CHECK(uniform / n == Approx(.5).margin(.006));
  CHECK(low / double(n) == Approx(.1).margin(.006));
  for (const int h : hits) CHECK(h == Approx(n / 7.).margin(450));
  CHECK(sum / n == Approx(0).margin(.02));
  CHECK(square / n == Approx(1).margin(.03));
  CHECK(cube / n == Approx(0).margin(.08));
  CHECK(philox_integer(1, 1, 5, 1) == 0);
  CHECK(philox_integer(1, 1, 5, INT64_MAX) >= 0);
}

TEST_CASE("a generator's state is its seed and position", "[generator]") {
  Generator a(42), b(7);
  CHECK(a.next_stream() == 0);
  CHECK(a.next_stream() == 1);
  b.restore(a.seed(), a.position());
  CHECK(b.next_stream() == a.next_stream());
  const auto before = default_generator();
  manual_seed(99);
  CHECK(default_generator().seed() == 99);
  CHECK(default_generator().position() == 0);
  std::uint64_t other = 1;
  std::thread([&] { other = default_generator().seed(); }).join();
  CHECK(other == 0);  // one per thread
  default_generator() = before;
}

}  // namespace mien
