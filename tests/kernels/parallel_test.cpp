#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.h"
#include "mien/kernels/parallel.h"

namespace mien::test {
namespace {

struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};

// How often each of n items was visited.
std::vector<int> visits(std::int64_t n, std::int64_t grain) {
  std::vector<std::atomic<int>> count(static_cast<std::size_t>(n));
  parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) count[static_cast<std::size_t>(i)].fetch_add(1);
  });
  return {count.begin(), count.end()};
}

}  // namespace

TEST_CASE("parallel_for visits every item once", "[kernels][parallel]") {
  for (const int threads : {1, 2, 3, 8}) {
    const Threads guard(threads);
    for (const std::int64_t n : {0, 1, 2, 7, 1000})
      for (const std::int64_t grain : {0, 1, 3, 2000}) CHECK(visits(n, grain) == std::vector<int>(static_cast<std::size_t>(n), 1));
  }
}

TEST_CASE("many short jobs one after the other lose nothing", "[kernels][parallel]") {
  const Threads guard(3);
  std::int64_t sum = 0;
  for (int job = 0; job < 20000; ++job) {
    std::atomic<std::int64_t> here{0};
    parallel_for(5, 1, [&](std::int64_t begin, std::int64_t) { here += begin; });
    sum += here;
  }
  CHECK(sum == 20000 * 10);
}

TEST_CASE("every thread of the team has a number of its own", "[kernels][parallel]") {
  const Threads guard(2);
  for (int job = 0; job < 3; ++job) {
    std::atomic<int> arrived{0};
    std::array<std::atomic<int>, 2> seen{-1, -1};
    parallel_for(2, 1, [&](std::int64_t begin, std::int64_t) {
      ++arrived;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (arrived < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();  // neither thread does both
      seen[static_cast<std::size_t>(begin)] = worker_number();
    });
    CHECK(seen[0] + seen[1] == 1);
    CHECK(seen[0] * seen[1] == 0);
    CHECK(worker_number() == 0);
  }
}

TEST_CASE("nested and guarded calls run in their own thread", "[kernels][parallel]") {
  const Threads guard(4);
  std::atomic<int> elsewhere{0};
  parallel_for(16, 1, [&](std::int64_t, std::int64_t) {
    const auto me = std::this_thread::get_id();
    parallel_for(16, 1, [&](std::int64_t, std::int64_t) { elsewhere += std::this_thread::get_id() != me; });
  });
  const SerialGuard serial;
  const auto me = std::this_thread::get_id();
  parallel_for(16, 1, [&](std::int64_t, std::int64_t) { elsewhere += std::this_thread::get_id() != me; });
  CHECK(elsewhere == 0);
}

TEST_CASE("the first exception reaches the caller and the team lives on", "[kernels][parallel]") {
  const Threads guard(4);
  for (int i = 0; i < 100; ++i) {
    CHECK_THROWS_AS(parallel_for(64, 1, [](std::int64_t begin, std::int64_t) { if (begin % 7 == 3) throw std::runtime_error("block"); }), std::runtime_error);
    CHECK(visits(64, 1) == std::vector<int>(64, 1));
  }
}

TEST_CASE("several threads of a program may call parallel_for at once", "[kernels][parallel]") {
  const Threads guard(2);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) wrong += visits(50, 1) != std::vector<int>(50, 1);
    });
  for (auto& c : callers) c.join();
  CHECK(wrong == 0);
}

TEST_CASE("a child process works without its parent's team", "[kernels][parallel][fork]") {
  const Threads guard(2);
  REQUIRE(visits(100, 1) == std::vector<int>(100, 1));
  const pid_t child = fork();
  if (child == 0) _exit(visits(100, 1) == std::vector<int>(100, 1) ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a worker that is held up costs its own block only", "[kernels][parallel]") {
  // The first block sleeps, whoever has it; everyone else must finish the other 99 in the meantime.
  const Threads guard(2);
  std::atomic<int> finished_while_asleep{0}, finished{0};
  parallel_for(100, 1, [&](std::int64_t begin, std::int64_t) {
    if (begin == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      finished_while_asleep = finished.load();
    }
    ++finished;
  });
  CHECK(finished == 100);
  CHECK(finished_while_asleep >= 90);
}

}  // namespace mien::test
