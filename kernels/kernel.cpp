#include "mien/kernels/kernel.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/cuda/table.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/device_backend.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mien {
namespace {

#if defined(__x86_64__)
// Linux hands out the 8 KiB of tile state only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA); otherwise the first tile
// instruction is a SIGILL. Asked once, for all threads.
bool tiles_permitted() noexcept {
#if defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// CPUID feature bits and XCR0 only: family and model are masked on many cloud machines.
Level detect() noexcept {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Level::base;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), avx = c & (1u << 28), f16c = c & (1u << 29);
  if (!osxsave || !avx) return Level::base;
  unsigned xcr0_low, xcr0_high;
  __asm__("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  if ((xcr0_low & 0x6u) != 0x6u) return Level::base;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Level::base;
  const bool avx2 = b & (1u << 5), bmi2 = b & (1u << 8);
  if (!avx2 || !fma || !bmi2 || !f16c) return Level::base;
  const unsigned wanted = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  if ((b & wanted) != wanted || (xcr0_low & 0xe6u) != 0xe6u) return Level::avx2;
  const bool amx = (d & (1u << 22)) && (d & (1u << 24)) && (xcr0_low & 0x60000u) == 0x60000u;  // AMX-BF16, AMX-TILE, both tile states
  const bool avx512_bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
  return amx && avx512_bf16 && tiles_permitted() ? Level::amx : Level::avx512;
}
#else
Level detect() noexcept { return Level::base; }
#endif

Level cap_from_environment() noexcept {
  const char* text = std::getenv("MIEN_MAX_ISA");
  if (!text) return Level::amx;
  for (const Level l : {Level::ref, Level::base, Level::avx2, Level::avx512, Level::amx})
    if (std::strcmp(text, name(l)) == 0) return l;
  std::fprintf(stderr, "mien: MIEN_MAX_ISA=%s is not one of ref, base, avx2, avx512, amx; it is ignored\n", text);
  return Level::amx;
}

std::atomic<KernelObserver> kernel_observer{nullptr};

std::atomic<int>& chosen_level() {
  static std::atomic<int> level{static_cast<int>(std::min(machine_cpu_level(), cap_from_environment()))};
  return level;
}

bool verbose_dispatch() {
  static const bool on = [] {
    const char* text = std::getenv("MIEN_VERBOSE");
    return text && std::strstr(text, "dispatch");
  }();
  return on;
}

// A transfer has an operand on the CPU and one elsewhere: it runs in the queue of the latter.
Device device_of(const KernelArgs& args) {
  for (const auto views : {args.out, args.in})
    for (const auto& v : views)
      if (!v.device.is_cpu()) return v.device;
  return Device::cpu();
}

std::string describe(std::span<const View> views) {
  std::string text;
  for (const auto& v : views) text += (text.empty() ? "" : ", ") + std::string(name(v.dtype)) + to_string(v.shape);
  return text;
}

// Scratch memory that goes back whatever happens. (On a GPU it goes back while the kernel may still run: what takes it next waits in the same queue.)
struct Scratch {
  Scratch(std::int64_t bytes, Device device) : bytes_(bytes) {
    if (bytes_ > 0) {
      allocator_ = allocator_of(device);
      data_ = allocator_->allocate(bytes_);
    }
  }
  ~Scratch() {
    if (data_) allocator_->deallocate(data_, bytes_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const noexcept { return data_; }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::int64_t bytes_;
  void* data_ = nullptr;
};

}  // namespace

const KernelEntry* KernelList::at(Level level) const noexcept {
  const KernelTable* table = nullptr;
  switch (level) {
    case Level::ref: return ref;
#if MIEN_WITH_CUDA
    case Level::cuda: table = &mien_cuda; break;
    case Level::cuda_library: table = &mien_cuda_library; break;
#else
    case Level::cuda:
    case Level::cuda_library: return nullptr;
#endif
    case Level::base: table = &mien_cpu_base; break;
#if defined(__x86_64__)
    case Level::avx2: table = &mien_cpu_avx2; break;
    case Level::avx512: table = &mien_cpu_avx512; break;
    case Level::amx: table = &mien_cpu_amx; break;
#else
    default: break;
#endif
  }
  return fast && table ? table->*fast : nullptr;
}

const char* name(Level level) noexcept {
  static constexpr const char* names[] = {"ref", "base", "avx2", "avx512", "amx", "cuda", "cuda_library"};
  return names[static_cast<int>(level)];
}

Level machine_cpu_level() noexcept {
  static const Level level = detect();
  return level;
}

Level max_cpu_level() noexcept { return static_cast<Level>(chosen_level().load(std::memory_order_relaxed)); }

void set_max_cpu_level(Level level) {
  if (level > machine_cpu_level())
    throw ValueError("set_max_cpu_level", std::string("this machine has no ") + name(level) + ", its highest level is " + name(machine_cpu_level()));
  chosen_level().store(static_cast<int>(level));
}

KernelObserver set_kernel_observer(KernelObserver observer) noexcept { return kernel_observer.exchange(observer); }

const KernelEntry& choose_kernel(const char* op, const KernelList& list, const KernelArgs& args) {
  std::string declined;
  const Device device = device_of(args);
  const int last = device.is_cpu() ? static_cast<int>(max_cpu_level()) : static_cast<int>(Level::cuda_library);
  for (int l = last; l >= (device.is_cpu() ? 0 : static_cast<int>(Level::cuda)); --l) {
    const KernelEntry* entry = list.at(static_cast<Level>(l));
    if (!entry) continue;
    if (const char* reason = entry->decline ? entry->decline(args) : nullptr) {
      if (verbose_dispatch()) std::fprintf(stderr, "mien dispatch: %s: %s declined: %s\n", op, name(static_cast<Level>(l)), reason);
      declined += std::string(declined.empty() ? "" : "; ") + name(static_cast<Level>(l)) + ": " + reason;
      continue;
    }
    if (verbose_dispatch()) std::fprintf(stderr, "mien dispatch: %s: %s runs (%s)\n", op, name(static_cast<Level>(l)), describe(args.in).c_str());
    return *entry;
  }
  throw NotImplemented(op, "no kernel on " + to_string(device) + " takes (" + describe(args.in) + ")" + (declined.empty() ? "" : ": " + declined));
}

void run_kernel(const char* op, const KernelList& list, std::span<const View> in, std::span<const View> out, const void* params) {
  KernelArgs args{in, out, params, nullptr, matmul_precision()};
  const Device device = device_of(args);
  if (!device.is_cpu()) {
    make_current(device);
    args.stream = current_stream(device).handle;
  }
  const KernelEntry& entry = choose_kernel(op, list, args);
  const Scratch scratch(entry.workspace ? entry.workspace(args) : 0, device);
  args.workspace = scratch.data();
  const ProfileRange range(device, op);
  if (const KernelObserver observe = kernel_observer.load(std::memory_order_relaxed)) observe(op, in, out);
  entry.run(args);
}

}  // namespace mien
