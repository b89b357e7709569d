// Scratch memory for as many shares as run at once, not for every share: one thread then works in the same memory, which stays in its cache and is
// touched for the first time only once. What a share leaves there must not matter to the next, so the bits stay the same for any number of threads.
#pragma once

#include <atomic>

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

class ScratchSlots {
 public:
  class Slot {
   public:
    Slot(std::atomic<std::uint32_t>& used, std::int64_t count) : used_(used) {
      const int own = worker_number();
      std::uint32_t now = used.load(std::memory_order_relaxed);
      do number_ = own < count && !(now >> own & 1) ? own : __builtin_ctz(~now);
      while (!used.compare_exchange_weak(now, now | (1u << number_), std::memory_order_acquire));
    }
    ~Slot() { used_.fetch_and(~(1u << number_), std::memory_order_release); }
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    std::int64_t number() const { return number_; }

   private:
    std::atomic<std::uint32_t>& used_;
    int number_;
  };
  // As many as there is memory for: at least as many as shares, at most max_shares.
  explicit ScratchSlots(std::int64_t count) : count_(count) {}
  // The slot of this thread's number, in whose memory it worked before, or else the lowest free one. There always is one: no more than all shares run at once.
  Slot take() { return {used_, count_}; }

 private:
  std::int64_t count_;
  std::atomic<std::uint32_t> used_{0};
};

}  // namespace mien::MIEN_LEVEL
