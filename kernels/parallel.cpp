#include "mien/kernels/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "mien/tensor/error.h"

#ifdef MIEN_OPENMP
#include <omp.h>
#endif

namespace mien {
namespace {

std::atomic<int> chosen_threads{0};
thread_local bool serial = false;

int cpus_of_this_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));  // more CPUs than cpu_set_t has bits
}

int default_threads() {
  static const int threads = [] {
    const int cpus = cpus_of_this_process();
    const char* text = std::getenv("OMP_NUM_THREADS");
    const int wanted = text ? std::atoi(text) : 0;
    return wanted > 0 ? std::min(wanted, cpus) : cpus;
  }();
  return threads;
}

struct Work {
  std::int64_t blocks;
  void (*f)(const void*, std::int64_t);
  const void* context;
};

// The first exception of any block; the blocks after it are passed over.
class FirstError {
 public:
  void run(const Work& work, std::int64_t block) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      work.f(work.context, block);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  void rethrow() {
    if (!failed_.exchange(false)) return;
    std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

#ifdef MIEN_OPENMP

// For programs that have an OpenMP team already. Every thread of it is waited for, so one that lost its CPU holds up the rest.
class Team {
 public:
  bool run(const Work& work, int threads) {
    if (omp_in_parallel()) return false;
    std::atomic<std::int64_t> next{0};
    FirstError error;
#pragma omp parallel num_threads(threads)
    for (std::int64_t b = next.fetch_add(1); b < work.blocks; b = next.fetch_add(1)) error.run(work, b);
    error.rethrow();
    return true;
  }
};

#else

thread_local int own_number = 0;  // worker_number()

void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `changed`: some tens of microseconds awake, because the next op usually follows at once, then asleep.
template <class Value, class F>
void wait_until(std::atomic<Value>& value, const F& changed) {
  for (int i = 0; i < 1000; ++i) {
    if (changed(value.load(std::memory_order_acquire))) return;
    pause();
  }
  for (Value seen = value.load(std::memory_order_acquire); !changed(seen); seen = value.load(std::memory_order_acquire)) value.wait(seen, std::memory_order_acquire);
}

// Note [Nobody waits for a thread that has no CPU]: the caller and the workers claim one block after the other. The caller waits for claimed blocks only, never
// for a worker to arrive or to leave: a worker whose CPU was taken away costs at most the block that it had begun.
//
// `ticket_` is (number of the job, blocks left). A worker that comes too late finds another number or nothing left, and reads nothing else of the job.
class Team {
 public:
  // False: another thread of the program has the team just now.
  bool run(const Work& work, int threads) {
    const std::unique_lock lock(owner_, std::try_to_lock);
    if (!lock) return false;
    hire(threads - 1);
    helpers_.store(threads - 1, std::memory_order_relaxed);
    work_ = work;
    done_.store(0, std::memory_order_relaxed);
    const std::uint32_t job = job_.load(std::memory_order_relaxed) + 1;
    ticket_.store(std::uint64_t{job} << 32 | static_cast<std::uint64_t>(work.blocks), std::memory_order_release);
    job_.store(job, std::memory_order_release);
    job_.notify_all();
    take_part(job);
    wait_until(done_, [&](std::uint32_t done) { return done == work.blocks; });
    error_.rethrow();
    return true;
  }

 private:
  void hire(int wanted) {
    try {
      for (; hired_ < wanted; ++hired_) std::thread([this, index = hired_] { serve(index); }).detach();
    } catch (const std::system_error&) {  // no more threads to be had: those there are do the work
    }
  }

  [[noreturn]] void serve(int index) {
    serial = true;
    own_number = index + 1;
    for (std::uint32_t job = 0;;) {
      wait_until(job_, [&](std::uint32_t now) { return now != job; });
      job = job_.load(std::memory_order_acquire);
      if (index < helpers_.load(std::memory_order_relaxed)) take_part(job);
    }
  }

  void take_part(std::uint32_t job) {
    const bool before = std::exchange(serial, true);
    for (std::uint64_t ticket = ticket_.load(std::memory_order_acquire); ticket >> 32 == job && (ticket & 0xffffffffu) != 0;) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const Work work = work_;  // ours: the job can't end before this block has
      error_.run(work, work.blocks - static_cast<std::int64_t>(ticket & 0xffffffffu));
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == work.blocks) done_.notify_all();
      ticket = ticket_.load(std::memory_order_acquire);
    }
    serial = before;
  }

  std::mutex owner_;
  int hired_ = 0;  // under owner_
  Work work_{};    // written before ticket_, read after a claim
  FirstError error_;
  std::atomic<int> helpers_{0};
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> job_{0};
  alignas(64) std::atomic<std::uint32_t> done_{0};
};

#endif

// Never destroyed: its threads sleep until the process is gone. After a fork the child has none of them, and does all blocks itself.
Team& team() {
  static Team& the_team = *new Team;
  return the_team;
}

constexpr std::int64_t most_blocks = 0xffffffff;

}  // namespace

void set_num_threads(int threads) {
  if (threads < 1) throw ValueError("set_num_threads", "expected at least 1 thread, got " + std::to_string(threads));
  chosen_threads.store(threads);
}

int num_threads() noexcept {
  const int n = chosen_threads.load();
  return n > 0 ? n : default_threads();
}

int worker_number() noexcept {
#ifdef MIEN_OPENMP
  return omp_get_thread_num();
#else
  return own_number;
#endif
}

SerialGuard::SerialGuard() noexcept : before_(serial) { serial = true; }
SerialGuard::~SerialGuard() { serial = before_; }

namespace detail {

void run_blocks(std::int64_t blocks, void (*f)(const void*, std::int64_t), const void* context) {
  const int threads = static_cast<int>(std::min<std::int64_t>(num_threads(), blocks));
  if (threads > 1 && !serial && blocks <= most_blocks && team().run({blocks, f, context}, threads)) return;
  for (std::int64_t b = 0; b < blocks; ++b) f(context, b);
}

}  // namespace detail
}  // namespace mien
