// The most arithmetic this machine does: multiply-adds on registers alone, measured, never looked up. Every figure of speed stands beside it.
#pragma once

#include "mien/kernels/kernel.h"

namespace mien::bench {

struct Peak {
  double gflops = 0;       // 0: the machine has no such unit
  double gflops_one = 0;   // one thread of it
};

// f32 multiply-adds with the vectors of `level` (base: 4 lanes, a multiplication and an addition), `threads` threads at once. The best of a few stretches of
// 10 ms: by CPU time for one thread, by the clock for more.
Peak f32_peak(Level level, int threads);

// bf16 dot products into f32 tiles (AMX); zeros where the machine or its operating system has none.
Peak bf16_tile_peak(int threads);

}  // namespace mien::bench
