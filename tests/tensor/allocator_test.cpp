#include "mien/tensor/allocator.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "catch.h"
#include "mien/tensor/tensor.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MIEN_TEST_SANITIZED 1  // the sanitizers report a fault themselves instead of dying of the signal
#endif

namespace mien {
namespace {

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

// The signal that ends a child which runs f, or 0.
template <class F>
int signal_of(const F& f) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

struct WithAllocator {  // for one scope
  explicit WithAllocator(std::shared_ptr<Allocator> a) : before(set_cpu_allocator(std::move(a))) {}
  ~WithAllocator() { set_cpu_allocator(before); }
  std::shared_ptr<Allocator> before;
};

}  // namespace

TEST_CASE("the caching allocator reuses blocks of a size class", "[allocator]") {
  const auto a = make_caching_allocator();
  void* first = a->allocate(1000);
  CHECK(aligned(first));
  std::memset(first, 1, 1000);
  CHECK(a->stats().live >= 1000);
  CHECK(a->stats().live <= 1250);
  a->deallocate(first, 1000);
  CHECK(a->stats().live == 0);
  CHECK(a->stats().cached >= 1000);
  void* second = a->allocate(1020);  // the same class: 896 < n <= 1024
  CHECK(second == first);
  CHECK(a->stats().cached == 0);
  void* third = a->allocate(1020);
  CHECK(third != second);
  CHECK(a->stats().allocations == 3);
  const auto peak = a->stats().peak;
  a->deallocate(second, 1020);
  a->deallocate(third, 1020);
  CHECK(a->stats().peak == peak);
  a->release_cached();
  CHECK(a->stats().cached == 0);
}

TEST_CASE("blocks of every size are large enough and aligned", "[allocator]") {
  for (const auto& a : {make_caching_allocator(), make_debug_allocator()})
    for (std::int64_t bytes = 0; bytes < 5000; bytes = bytes * 5 / 4 + 1) {
      void* p = a->allocate(bytes);
      REQUIRE(p != nullptr);
      REQUIRE(aligned(p));
      std::memset(p, 7, static_cast<std::size_t>(bytes));
      a->deallocate(p, bytes);
      REQUIRE(a->stats().live == 0);
    }
}

TEST_CASE("the cache is bounded", "[allocator]") {
  const auto a = make_caching_allocator(4096);
  std::vector<void*> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back(a->allocate(1024));
  for (void* b : blocks) a->deallocate(b, 1024);
  CHECK(a->stats().cached == 4096);
}

TEST_CASE("the limit is kept and the message says the numbers", "[allocator]") {
  const auto a = make_caching_allocator(0, std::int64_t{8} << 20);
  void* block = a->allocate(std::int64_t{5} << 20);
  try {
    a->allocate(std::int64_t{4} << 20);
    FAIL("more than the limit was handed out");
  } catch (const OutOfMemory& e) {
    CHECK(std::string(e.what()) == "allocator: wanted 4 MiB, in use 5 MiB, kept for reuse 59 MiB, limit 8 MiB. Use a smaller batch or a higher limit.");
  }
  CHECK(a->stats().live == std::int64_t{5} << 20);
  a->deallocate(block, std::int64_t{5} << 20);
  a->deallocate(a->allocate(std::int64_t{8} << 20), std::int64_t{8} << 20);
}

TEST_CASE("many threads share an allocator", "[allocator]") {
  const auto a = make_caching_allocator();
  std::vector<std::thread> threads;
  std::atomic<int> torn{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const std::int64_t bytes = 64 + i % 700;
        auto* p = static_cast<unsigned char*>(a->allocate(bytes));
        std::memset(p, t, static_cast<std::size_t>(bytes));
        torn += p[bytes - 1] != t || p[0] != t;
        a->deallocate(p, bytes);
      }
    });
  for (auto& t : threads) t.join();
  CHECK(torn == 0);
  CHECK(a->stats().live == 0);
  CHECK(a->stats().allocations == 8000);
}

TEST_CASE("the debug allocator poisons blocks and guards their end", "[allocator]") {
  const auto a = make_debug_allocator();
  auto* block = static_cast<unsigned char*>(a->allocate(128));
  for (int i = 0; i < 128; ++i) REQUIRE(block[i] == 0xff);
#ifdef MIEN_TEST_SANITIZED
  SUCCEED("the guard page is not touched under a sanitizer");
#else
  volatile unsigned char* beyond = block + 128;
  CHECK(signal_of([&] { (void)block[127]; }) == 0);
  CHECK(signal_of([&] { (void)*beyond; }) == SIGSEGV);
  CHECK(signal_of([&] { *beyond = 1; }) == SIGSEGV);
#endif
  a->deallocate(block, 128);
}

TEST_CASE("the failing allocator fails when told", "[allocator]") {
  const auto once = make_failing_allocator(make_caching_allocator(), 1);
  once->deallocate(once->allocate(10), 10);
  CHECK_THROWS_AS(once->allocate(10), OutOfMemory);
  once->deallocate(once->allocate(10), 10);
  const auto ever = make_failing_allocator(make_caching_allocator(), 0, true);
  for (int i = 0; i < 3; ++i) CHECK_THROWS_AS(ever->allocate(10), OutOfMemory);
  CHECK(ever->stats().live == 0);
}

TEST_CASE("a tensor gives its block back to the allocator it came from", "[allocator]") {
  const auto mine = make_caching_allocator();
  Tensor kept;
  {
    const WithAllocator with(mine);
    kept = Tensor::empty({1000});
    CHECK(mine->stats().live >= 4000);
    {
      const WithAllocator failing(make_failing_allocator(mine, 0));
      CHECK_THROWS_AS(Tensor::empty({10}), OutOfMemory);
    }
  }
  CHECK(cpu_allocator() != mine);
  const Tensor alias = kept;
  kept = Tensor();
  CHECK(mine->stats().live >= 4000);
  Tensor last = alias.as_strided({10}, {1}, 5);
  CHECK(last.numel() == 10);
}

TEST_CASE("the last handle frees the storage", "[allocator]") {
  const auto mine = make_caching_allocator();
  const WithAllocator with(mine);
  {
    Tensor a = Tensor::empty({1000});
    const Tensor view = a.as_strided({10}, {1}, 5);
    a = Tensor();
    CHECK(mine->stats().live >= 4000);
  }
  CHECK(mine->stats().live == 0);
  CHECK_THROWS_AS(set_cpu_allocator(nullptr), ValueError);
}

}  // namespace mien
