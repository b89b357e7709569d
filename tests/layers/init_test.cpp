#include "mien/layers/init.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "catch.h"
#include "mien/layers/layers.h"

namespace mien {

TEST_CASE("numbers that SkipRandom leaves out change none of those drawn later", "[layers]") {
  const auto second = [](bool skip_first) {
    manual_seed(3);
    {
      const auto skip = skip_first ? std::make_optional<init::SkipRandom>() : std::nullopt;
      Conv2d first({.in = 3, .out = 4, .kernel = {3, 3}, .bias = true});
      init::normal(first.weight, 0, 1);
    }
    Conv2d later({.in = 2, .out = 5, .kernel = {3, 3}, .bias = true});
    return later.weight.to_vector();
  };
  const auto drawn = second(false);
  CHECK(second(true) == drawn);
  CHECK(std::adjacent_find(drawn.begin(), drawn.end(), std::not_equal_to<>()) != drawn.end());  // it did draw
}

}  // namespace mien
