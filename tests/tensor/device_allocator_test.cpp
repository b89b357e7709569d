#include "mien/tensor/device_allocator.h"

#include <thread>
#include <vector>

#include "catch.h"
#include "mien/tensor/generator.h"
#include "mien/tensor/tensor.h"
#include "tensor/fake_device.h"

namespace mien::test {
namespace {

constexpr std::int64_t MiB = std::int64_t{1} << 20;
void* queue(std::uintptr_t n) { return reinterpret_cast<void*>(n); }

struct Rig {
  explicit Rig(std::int64_t memory = std::int64_t{1} << 30, std::int64_t limit = 0) : device(memory), allocator(make_device_allocator(device, 0, [] { return queue(1); }, limit)) {}
  FakeDevice device;
  std::shared_ptr<DeviceAllocator> allocator;
};

}  // namespace

TEST_CASE("a freed block serves the next one of its queue at once, and no other queue", "[allocator][device]") {
  Rig r;
  void* a = r.allocator->allocate(1000);
  CHECK(reinterpret_cast<std::uintptr_t>(a) % 256 == 0);
  r.allocator->deallocate(a, 1000);
  CHECK(r.allocator->allocate(900) == a);
  r.allocator->deallocate(a, 900);
  void* b = r.allocator->allocate_on(900, queue(2));
  CHECK(b != a);
  CHECK(r.device.allocations == 2);  // a segment for each queue
}

TEST_CASE("a block that another queue uses waits for it", "[allocator][device]") {
  Rig r;
  void* a = r.allocator->allocate(3 * MiB);
  r.allocator->record_stream(a, queue(2));
  r.allocator->deallocate(a, 3 * MiB);
  CHECK(r.device.open_events() == 1);
  void* b = r.allocator->allocate(3 * MiB);
  CHECK(b != a);
  r.device.finish(queue(2));
  CHECK(r.allocator->allocate(3 * MiB) == a);
  CHECK(r.device.open_events() == 0);
}

TEST_CASE("segments are cut and grow together again", "[allocator][device]") {
  Rig r;
  std::vector<void*> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(r.allocator->allocate(256 << 10));
  CHECK(r.device.used() == 2 * MiB);
  for (const int i : {1, 3, 5, 7, 0, 2, 4, 6}) r.allocator->deallocate(blocks[static_cast<std::size_t>(i)], 256 << 10);
  CHECK(r.allocator->device_stats().largest_free == 2 * MiB);
  CHECK(r.allocator->device_stats().fragmentation == 0);
  CHECK(r.allocator->device_stats().live == 0);
  r.allocator->release_cached();
  CHECK(r.device.used() == 0);
}

TEST_CASE("20,000 random steps: blocks never overlap and keep what was written", "[allocator][device]") {
  Rig r(std::int64_t{4} << 30);
  struct Live {
    std::uint8_t* at;
    std::int64_t bytes;
    std::uint8_t mark;
  };
  std::vector<Live> live;
  std::int64_t reserved = 0;
  for (std::uint64_t step = 0; step < 20000; ++step) {
    const auto dice = [&](std::uint64_t k, std::int64_t range) { return philox_integer(7, k, step, range); };
    if (live.size() < 40 && dice(0, 100) < 55) {
      const std::int64_t bytes = dice(1, 20) == 0 ? dice(2, 30 * MiB) : dice(2, 4) == 0 ? dice(3, 2 * MiB) : dice(3, 20000);
      auto* at = static_cast<std::uint8_t*>(r.allocator->allocate_on(bytes, queue(1 + static_cast<std::uintptr_t>(dice(4, 3)))));
      const auto mark = static_cast<std::uint8_t>(step);
      for (const auto& l : live) REQUIRE((at + bytes <= l.at || l.at + l.bytes <= at));
      if (bytes > 0) at[0] = at[bytes - 1] = mark;
      live.push_back({at, bytes, mark});
    } else if (!live.empty()) {
      const auto k = static_cast<std::size_t>(dice(5, static_cast<std::int64_t>(live.size())));
      const Live l = live[k];
      if (l.bytes > 0) {
        REQUIRE(l.at[0] == l.mark);
        REQUIRE(l.at[l.bytes - 1] == l.mark);
      }
      r.allocator->deallocate(l.at, l.bytes);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(k));
    }
    if (step == 15000) reserved = r.allocator->device_stats().reserved;
  }
  CHECK(r.allocator->device_stats().reserved <= reserved * 3 / 2);
  for (const auto& l : live) r.allocator->deallocate(l.at, l.bytes);
  CHECK(r.allocator->device_stats().live == 0);
  r.allocator->release_cached();
  CHECK(r.device.used() == 0);
}

TEST_CASE("out of memory: what is kept goes back, one more try, then the numbers", "[allocator][device]") {
  Rig r(100 * MiB);
  void* half = r.allocator->allocate(60 * MiB);
  r.allocator->deallocate(half, 60 * MiB);
  void* large = r.allocator->allocate_on(90 * MiB, queue(2));  // fits only where the other queue's segment was
  CHECK(r.allocator->device_stats().retries == 1);
  for (int i = 0; i < 20; ++i) {
    const auto said = message_of<OutOfMemory>([&] { r.allocator->allocate(50 * MiB); });
    for (const char* part : {"wanted 50 MiB", "10 MiB free of 100 MiB", "in use here 90 MiB", "kept for reuse 0 MiB", "smaller batch"}) {
      INFO(said);
      CHECK(said.find(part) != std::string::npos);
    }
  }
  CHECK(r.allocator->device_stats().out_of_memory == 20);
  CHECK(r.allocator->largest_available() == 10 * MiB);
  r.allocator->deallocate(large, 90 * MiB);
  CHECK(r.allocator->largest_available() == 100 * MiB);
  r.allocator->deallocate(r.allocator->allocate(95 * MiB), 95 * MiB);
}

TEST_CASE("a forced wait comes before giving up", "[allocator][device]") {
  Rig r(50 * MiB);
  void* a = r.allocator->allocate(40 * MiB);
  r.allocator->record_stream(a, queue(2));
  r.allocator->deallocate(a, 40 * MiB);
  r.device.impatient = true;
  CHECK(r.allocator->allocate(40 * MiB) == a);
}

TEST_CASE("a limit on what is taken from the device", "[allocator][device]") {
  Rig r(std::int64_t{1} << 30, 30 * MiB);
  void* a = r.allocator->allocate(25 * MiB);
  CHECK(message_of<OutOfMemory>([&] { r.allocator->allocate(10 * MiB); }).find("limit 30 MiB") != std::string::npos);
  r.allocator->deallocate(a, 25 * MiB);
  CHECK(r.allocator->allocate(10 * MiB) != nullptr);
  CHECK(parse_bytes("8GiB") == std::int64_t{8} << 30);
  CHECK(parse_bytes("512MiB") == 512 * MiB);
  CHECK(parse_bytes("1000000") == 1000000);
  for (const char* text : {"", "GiB", "8 GiB", "8GB", "-1", "1e9", "99999999999999999999"}) CHECK_THROWS_AS(parse_bytes(text), ValueError);
}

TEST_CASE("pinned memory is kept in powers of two", "[allocator][device]") {
  FakeDevice device;
  const auto pinned = make_pinned_allocator(device);
  void* a = pinned->allocate(5000);
  pinned->deallocate(a, 5000);
  CHECK(pinned->stats().cached == 8192);
  CHECK(pinned->allocate(8000) == a);
  pinned->deallocate(a, 8000);
  pinned->release_cached();
  CHECK(pinned->stats().cached == 0);
}

TEST_CASE("several threads at once", "[allocator][device]") {
  Rig r;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t)
    threads.emplace_back([&r, t] {
      for (std::uint64_t i = 0; i < 3000; ++i) {
        const std::int64_t bytes = 1 + philox_integer(3, t, i, 3 * MiB);
        auto* at = static_cast<std::uint8_t*>(r.allocator->allocate_on(bytes, queue(1 + t % 2)));
        at[bytes - 1] = static_cast<std::uint8_t>(t);
        r.allocator->deallocate(at, bytes);
      }
    });
  for (auto& t : threads) t.join();
  CHECK(r.allocator->device_stats().live == 0);
  CHECK(r.allocator->device_stats().allocations == 12000);
  CHECK(r.allocator->report().find("peak") != std::string::npos);
}

TEST_CASE("a lost device: whichever call finds out, all later ones say the same, and nothing is handed out or waited for", "[allocator][device]") {
  std::int64_t all = 0;
  for (std::int64_t k = -1; k < all; ++k) {
    Rig r;
    r.device.lost_at = k;
    r.device.impatient = true;
    int told = 0;
    const auto step = [&](const auto& f) {
      try {
        f();
        CHECK(told == 0);
      } catch (const DeviceLost& e) {
        CHECK(std::string(e.what()) == "fake: the device is lost to this process. Start the program anew.");
        ++told;
      }
    };
    void *a = nullptr, *b = nullptr;
    step([&] { a = r.allocator->allocate(3 * MiB); });
    step([&] { b = r.allocator->allocate(5 * MiB); });
    if (a) r.allocator->record_stream(a, queue(2));
    r.allocator->deallocate(a, 3 * MiB);  // the mark for the other queue may be the call that fails
    if (told == 0 && k >= 0 && r.device.calls_after_loss > 0) {
      CHECK_THROWS_AS(r.allocator->allocate(3 * MiB), DeviceLost);  // although there is room
      ++told;
    }
    step([&] { r.allocator->deallocate(r.allocator->allocate(2 * MiB), 2 * MiB); });
    r.allocator->deallocate(b, 5 * MiB);
    r.allocator->release_cached();
    step([&] { r.device.record(0, queue(1)); });
    if (k == -1) all = static_cast<std::int64_t>(r.device.calls().size());
    else CHECK(told > 0);
  }
  CHECK(all > 4);
}

TEST_CASE("what can't be had on a device is told in words that help", "[device]") {
  FakeDevice device;
  const Installed installed(device);
  CHECK(message_of<DeviceError>([] { Device::parse("cuda:7"); }).find("cuda:7 was asked for, this machine has cuda:0 only") != std::string::npos);
  const auto said = message_of<OutOfMemory>([] { Tensor::empty({3, std::int64_t{1} << 31}, DType::f32, Layout::contiguous, Device::cuda()); });  // 24 GiB, and sizes that 32 bits don't hold
  CHECK(said.find("wanted 24576 MiB") != std::string::npos);
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 40, std::int64_t{1} << 40}, DType::u8, Layout::contiguous, Device::cuda()), ShapeError);
  device.why_none = "the NVIDIA driver knows CUDA 12.2, this build needs 13.0 or newer";
  CHECK(message_of<DeviceError>([] { Device::parse("cuda"); }).find("cuda was asked for, but the NVIDIA driver knows CUDA 12.2, this build needs 13.0 or newer. Use Device::cpu()") != std::string::npos);
  CHECK(Device::parse("auto").is_cpu());
}

TEST_CASE("a device that can't be had now: auto is the CPU, who asks for it hears why, and it may be had later", "[device]") {
  FakeDevice device;
  device.why_busy = "another process holds it";
  const Installed installed(device);
  CHECK(Device::parse("auto").is_cpu());
  CHECK(why_no_cuda().find("another process holds it") != std::string::npos);
  CHECK(message_of<DeviceError>([] { Device::parse("cuda"); }).find("another process holds it") != std::string::npos);
  device.why_busy.clear();
  device.lost_at = 0;
  CHECK(Device::parse("auto").is_cpu());
  device.lost_at = -1;
  CHECK(Device::parse("auto") == Device::cuda());
}

TEST_CASE("a copy between two GPUs waits for the one, and the other waits for it", "[device]") {
  FakeDevice device;
  device.devices = 2;
  device.deferred = true;
  const Installed installed(device);
  const Device a = Device::cuda(0), b = Device::parse("cuda:1");
  const auto on = [](Device d) { return Tensor::empty({4}, DType::f32, Layout::contiguous, d); };
  const std::vector<float> one{1, 2, 3, 4}, two{5, 6, 7, 8};
  Tensor x = on(a);
  const Tensor y = on(b);
  copy_memory(x.raw_data(), a, one.data(), Device::cpu(), 16);
  copy_memory(y.raw_data(), b, x.raw_data(), a, 16);
  const void* block = x.raw_data();
  x = Tensor();
  const Tensor z = on(a);
  CHECK(z.raw_data() == block);  // at once, although the copy has not begun
  copy_memory(z.raw_data(), a, two.data(), Device::cpu(), 16);
  CHECK(z.to_vector() == std::vector<double>{5, 6, 7, 8});  // waits for queue 1, which waits for the copy in queue 2
  CHECK(y.to_vector() == std::vector<double>{1, 2, 3, 4});
}

TEST_CASE("tensors on a device: values come and go by copies", "[allocator][device]") {
  FakeDevice device;
  const Installed installed(device);
  REQUIRE(why_no_cuda().empty());
  const Device gpu = Device::parse("cuda:0");
  CHECK(describe(gpu).find("fake, compute capability 9.0") != std::string::npos);
  CHECK(message_of<DeviceError>([] { Device::cuda(1); }).find("cuda:1 was asked for, this machine has cuda:0 only") != std::string::npos);
  const Tensor x = Tensor::empty({2, 3}, DType::f32, Layout::contiguous, gpu);
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  copy_memory(x.raw_data(), gpu, values.data(), Device::cpu(), 24);
  CHECK(x.to_vector() == std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK(x.as_strided({2}, {-3}, 4).to_vector() == std::vector<double>{5, 2});
  CHECK(x.as_strided({}, {}, 2).item() == 3);
  CHECK(on_cpu(x).to_vector() == x.to_vector());
  CHECK(message_of<DeviceError>([&] { x.span<float>(); }).find("on cuda:0") != std::string::npos);
  CHECK(device_allocator(gpu)->device_stats().live == 512);
}

}  // namespace mien::test
