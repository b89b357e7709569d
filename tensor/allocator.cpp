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
#include <string>
#include <vector>

#include "mien/tensor/error.h"

namespace mien {
namespace {

std::string mib(std::int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

class CachingAllocator final : public Allocator {
 public:
  CachingAllocator(std::int64_t cache_limit, std::int64_t limit) : cache_limit_(cache_limit), limit_(limit) {}
  ~CachingAllocator() override { release_cached(); }

  void* allocate(std::int64_t bytes) override {
    const std::int64_t rounded = size_class(bytes);
    std::lock_guard lock(mutex_);
    ++stats_.allocations;
    if (limit_ > 0 && stats_.live + rounded > limit_)
      throw OutOfMemory("allocator", "wanted " + mib(rounded) + ", in use " + mib(stats_.live) + ", limit " + mib(limit_),
                        "Use a smaller batch or a higher limit.");
    void* block = take(rounded);
    if (!block) block = system_block(rounded);
    if (!block) {
      drop_all();
      block = system_block(rounded);
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
    if (keeps(rounded)) {
      try {
        free_[rounded].push_back(block);
        stats_.cached += rounded;
        return;
      } catch (...) {  // no memory for the book-keeping: give the block back instead
      }
    }
    std::free(block);
  }

  AllocatorStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  void release_cached() noexcept override {
    std::lock_guard lock(mutex_);
    drop_all();
  }

 private:
  static constexpr std::int64_t default_cache = std::int64_t{256} << 20;
  // Powers of two with four steps between them: at most 25 % waste, few classes.
  static std::int64_t size_class(std::int64_t bytes) {
    if (bytes <= 256) return 256;
    const std::int64_t top = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes - 1)));
    const std::int64_t step = top / 4;
    return top + (bytes - top + step - 1) / step * step;
  }
  bool keeps(std::int64_t rounded) const {
    if (cache_limit_ != cache_within_peak) return stats_.cached + rounded <= cache_limit_;
    return stats_.cached + rounded <= default_cache || stats_.live + stats_.cached + rounded <= stats_.peak;
  }
  // Null when the system has none left. Page faults of 4 KiB each took a fifth of a training step.
  static void* system_block(std::int64_t rounded) {
    constexpr std::int64_t huge_page = std::int64_t{2} << 20;
    const bool huge = rounded >= 4 * huge_page;
    void* block = nullptr;
    if (posix_memalign(&block, huge ? huge_page : 64, static_cast<std::size_t>(rounded)) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
    if (huge) madvise(block, static_cast<std::size_t>(rounded), MADV_HUGEPAGE);  // a wish: it may be refused
#endif
    return block;
  }
  void* take(std::int64_t rounded) {
    const auto it = free_.find(rounded);
    if (it == free_.end() || it->second.empty()) return nullptr;
    void* block = it->second.back();
    it->second.pop_back();
    stats_.cached -= rounded;
    return block;
  }
  void drop_all() noexcept {
    for (auto& [size, blocks] : free_)
      for (void* b : blocks) std::free(b);
    free_.clear();
    stats_.cached = 0;
  }

  mutable std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> free_;
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

struct Current {
  std::mutex mutex;
  std::shared_ptr<Allocator> allocator = make_caching_allocator();
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
