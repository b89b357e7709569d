// Work over a range, split into fixed blocks. Threads (mien's own team, or OpenMP's with -DMIEN_OPENMP=ON) stay in parallel.cpp.
//
// Note [Same bits for any number of threads]: the split depends on (range, grain) alone, never on the number of threads. A sum over the
// range is made per block and the blocks are added in order (or in a fixed tree), so the result has the same bits for 1 or 64 threads.
// Nested calls run serially: one team per program. A call that finds the team at work for another thread runs serially too.
//
// Thread safety: all of it may be called from any thread at any time; set_num_threads() is for the whole process and holds for calls that begin afterwards.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace mien {

// Threads that parallel_for may use from now on; ValueError below 1. At the start the number of CPUs that this process may run on, or OMP_NUM_THREADS where that
// is a smaller number above 0; it is read once.
void set_num_threads(int threads);
int num_threads() noexcept;

// Which of the team's threads this is: 1 and up for those that help, 0 outside it. A hint where memory that a thread wrote may be in its cache: two may have the same.
int worker_number() noexcept;

// While one lives, parallel_for of this thread runs serially: for worker threads beside a team that has the CPUs already.
class SerialGuard {
 public:
  SerialGuard() noexcept;
  ~SerialGuard();
  SerialGuard(const SerialGuard&) = delete;
  SerialGuard& operator=(const SerialGuard&) = delete;

 private:
  bool before_;
};

namespace detail {
// Runs f(context, block) for block in [0, blocks), as parallel_for says.
void run_blocks(std::int64_t blocks, void (*f)(const void* context, std::int64_t block), const void* context);
}  // namespace detail

// f(begin, end) for [0, n) cut into blocks of `grain` (below 1: 1); the last may be shorter. Returns when all blocks are done. The first exception that f throws is
// rethrown here once those under way are; of the other blocks, those that had not begun are passed over.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, const F& f) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  struct Context {
    const F* f;
    std::int64_t n, grain;
  };
  const Context context{std::addressof(f), n, grain};
  detail::run_blocks(
      (n + grain - 1) / grain,
      [](const void* c, std::int64_t block) {
        const auto& [fn, size, step] = *static_cast<const Context*>(c);
        const std::int64_t begin = block * step, end = begin + step < size ? begin + step : size;
        (*fn)(begin, end);
      },
      &context);
}

}  // namespace mien
