#include "mien/ops/conv_block.h"

#include <algorithm>

#include "catch.h"
#include "mien/ops/factory.h"
#include "mien/ops/view.h"
#include "mien/tensor/generator.h"

namespace mien::test {

// Few channels of many pictures are summed with vectors of pictures, anything else with vectors of channels: both in one order.
TEST_CASE("conv_block gives a picture the same bits alone and among others", "[ops][conv_block]") {
  manual_seed(11);
  for (const std::int64_t outputs : {1, 3, 10, 17, 32})
    for (const double lowest_slope : {-.5, .01})
      for (const std::int64_t side : {1, 2, 3}) {
        const PoolParams window{.kernel = {side, side}, .stride = {std::min<std::int64_t>(side, 2), std::min<std::int64_t>(side, 2)}, .ceil_mode = true};
        const Tensor x = uniform({37, 3, 12, 13}, -1, 1), w = uniform({outputs, 3, 3, 3}, -1, 1);
        const Tensor bias = uniform({outputs}, -1, 1), slope = uniform({outputs}, lowest_slope, .5);
        const Tensor together = conv_block(x, w, bias, slope, window);
        for (const std::int64_t n : {0, 15, 16, 36}) {
          INFO(outputs << " channels, window " << window.kernel[0] << ", picture " << n);
          CHECK(slice(together, 0, n, n + 1).to_vector() == conv_block(slice(x, 0, n, n + 1), w, bias, slope, window).to_vector());
        }
      }
}

}  // namespace mien::test
