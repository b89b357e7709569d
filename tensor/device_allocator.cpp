#include "mien/tensor/device_allocator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "mien/tensor/error.h"

namespace mien {
namespace {

constexpr std::int64_t alignment = 512, MiB = std::int64_t{1} << 20;
// Small blocks share segments of 2 MiB; up to 10 MiB they share segments of 20 MiB; larger ones get a segment in steps of 2 MiB.
constexpr std::int64_t small_limit = MiB, small_segment = 2 * MiB, large_limit = 10 * MiB, large_segment = 20 * MiB;

std::int64_t round_up(std::int64_t bytes, std::int64_t to) { return (bytes + to - 1) / to * to; }
std::int64_t segment_size(std::int64_t bytes) { return bytes <= small_limit ? small_segment : bytes <= large_limit ? large_segment : round_up(bytes, 2 * MiB); }
std::string in_mib(std::int64_t bytes) { return std::to_string((bytes + MiB - 1) / MiB) + " MiB"; }

// Where free pieces may be used: one queue, small or large segments.
struct Place {
  void* stream = nullptr;
  bool small = false;
  auto operator<=>(const Place&) const = default;
};

class CachingDeviceAllocator final : public DeviceAllocator {
 public:
  CachingDeviceAllocator(DeviceBackend& backend, int device, std::function<void*()> stream, std::int64_t limit)
      : backend_(backend), device_(device), stream_(std::move(stream)), limit_(limit) {}
  ~CachingDeviceAllocator() override {
    for (const auto& [at, piece] : pieces_)
      if (piece.begins_segment) backend_.deallocate(device_, at);
    for (auto& w : waiting_)
      for (void* e : w.events) backend_.drop_event(e);
  }

  void* allocate(std::int64_t bytes) override { return allocate_on(bytes, stream_()); }

  void* allocate_on(std::int64_t bytes, void* stream) override {
    if (bytes < 0) throw ValueError("allocate", "expects a number of bytes that is not negative, got " + std::to_string(bytes));
    const std::int64_t size = std::max(round_up(bytes, alignment), alignment);
    const std::lock_guard lock(mutex_);
    if (lost_) throw *lost_;
    settle(false);
    const Place place{stream, size <= small_limit};
    std::byte* block = take(size, place);
    if (!block) block = grow(size, place) ? take(size, place) : nullptr;
    if (!block) {
      ++stats_.retries;
      settle(true);
      block = take(size, place);
      if (!block) {
        release();
        block = grow(size, place) ? take(size, place) : nullptr;
      }
    }
    if (!block) refuse(bytes);
    ++stats_.allocations;
    return block;
  }

  void deallocate(void* block, std::int64_t) noexcept override {
    if (!block) return;
    const std::lock_guard lock(mutex_);
    const auto it = pieces_.find(static_cast<std::byte*>(block));
    if (it == pieces_.end()) return;
    stats_.live -= it->second.size;
    const auto used = others_.find(it->first);
    if (used == others_.end()) return give(it);
    Waiting w{it->first, {}};
    try {
      for (void* s : used->second) w.events.push_back(ask([&] { return backend_.record(device_, s); }));
      waiting_.push_back(std::move(w));
    } catch (...) {  // nobody can tell when the other queue is done with it: it serves nobody until the allocator goes
    }
    others_.erase(used);
  }

  void record_stream(void* block, void* stream) override {
    const std::lock_guard lock(mutex_);
    const auto it = pieces_.find(static_cast<std::byte*>(block));
    if (it == pieces_.end() || it->second.free) throw ValueError("record_stream", "expects a block of this allocator that is in use");
    if (it->second.place.stream != stream) others_[it->first].insert(stream);
  }

  AllocatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return {stats_.live, stats_.peak, stats_.reserved - stats_.live, stats_.allocations};
  }
  void release_cached() noexcept override {
    const std::lock_guard lock(mutex_);
    try {
      settle(true);
    } catch (...) {  // the device is lost
    }
    release();
  }
  DeviceStats device_stats() const override {
    const std::lock_guard lock(mutex_);
    return full_stats();
  }
  std::int64_t largest_available() const override {
    const std::lock_guard lock(mutex_);
    std::int64_t unused = 0;
    for (const auto& [at, p] : pieces_)
      if (p.free && p.begins_segment && p.ends_segment) unused += p.size;
    std::int64_t room = backend_.memory(device_).free + unused;
    if (limit_ > 0) room = std::min(room, limit_ - stats_.reserved + unused);
    return std::max({full_stats().largest_free, room / (2 * MiB) * (2 * MiB), std::int64_t{0}});
  }
  std::string report() const override {
    const DeviceStats s = device_stats();
    const DeviceMemory m = backend_.memory(device_);
    char text[640];
    std::snprintf(text, sizeof text,
                  "in use         %s (peak %s)\nreserved       %s in %ld segments\nkept free      %s, largest piece %s, fragmentation %.0f %%\nallocations    %ld, retries %ld, out of memory %ld\n"
                  "device         %s free of %s\n",
                  in_mib(s.live).c_str(), in_mib(s.peak).c_str(), in_mib(s.reserved).c_str(), static_cast<long>(s.segments), in_mib(s.reserved - s.live).c_str(),
                  in_mib(s.largest_free).c_str(), 100 * s.fragmentation, static_cast<long>(s.allocations), static_cast<long>(s.retries), static_cast<long>(s.out_of_memory),
                  in_mib(m.free).c_str(), in_mib(m.total).c_str());
    return text;
  }

 private:
  struct Piece {
    std::int64_t size = 0;
    Place place;
    bool free = false, begins_segment = false, ends_segment = false;
  };
  using Pieces = std::map<std::byte*, Piece>;  // all memory, by address: neighbours are next to each other
  struct Waiting {
    std::byte* block;
    std::vector<void*> events;
  };

  // A call of the backend. Once the device is lost nothing is handed out any more, also of what is kept: whoever asks hears the same.
  template <class F>
  auto ask(const F& call) -> decltype(call()) {
    try {
      return call();
    } catch (const DeviceLost& e) {
      lost_ = e;
      throw;
    }
  }

  DeviceStats full_stats() const {
    DeviceStats s = stats_;
    for (const auto& [place, sizes] : free_)
      if (!sizes.empty()) s.largest_free = std::max(s.largest_free, sizes.rbegin()->first);
    const std::int64_t kept = s.reserved - s.live;
    s.fragmentation = kept > 0 ? 1 - static_cast<double>(s.largest_free) / static_cast<double>(kept) : 0;
    return s;
  }

  // The smallest free piece that is large enough, cut to size.
  std::byte* take(std::int64_t size, const Place& place) {
    auto& sizes = free_[place];
    const auto found = sizes.lower_bound({size, nullptr});
    if (found == sizes.end()) return nullptr;
    std::byte* at = found->second;
    sizes.erase(found);
    Piece& p = pieces_.at(at);
    const std::int64_t rest = p.size - size;
    if (place.small ? rest >= alignment : rest >= small_limit) {
      pieces_[at + size] = {rest, place, true, false, p.ends_segment};
      sizes.insert({rest, at + size});
      p.size = size;
      p.ends_segment = false;
    }
    p.free = false;
    stats_.live += p.size;
    stats_.peak = std::max(stats_.peak, stats_.live);
    return at;
  }

  bool grow(std::int64_t size, const Place& place) {
    const std::int64_t bytes = segment_size(size);
    if (limit_ > 0 && stats_.reserved + bytes > limit_) return false;
    auto* at = static_cast<std::byte*>(ask([&] { return backend_.allocate(device_, bytes); }));
    if (!at) return false;
    pieces_[at] = {bytes, place, true, true, true};
    free_[place].insert({bytes, at});
    stats_.reserved += bytes;
    ++stats_.segments;
    return true;
  }

  void give(Pieces::iterator it) noexcept {
    auto& sizes = free_[it->second.place];
    it->second.free = true;
    if (const auto next = std::next(it); !it->second.ends_segment && next != pieces_.end() && next->second.free) {
      sizes.erase({next->second.size, next->first});
      it->second.size += next->second.size;
      it->second.ends_segment = next->second.ends_segment;
      pieces_.erase(next);
    }
    if (!it->second.begins_segment) {
      if (const auto before = std::prev(it); before->second.free) {
        sizes.erase({before->second.size, before->first});
        before->second.size += it->second.size;
        before->second.ends_segment = it->second.ends_segment;
        pieces_.erase(it);
        it = before;
      }
    }
    sizes.insert({it->second.size, it->first});
  }

  // Blocks whose events have passed become free. `wait`: all of them, however long it takes.
  void settle(bool wait) {
    for (auto w = waiting_.begin(); w != waiting_.end();) {
      bool done = true;
      for (void* e : w->events) {
        bool passed = ask([&] { return backend_.passed(e); });
        while (wait && !passed) passed = ask([&] { return backend_.passed(e); });
        done = done && passed;
      }
      if (!done) {
        ++w;
        continue;
      }
      for (void* e : w->events) backend_.drop_event(e);
      give(pieces_.find(w->block));
      w = waiting_.erase(w);
    }
  }

  // Segments that are free from end to end go back to the device.
  void release() noexcept {
    for (auto it = pieces_.begin(); it != pieces_.end();) {
      const Piece& p = it->second;
      if (!p.free || !p.begins_segment || !p.ends_segment) {
        ++it;
        continue;
      }
      free_[p.place].erase({p.size, it->first});
      stats_.reserved -= p.size;
      --stats_.segments;
      backend_.deallocate(device_, it->first);
      it = pieces_.erase(it);
    }
  }

  [[noreturn]] void refuse(std::int64_t bytes) {
    ++stats_.out_of_memory;
    const DeviceMemory m = backend_.memory(device_);
    const DeviceStats s = full_stats();
    throw OutOfMemory("cuda:" + std::to_string(device_),
                      "wanted " + in_mib(bytes) + ", the device has " + in_mib(m.free) + " free of " + in_mib(m.total) + "; in use here " + in_mib(s.live) + " (peak " +
                          in_mib(s.peak) + "), kept for reuse " + in_mib(s.reserved - s.live) + " with a largest piece of " + in_mib(s.largest_free) +
                          (limit_ > 0 ? ", limit " + in_mib(limit_) : "") + ".",
                      "Use a smaller batch or picture.");
  }

  DeviceBackend& backend_;
  const int device_;
  const std::function<void*()> stream_;
  const std::int64_t limit_;
  mutable std::mutex mutex_;
  Pieces pieces_;
  std::map<Place, std::set<std::pair<std::int64_t, std::byte*>>> free_;
  std::map<std::byte*, std::set<void*>> others_;  // of blocks in use: further queues
  std::vector<Waiting> waiting_;
  std::optional<DeviceLost> lost_;
  DeviceStats stats_;
};

class PinnedAllocator final : public Allocator {
 public:
  explicit PinnedAllocator(DeviceBackend& backend) : backend_(backend) {}
  ~PinnedAllocator() override { PinnedAllocator::release_cached(); }
  void* allocate(std::int64_t bytes) override {
    const std::int64_t size = class_of(bytes);
    const std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (auto& list = free_[size]; !list.empty()) {
      block = list.back();
      list.pop_back();
      stats_.cached -= size;
    } else {
      block = backend_.allocate_host(size);
    }
    if (!block) throw OutOfMemory("pinned memory", "the system has no " + in_mib(size) + " left that can be pinned");
    ++stats_.allocations;
    stats_.live += size;
    stats_.peak = std::max(stats_.peak, stats_.live);
    return block;
  }
  void deallocate(void* block, std::int64_t bytes) noexcept override {
    const std::int64_t size = class_of(bytes);
    const std::lock_guard lock(mutex_);
    stats_.live -= size;
    if (stats_.cached + size > 256 * MiB) return backend_.deallocate_host(block);
    free_[size].push_back(block);
    stats_.cached += size;
  }
  AllocatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void release_cached() noexcept override {
    const std::lock_guard lock(mutex_);
    for (auto& [size, list] : free_)
      for (void* b : list) backend_.deallocate_host(b);
    free_.clear();
    stats_.cached = 0;
  }

 private:
  static std::int64_t class_of(std::int64_t bytes) { return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 4096)))); }
  DeviceBackend& backend_;
  mutable std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> free_;
  AllocatorStats stats_;
};

}  // namespace

std::shared_ptr<DeviceAllocator> make_device_allocator(DeviceBackend& backend, int device, std::function<void*()> stream, std::int64_t limit) {
  return std::make_shared<CachingDeviceAllocator>(backend, device, std::move(stream), limit);
}
std::shared_ptr<Allocator> make_pinned_allocator(DeviceBackend& backend) { return std::make_shared<PinnedAllocator>(backend); }

std::int64_t parse_bytes(const std::string& text) {
  std::size_t end = text.find_first_not_of("0123456789");
  const std::string digits = text.substr(0, end), unit = end == std::string::npos ? "" : text.substr(end);
  const std::int64_t scale = unit.empty() || unit == "B" ? 1 : unit == "KiB" ? std::int64_t{1} << 10 : unit == "MiB" ? MiB : unit == "GiB" ? std::int64_t{1} << 30 : 0;
  if (digits.empty() || digits.size() > 15 || scale == 0) throw ValueError("memory limit", "expects bytes such as 8GiB, 512MiB or 1000000, got '" + text + "'");
  return std::stoll(digits) * scale;
}

}  // namespace mien
