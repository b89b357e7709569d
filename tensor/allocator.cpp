#include "mien/tensor/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "mien/tensor/device_allocator.h"
#include "mien/tensor/error.h"

namespace mien {
namespace {

std::string mib(std::int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// Memory from the system. Page faults of 4 KiB each took a fifth of a training step, so large pieces ask for huge pages. Null when none is left.
void* system_block(std::int64_t bytes) {
  constexpr std::int64_t huge_page = std::int64_t{2} << 20;
  const bool huge = bytes >= 4 * huge_page;
  void* block = nullptr;
  if (posix_memalign(&block, huge ? huge_page : 64, static_cast<std::size_t>(bytes)) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
  if (huge) madvise(block, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  return block;
}

// Large blocks, cut out of regions of the system's memory: the smallest free piece that is large enough, and neighbours that are free become one piece again.
// A training step asks for hundreds of sizes; with a list for each size, memory that was freed in one could not serve another.
class Regions {
 public:
  static constexpr std::int64_t region_bytes = std::int64_t{64} << 20;

  // Null when no piece is large enough.
  std::byte* take(std::int64_t bytes) {
    const auto found = by_size_.lower_bound({bytes, nullptr});
    if (found == by_size_.end()) return nullptr;
    const auto [size, piece] = *found;
    forget(piece, size);
    if (size > bytes) note(piece + bytes, size - bytes);
    return piece;
  }
  // False when the system has none left.
  bool grow(std::int64_t bytes) {
    for (const std::int64_t size : {std::max(bytes, region_bytes), bytes})
      if (auto* region = static_cast<std::byte*>(system_block(size))) {
        regions_[region] = size;
        note(region, size);
        return true;
      }
    return false;
  }
  void give(std::byte* block, std::int64_t bytes) {
    const auto region = std::prev(regions_.upper_bound(block));
    if (const auto after = pieces_.find(block + bytes); after != pieces_.end() && block + bytes < region->first + region->second) {
      const std::int64_t size = after->second;
      forget(block + bytes, size);
      bytes += size;
    }
    if (auto before = pieces_.lower_bound(block); before != pieces_.begin() && (--before)->first + before->second == block && before->first >= region->first) {
      const auto [piece, size] = *before;
      forget(piece, size);
      block = piece;
      bytes += size;
    }
    note(block, bytes);
  }
  std::int64_t free_bytes() const { return free_; }
  // Regions of which no byte is in use go back to the system.
  void drop_unused() noexcept {
    for (auto r = regions_.begin(); r != regions_.end();) {
      const auto piece = pieces_.find(r->first);
      if (piece == pieces_.end() || piece->second != r->second) {
        ++r;
        continue;
      }
      forget(r->first, r->second);
      std::free(r->first);
      r = regions_.erase(r);
    }
  }

 private:
  // Without memory for the book-keeping a piece is lost until the program ends, which is better than ending it.
  void note(std::byte* piece, std::int64_t size) noexcept {
    try {
      by_size_.insert({size, piece});
      pieces_[piece] = size;
      free_ += size;
    } catch (...) {
      by_size_.erase({size, piece});
    }
  }
  void forget(std::byte* piece, std::int64_t size) {
    pieces_.erase(piece);
    by_size_.erase({size, piece});
    free_ -= size;
  }
  std::map<std::byte*, std::int64_t> regions_, pieces_;  // by address: all regions, and what is free of them
  std::set<std::pair<std::int64_t, std::byte*>> by_size_;
  std::int64_t free_ = 0;
};

class CachingAllocator final : public Allocator {
 public:
  CachingAllocator(std::int64_t cache_limit, std::int64_t limit) : cache_limit_(cache_limit), limit_(limit) {}
  ~CachingAllocator() override { release_cached(); }

  void* allocate(std::int64_t bytes) override {
    const std::int64_t rounded = size_class(bytes);
    std::lock_guard lock(mutex_);
    ++stats_.allocations;
    if (limit_ > 0 && stats_.live + rounded > limit_)
      throw OutOfMemory("allocator", "wanted " + mib(rounded) + ", in use " + mib(stats_.live) + ", kept for reuse " + mib(cached()) + ", limit " + mib(limit_),
                        "Use a smaller batch or a higher limit.");
    void* block = rounded >= large ? take_large(rounded) : take_small(rounded);
    if (!block) {
      drop_all();
      block = rounded >= large ? take_large(rounded) : take_small(rounded);
      if (!block)
        throw OutOfMemory("allocator", "the system has no " + mib(rounded) + " left; in use by tensors " + mib(stats_.live),
                          "Use a smaller batch or picture.");
    }
    stats_.live += rounded;
    stats_.peak = std::max(stats_.peak, stats_.live);
    return block;
  }

  void deallocate(void* block, std::int64_t bytes) noexcept override {
    const std::int64_t rounded = size_class(bytes);
    std::lock_guard lock(mutex_);
    stats_.live -= rounded;
    if (rounded >= large) {
      regions_.give(static_cast<std::byte*>(block), rounded);
      if (cache_limit_ != cache_within_peak && cached() > cache_limit_) regions_.drop_unused();
      return;
    }
    if (keeps(rounded)) {
      try {
        free_[rounded].push_back(block);
        small_cached_ += rounded;
        return;
      } catch (...) {  // no memory for the book-keeping: give the block back instead
      }
    }
    std::free(block);
  }

  AllocatorStats stats() const override {
    std::lock_guard lock(mutex_);
    AllocatorStats s = stats_;
    s.cached = cached();
    return s;
  }

  void release_cached() noexcept override {
    std::lock_guard lock(mutex_);
    drop_all();
  }

 private:
  static constexpr std::int64_t default_cache = std::int64_t{256} << 20, large = std::int64_t{128} << 10;
  // Small: powers of two with four steps between them: at most 25 % waste, few classes. Large: whole pages.
  static std::int64_t size_class(std::int64_t bytes) {
    if (bytes <= 256) return 256;
    if (bytes >= large) return (bytes + 4095) / 4096 * 4096;
    const std::int64_t top = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes - 1)));
    const std::int64_t step = top / 4;
    return top + (bytes - top + step - 1) / step * step;
  }
  std::int64_t cached() const { return small_cached_ + regions_.free_bytes(); }
  bool keeps(std::int64_t rounded) const {
    if (cache_limit_ != cache_within_peak) return cached() + rounded <= cache_limit_;
    return small_cached_ + rounded <= default_cache || stats_.live + cached() + rounded <= stats_.peak;
  }
  void* take_large(std::int64_t rounded) {
    if (void* block = regions_.take(rounded)) return block;
    regions_.drop_unused();  // none of them was large enough: the process should not grow by what it keeps
    return regions_.grow(rounded) ? regions_.take(rounded) : nullptr;
  }
  void* take_small(std::int64_t rounded) {
    const auto it = free_.find(rounded);
    if (it == free_.end() || it->second.empty()) return system_block(rounded);
    void* block = it->second.back();
    it->second.pop_back();
    small_cached_ -= rounded;
    return block;
  }
  void drop_all() noexcept {
    for (auto& [size, blocks] : free_)
      for (void* b : blocks) std::free(b);
    free_.clear();
    small_cached_ = 0;
    regions_.drop_unused();
  }

  mutable std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> free_;  // small blocks by size
  std::int64_t small_cached_ = 0;
  Regions regions_;
  AllocatorStats stats_;
  const std::int64_t cache_limit_, limit_;
};

class DebugAllocator final : public Allocator {
 public:
  void* allocate(std::int64_t bytes) override {
    const std::int64_t page = sysconf(_SC_PAGESIZE), padded = (bytes + 63) / 64 * 64, pages = (padded + page - 1) / page * page;
    void* base = mmap(nullptr, static_cast<std::size_t>(pages + page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw OutOfMemory("allocator", "the system has no " + mib(pages) + " left");
    mprotect(static_cast<char*>(base) + pages, static_cast<std::size_t>(page), PROT_NONE);
    std::memset(base, 0xff, static_cast<std::size_t>(pages));  // all ones is a NaN in f16, bf16, f32 and f64
    std::lock_guard lock(mutex_);
    ++stats_.allocations;
    stats_.live += padded;
    stats_.peak = std::max(stats_.peak, stats_.live);
    return static_cast<char*>(base) + (pages - padded);
  }
  void deallocate(void* block, std::int64_t bytes) noexcept override {
    const std::int64_t page = sysconf(_SC_PAGESIZE), padded = (bytes + 63) / 64 * 64, pages = (padded + page - 1) / page * page;
    munmap(static_cast<char*>(block) - (pages - padded), static_cast<std::size_t>(pages + page));
    std::lock_guard lock(mutex_);
    stats_.live -= padded;
  }
  AllocatorStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  mutable std::mutex mutex_;
  AllocatorStats stats_;
};

class FailingAllocator final : public Allocator {
 public:
  FailingAllocator(std::shared_ptr<Allocator> inner, std::int64_t k, bool for_ever) : inner_(std::move(inner)), k_(k), for_ever_(for_ever) {}
  void* allocate(std::int64_t bytes) override {
    const std::int64_t i = count_++;
    if (i == k_ || (for_ever_ && i > k_)) throw OutOfMemory("allocator", "allocation " + std::to_string(i) + " was made to fail");
    return inner_->allocate(bytes);
  }
  void deallocate(void* block, std::int64_t bytes) noexcept override { inner_->deallocate(block, bytes); }
  AllocatorStats stats() const override { return inner_->stats(); }

 private:
  std::shared_ptr<Allocator> inner_;
  const std::int64_t k_;
  const bool for_ever_;
  std::atomic<std::int64_t> count_{0};
};

std::int64_t limit_from_environment() {
  const char* text = std::getenv("MIEN_MEMORY_LIMIT");
  return text ? parse_bytes(text) : 0;
}

struct Current {
  std::mutex mutex;
  std::shared_ptr<Allocator> allocator = make_caching_allocator(cache_within_peak, limit_from_environment());
};
Current& current() {  // leaked on purpose: tensors of static duration may outlive any order of destruction
  static Current* instance = new Current;
  return *instance;
}

}  // namespace

std::shared_ptr<Allocator> make_caching_allocator(std::int64_t cache_limit, std::int64_t limit) {
  return std::make_shared<CachingAllocator>(cache_limit, limit);
}
std::shared_ptr<Allocator> make_debug_allocator() { return std::make_shared<DebugAllocator>(); }
std::shared_ptr<Allocator> make_failing_allocator(std::shared_ptr<Allocator> inner, std::int64_t k, bool for_ever) {
  return std::make_shared<FailingAllocator>(std::move(inner), k, for_ever);
}

std::shared_ptr<Allocator> cpu_allocator() {
  std::lock_guard lock(current().mutex);
  return current().allocator;
}

std::shared_ptr<Allocator> set_cpu_allocator(std::shared_ptr<Allocator> allocator) {
  if (!allocator) throw ValueError("set_cpu_allocator", "expected an allocator, got null");
  std::lock_guard lock(current().mutex);
  std::swap(current().allocator, allocator);
  return allocator;
}

}  // namespace mien
