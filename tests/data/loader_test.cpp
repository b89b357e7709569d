#include "mien/data/loader.h"

#include <set>

#include "catch.h"

namespace mien::test {
namespace {

// The rows of two epochs, in the order in which they come out.
std::vector<std::int64_t> rows(int workers, std::int64_t first = 0, bool drop_last = true) {
  std::vector<std::int64_t> out;
  Loader loader({.size = 23, .batch = 4, .seed = 5, .workers = workers, .drop_last = drop_last}, [](std::span<const std::int64_t> r, std::uint64_t epoch) {
    std::vector<std::int64_t> v(r.begin(), r.end());
    v.push_back(-1 - static_cast<std::int64_t>(epoch));
    return Batch{Tensor::from(v, {static_cast<std::int64_t>(v.size())})};
  });
  for (std::uint64_t epoch = 0; epoch < 2; ++epoch) {
    loader.start(epoch, first);
    while (auto b = loader.next())
      for (std::int64_t i = 0; i < (*b)[0].numel(); ++i) out.push_back((*b)[0].data<std::int64_t>()[i]);
  }
  return out;
}

}  // namespace

TEST_CASE("the loader's order does not depend on the number of workers", "[loader][determinism]") {
  const auto expected = rows(0);
  CHECK(expected.size() == 2 * 5 * 5);
  for (const int workers : {1, 2, 4, 9}) CHECK(rows(workers) == expected);
  for (const int workers : {0, 3}) {
    const auto late = rows(workers, 2);
    CHECK(std::vector<std::int64_t>(late.begin(), late.begin() + 15) == std::vector<std::int64_t>(expected.begin() + 10, expected.begin() + 25));
  }
  CHECK(rows(2, 0, false).size() == 2 * (23 + 6));
}

TEST_CASE("a permutation holds every row once and follows from seed and epoch", "[loader]") {
  const auto p = permutation(1000, 7, 3);
  CHECK(std::set<std::int64_t>(p.begin(), p.end()).size() == 1000);
  CHECK(*std::min_element(p.begin(), p.end()) == 0);
  CHECK(p == permutation(1000, 7, 3));
  CHECK(p != permutation(1000, 7, 4));
  CHECK(p != permutation(1000, 8, 3));
  CHECK(permutation(0, 1, 1).empty());
}

TEST_CASE("an error in a worker comes out of next(), and the loader can be left at any moment", "[loader]") {
  for (const int workers : {0, 1, 4}) {
    Loader loader({.size = 100, .batch = 10, .workers = workers, .shuffle = false}, [](std::span<const std::int64_t> r, std::uint64_t) {
      if (r[0] == 30) throw ValueError("sample", "row 30 is broken");
      return Batch{};
    });
    loader.start(0);
    for (int i = 0; i < 3; ++i) CHECK(loader.next());
    CHECK_THROWS_AS(loader.next(), ValueError);
    loader.start(1);
    CHECK(loader.next());
  }  // destroyed in the middle of an epoch
  CHECK_THROWS_AS(Loader({.size = 3, .batch = 0}, [](auto, auto) { return Batch{}; }), ValueError);
  CHECK_THROWS_AS(Loader({.size = 3, .workers = -1}, [](auto, auto) { return Batch{}; }), ValueError);
  CHECK_THROWS_AS(Loader({.size = 3, .workers = 1, .ahead = 0}, [](auto, auto) { return Batch{}; }), ValueError);
}

}  // namespace mien::test
