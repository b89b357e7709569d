#include "mien/kernels/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "mien/tensor/error.h"

namespace mien {
namespace {
std::atomic<int> chosen_threads{0};
thread_local bool serial = false;
}

void set_num_threads(int threads) {
  if (threads < 1) throw ValueError("set_num_threads", "expected at least 1 thread, got " + std::to_string(threads));
  chosen_threads.store(threads);
}

int num_threads() noexcept {
  const int n = chosen_threads.load();
  return n > 0 ? n : std::max(1, std::min(omp_get_max_threads(), omp_get_num_procs()));
}

SerialGuard::SerialGuard() noexcept : before_(serial) { serial = true; }
SerialGuard::~SerialGuard() { serial = before_; }

namespace detail {

void run_blocks(std::int64_t blocks, void (*f)(const void*, std::int64_t), const void* context) {
  const int threads = static_cast<int>(std::min<std::int64_t>(num_threads(), blocks));
  if (threads <= 1 || serial || omp_in_parallel()) {
    for (std::int64_t b = 0; b < blocks; ++b) f(context, b);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
#pragma omp parallel num_threads(threads)
  {
    for (std::int64_t b = next.fetch_add(1); b < blocks && !failed.load(std::memory_order_relaxed); b = next.fetch_add(1)) {
      try {
        f(context, b);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace detail
}  // namespace mien
