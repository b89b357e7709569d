// The one shape of every kernel: views in, views out, a plain parameter struct, booked scratch memory. Kernels know no Tensor and no
// autograd and allocate nothing.
//
// A KernelList says where the entries of one op are. They are asked in turn, the fastest first: on the CPU amx, avx512, avx2, base, ref; on a GPU cuda_library
// (cuDNN, cuBLASLt), cuda (own kernels). `ref` is the specification: naive loops, also for f64, any strides. Every other entry may decline with a reason
// (MIEN_VERBOSE=dispatch prints who ran, who declined and why). Operands decide the device; nothing falls from one device back to another.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "mien/kernels/precision.h"
#include "mien/tensor/view.h"

namespace mien {

struct KernelArgs {
  std::span<const View> in;
  std::span<const View> out;  // allocated by the caller; contents undefined unless the kernel's comment says otherwise
  const void* params = nullptr;
  void* workspace = nullptr;  // on the operands' device, 64-byte aligned, as many bytes as workspace() asked for
  Precision precision = Precision::f32;  // matmul_precision() when the op started
  void* stream = nullptr;                // the queue of the operands' device; null on the CPU
  template <class P>
  const P& get() const noexcept {
    return *static_cast<const P*>(params);
  }
};

struct KernelEntry {
  void (*run)(const KernelArgs&) = nullptr;  // null: there is no such entry
  // Why this entry can't do it, or null when it can. A null pointer here means "takes everything".
  const char* (*decline)(const KernelArgs&) = nullptr;
  // Bytes of scratch memory. A null pointer means none.
  std::int64_t (*workspace)(const KernelArgs&) = nullptr;
  bool halves = false;  // of ref: takes bf16 and f16 as they are
};

// amx: only the kernels that multiply on tiles; everything else falls through to avx512. cuda_library: what NVIDIA's libraries do; the rest falls to cuda.
enum class Level : std::uint8_t { ref, base, avx2, avx512, amx, cuda, cuda_library };
inline constexpr int level_count = 7;
const char* name(Level level) noexcept;

struct KernelTable;  // kernels/table.h

struct KernelList {
  const KernelEntry* ref = nullptr;
  const KernelEntry* KernelTable::*fast = nullptr;  // where every other level's table has its entry
  const KernelEntry* at(Level level) const noexcept;  // null when there is no such entry
};

// The highest level that this machine has (CPUID bits and the operating system's XCR0) and MIEN_MAX_ISA=ref|base|avx2|avx512|amx allows.
Level max_cpu_level() noexcept;
Level machine_cpu_level() noexcept;         // without the cap
void set_max_cpu_level(Level level);        // for tests; ValueError above machine_cpu_level()

// The first entry that does not decline; what run_kernel runs. `op` is for messages. NotImplemented when every entry declined: the message lists the
// reasons. The choice depends on dtypes, shapes and strides, not on addresses.
const KernelEntry& choose_kernel(const char* op, const KernelList& list, const KernelArgs& args);
// Chooses and runs the first entry that does not decline. `op` is for messages. Workspace comes from the process's allocator. On the CPU, operands of 16 bits
// for which there is no such entry are computed in f32: the inputs are widened, the outputs rounded to the nearest.
// NotImplemented when every entry declined: the message lists the reasons.
void run_kernel(const char* op, const KernelList& list, std::span<const View> in, std::span<const View> out, const void* params);

// Called before every kernel that run_kernel runs: how benchmarks count the arithmetic of what really ran. One for the process, null for none; returns the
// one before. It may be called from several threads at once.
using KernelObserver = void (*)(const char* op, std::span<const View> in, std::span<const View> out);
KernelObserver set_kernel_observer(KernelObserver observer) noexcept;

}  // namespace mien
