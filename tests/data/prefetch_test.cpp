#include "mien/data/prefetch.h"

#include <algorithm>
#include <chrono>

#include "catch.h"
#include "mien/tensor/device_allocator.h"
#include "tensor/fake_device.h"

namespace mien::test {
namespace {

constexpr std::int64_t MiB = std::int64_t{1} << 20;

// Batch k of an epoch: {2,000 times 100 epoch + k, [k]}.
Batch numbered(std::span<const std::int64_t> rows, std::uint64_t epoch) {
  const std::int64_t k = rows[0] / 4;
  const Tensor x = Tensor::empty({2000});
  std::fill_n(x.data<float>(), 2000, static_cast<float>(100 * static_cast<std::int64_t>(epoch) + k));
  return {x, Tensor::from<std::int64_t>({k}, {1})};
}
LoaderOptions in_order(int workers) { return {.size = 24, .batch = 4, .workers = workers, .shuffle = false}; }

std::vector<double> on_the_device(const Tensor& t) {
  std::vector<float> values(static_cast<std::size_t>(t.numel()));
  copy_memory(values.data(), Device::cpu(), t.raw_data(), t.device(), t.numel() * 4);
  return {values.begin(), values.end()};
}

// Until the other thread has made this many calls of a kind.
bool wait_for(const FakeDevice& device, const std::string& call, std::ptrdiff_t times) {
  for (int i = 0; i < 5000; ++i) {
    const auto calls = device.calls();
    if (std::count(calls.begin(), calls.end(), call) >= times) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace

TEST_CASE("batches come ahead of time: each in its pinned memory until it is copied, and the step's queue waits, not the CPU", "[loader][device]") {
  FakeDevice device;
  device.deferred = true;  // a copy that nobody waited for has not happened
  const Installed installed(device);
  const Device gpu = Device::cuda();
  current_stream(gpu);  // queue 1; the copies' is 2
  for (const int workers : {0, 2}) {
    Loader loader(in_order(workers), numbered);
    DevicePrefetcher batches(loader, gpu);
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      batches.start(epoch, 1);
      for (int k = 1; k < 6; ++k) {
        auto b = batches.next();
        REQUIRE(b);
        CHECK(b->host[1].data<std::int64_t>()[0] == k);
        REQUIRE(b->there.size() == 2);
        CHECK(b->there[0].device() == gpu);
        if (k < 5) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the next one is being brought meanwhile
        const auto values = on_the_device(b->there[0]);
        CHECK(std::all_of(values.begin(), values.end(), [&](double v) { return v == 100 * static_cast<double>(epoch) + k; }));
      }
      CHECK(!batches.next());
      CHECK(!batches.next());
    }
  }
  // Between two batches: both tensors are copied, marked, and done before their pinned memory is used again.
  std::vector<std::string> copies;
  for (const auto& c : device.calls())
    if (c == "to_device 2" || c == "record 2" || c == "synchronize 2") copies.push_back(c);
  const std::vector<std::string> one{"to_device 2", "to_device 2", "record 2", "synchronize 2"};
  REQUIRE(copies.size() == 3 * 5 * one.size());
  for (std::size_t i = 0; i < copies.size(); ++i) CHECK(copies[i] == one[i % 4]);
  const auto calls = device.calls();
  CHECK(std::count(calls.begin(), calls.end(), "wait 1") == 2 * 3 * 5);
  CHECK(device_allocator(gpu)->device_stats().live == 0);
}

TEST_CASE("one batch waits on the device, no more; a block is not used again before the step is done with it", "[loader][device]") {
  FakeDevice device;
  device.deferred = true;
  const Installed installed(device);
  const Device gpu = Device::cuda();
  current_stream(gpu);
  Loader loader(in_order(1), numbered);
  DevicePrefetcher batches(loader, gpu);
  batches.start(0);
  REQUIRE(wait_for(device, "synchronize 2", 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(std::ranges::count(device.calls(), "record 2") == 1);
  auto first = batches.next();
  REQUIRE(wait_for(device, "synchronize 2", 2));
  const void* block = first->there[0].raw_data();
  const auto live = device_allocator(gpu)->device_stats().live;
  first.reset();  // the step's queue may still read it
  auto second = batches.next();
  REQUIRE(wait_for(device, "synchronize 2", 3));
  auto third = batches.next();
  CHECK(third->there[0].raw_data() != block);
  synchronize(gpu);
  REQUIRE(wait_for(device, "synchronize 2", 4));
  CHECK(device_allocator(gpu)->device_stats().live <= live + live / 2);
}

TEST_CASE("errors of the loader and the device come out of next(), and the prefetcher can be left at any moment", "[loader][device]") {
  FakeDevice device(8 * MiB);
  device.impatient = true;
  const Installed installed(device);
  Loader loader(in_order(1), [](std::span<const std::int64_t> rows, std::uint64_t epoch) {
    if (epoch == 0 && rows[0] == 8) throw ValueError("sample", "row 8 is broken");
    if (epoch == 1) return Batch{Tensor::empty({4 * MiB})};  // 16 MiB
    return numbered(rows, epoch);
  });
  DevicePrefetcher batches(loader, Device::cuda());
  batches.start(0);
  CHECK(batches.next());
  CHECK(batches.next());
  CHECK(message_of<ValueError>([&] { batches.next(); }).find("row 8 is broken") != std::string::npos);
  CHECK_THROWS_AS(batches.next(), ValueError);
  batches.start(1);
  const auto large = batches.next();
  REQUIRE(large);
  CHECK(large->there.empty());
  CHECK(large->host.size() == 1);
  batches.start(2);
  CHECK(batches.next()->there.size() == 2);
  batches.start(2);
  CHECK(on_the_device(batches.next()->there[0])[0] == 200);
  device.lost_at = 0;
  CHECK_THROWS_AS([&] { while (batches.next()) continue; }(), DeviceLost);
}  // destroyed on a lost device

TEST_CASE("on the CPU batches pass through", "[loader]") {
  const void* made = nullptr;
  Loader loader(in_order(0), [&](std::span<const std::int64_t> rows, std::uint64_t epoch) {
    auto b = numbered(rows, epoch);
    made = b[0].raw_data();
    return b;
  });
  DevicePrefetcher batches(loader, Device::cpu());
  batches.start(0, 4);
  auto b = batches.next();
  REQUIRE(b);
  CHECK(b->there[0].raw_data() == made);
  CHECK(b->host[0].raw_data() == made);
  CHECK(batches.next());
  CHECK(!batches.next());
}

TEST_CASE("batches that were brought ahead to a GPU have their bits", "[cuda][loader]") {
  MIEN_NEEDS_CUDA();
  Loader loader(in_order(2), [](std::span<const std::int64_t> rows, std::uint64_t epoch) {
    const Tensor x = Tensor::empty({4, 3, 200, 300}, DType::f32, Layout::channels_last), none = Tensor::empty({0, 5});
    for (std::int64_t i = 0; i < x.numel(); ++i) static_cast<float*>(x.raw_data())[i] = static_cast<float>(rows[0] * 7919 + i + static_cast<std::int64_t>(epoch));
    return Batch{x, Tensor::from<std::int64_t>({rows[0]}, {1}), none};
  });
  DevicePrefetcher batches(loader, Device::cuda());
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    batches.start(epoch);
    int n = 0;
    while (auto b = batches.next()) {
      REQUIRE(b->there.size() == 3);
      CHECK(b->there[0].is_channels_last());
      for (std::size_t i = 0; i < 3; ++i) CHECK(on_cpu(b->there[i]).to_vector() == b->host[i].to_vector());
      ++n;
    }
    CHECK(n == 6);
  }
}

}  // namespace mien::test
