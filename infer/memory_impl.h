// Where in an arena blocks lie that live for a while. Private to infer/.
#pragma once

#include <cstdint>
#include <vector>

namespace mien::infer {

// A block of memory that is needed from step `first` to step `last`, both included.
struct Block {
  std::int64_t bytes = 0;
  int first = 0, last = 0;
  std::int64_t offset = 0;  // found by place_blocks
};

inline constexpr std::int64_t block_alignment = 64;

// Gives every block an offset so that no two that live at the same time overlap, and returns the bytes of the arena. Large blocks first, each into the
// tightest gap that holds it between those placed before that live with it (greedy by size, best fit: Pisarchyk and Lee, "Efficient memory management for
// deep neural net inference", 2020). Offsets are multiples of block_alignment.
std::int64_t place_blocks(std::vector<Block>& blocks);

}  // namespace mien::infer
