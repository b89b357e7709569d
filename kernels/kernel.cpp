#include "mien/kernels/kernel.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/cuda/table.h"
#include "mien/kernels/ref/ref.h"
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
  Scratch(Scratch&& o) noexcept : allocator_(std::move(o.allocator_)), bytes_(o.bytes_), data_(std::exchange(o.data_, nullptr)) {}
  void* data() const noexcept { return data_; }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::int64_t bytes_;
  void* data_ = nullptr;
};

bool is_half(const View& v) { return v.dtype == DType::bf16 || v.dtype == DType::f16; }
bool any_half(const KernelArgs& args) { return std::any_of(args.in.begin(), args.in.end(), is_half) || std::any_of(args.out.begin(), args.out.end(), is_half); }

// Why entries declined, by level; null where none did.
using Reasons = std::array<const char*, level_count>;

// The first entry that does not decline; null when there is none.
const KernelEntry* find(const char* op, const KernelList& list, const KernelArgs& args, Reasons& reasons) {
  const bool cpu = device_of(args).is_cpu();
  const int last = static_cast<int>(cpu ? max_cpu_level() : Level::cuda_library), first = static_cast<int>(cpu ? Level::ref : Level::cuda);
  for (int l = last; l >= first; --l) {
    const Level level = static_cast<Level>(l);
    const KernelEntry* entry = list.at(level);
    if (!entry) continue;
    const char*& reason = reasons[static_cast<std::size_t>(l)];
    reason = entry->decline ? entry->decline(args) : nullptr;
    if (level == Level::ref && !entry->halves && any_half(args)) reason = "operands of 16 bits";
    if (verbose_dispatch())
      std::fprintf(stderr, "mien dispatch: %s: %s %s%s (%s)\n", op, name(level), reason ? "declined: " : "runs", reason ? reason : "", describe(args.in).c_str());
    if (!reason) return entry;
  }
  return nullptr;
}

// A dense f32 copy's place for operands of 16 bits, in the order of the operand; the operand itself for others.
class Widened {
 public:
  explicit Widened(std::span<const View> views) {
    for (const View& v : views) {
      views_.push_back(v);
      if (!is_half(v)) continue;
      View& w = views_.back();
      w.dtype = DType::f32;
      w.strides = v.is_channels_last() && !v.is_contiguous() ? channels_last_strides(v.shape) : contiguous_strides(v.shape);
      memory_.emplace_back(4 * v.numel(), Device::cpu());
      w.data = memory_.back().data();
    }
  }
  std::span<const View> views() const { return views_; }

 private:
  std::vector<View> views_;
  std::vector<Scratch> memory_;
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
  Reasons reasons{};
  if (const KernelEntry* entry = find(op, list, args, reasons)) return *entry;
  std::string text = "no kernel on " + to_string(device_of(args)) + " takes (" + describe(args.in) + ")";
  const char* before = ": ";
  for (int l = level_count - 1; l >= 0; --l) {
    const char* reason = reasons[static_cast<std::size_t>(l)];
    if (!reason) continue;
    text.append(before).append(name(static_cast<Level>(l))).append(": ").append(reason);
    before = "; ";
  }
  throw NotImplemented(op, text);
}

namespace {
void run_widened(const char* op, const KernelList& list, const KernelArgs& args) {
  constexpr KernelList copies{&ref::copy_entry, &KernelTable::copy};
  const auto copy = [&](const View& from, const View& to) { run_kernel("copy", copies, {&from, 1}, {&to, 1}, nullptr); };
  const Widened in(args.in), out(args.out);
  for (std::size_t i = 0; i < args.in.size(); ++i)
    if (is_half(args.in[i])) copy(args.in[i], in.views()[i]);
  for (std::size_t i = 0; i < args.out.size(); ++i)
    if (is_half(args.out[i])) copy(args.out[i], out.views()[i]);  // for kernels that work in place
  run_kernel(op, list, in.views(), out.views(), args.params);
  for (std::size_t i = 0; i < args.out.size(); ++i)
    if (is_half(args.out[i])) copy(out.views()[i], args.out[i]);
}
}  // namespace

void run_kernel(const char* op, const KernelList& list, std::span<const View> in, std::span<const View> out, const void* params) {
  KernelArgs args{in, out, params, nullptr, matmul_precision()};
  const Device device = device_of(args);
  if (!device.is_cpu()) {
    make_current(device);
    args.stream = current_stream(device).handle;
  }
  Reasons reasons{};
  const KernelEntry* found = find(op, list, args, reasons);
  if (!found && device.is_cpu() && any_half(args)) return run_widened(op, list, args);
  const KernelEntry& entry = found ? *found : choose_kernel(op, list, args);  // which throws
  const Scratch scratch(entry.workspace ? entry.workspace(args) : 0, device);
  args.workspace = scratch.data();
  const ProfileRange range(device, op);
  if (const KernelObserver observe = kernel_observer.load(std::memory_order_relaxed)) observe(op, in, out);
  entry.run(args);
}

}  // namespace mien
