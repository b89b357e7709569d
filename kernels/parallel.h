// Work over a range, split into fixed blocks. Threads (mien's own team, or OpenMP's with -DMIEN_OPENMP=ON) stay in parallel.cpp.
//
// Note [Same bits for any number of threads]: the split depends on (range, grain) alone, never on the number of threads. A sum over the
// range is made per block and the blocks are added in order (or in a fixed tree), so the result has the same bits for 1 or 64 threads.
// Nested calls run serially: one team per program. A call that finds the team at work for another thread runs serially too.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace mien {

// Threads that parallel_for may use from now on (>= 1); at the start OMP_NUM_THREADS or the number of CPUs this process may run on.
void set_num_threads(int threads);
int num_threads() noexcept;

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
// Runs f(context, block) for block in [0, blocks). The first exception is rethrown in the caller.
void run_blocks(std::int64_t blocks, void (*f)(const void* context, std::int64_t block), const void* context);
}  // namespace detail

// f(begin, end) for [0, n) cut into blocks of `grain`; the last may be shorter.
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
