#include <algorithm>
#include <limits>
#include <numeric>

#include "mien/infer/memory_impl.h"

namespace mien::infer {

std::int64_t place_blocks(std::vector<Block>& blocks) {
  const auto padded = [](const Block& b) { return (b.bytes + block_alignment - 1) / block_alignment * block_alignment; };
  std::vector<std::size_t> by_size(blocks.size());
  std::iota(by_size.begin(), by_size.end(), std::size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(), [&](std::size_t a, std::size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<const Block*> placed;  // by rising offset
  std::int64_t total = 0;
  for (const std::size_t k : by_size) {
    Block& b = blocks[k];
    const std::int64_t want = padded(b);
    std::int64_t end = 0, best = -1, best_gap = std::numeric_limits<std::int64_t>::max();
    for (const Block* other : placed) {
      if (other->last < b.first || other->first > b.last) continue;
      if (const std::int64_t gap = other->offset - end; gap >= want && gap < best_gap) {
        best = end;
        best_gap = gap;
      }
      end = std::max(end, other->offset + padded(*other));
    }
    b.offset = best >= 0 ? best : end;
    total = std::max(total, b.offset + want);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), b.offset, [](std::int64_t at, const Block* p) { return at < p->offset; }), &b);
  }
  return total;
}

}  // namespace mien::infer
