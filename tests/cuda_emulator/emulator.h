// CUDA's kernel language for g++, as far as kernels/cuda speaks it; translate.py makes the calls to what is declared here, and every translated file includes
// this one first. Types and the run-time's declarations come from the toolkit's own headers, the run-time's functions from emulator.cpp.
//
// A launch runs at once, on the thread that launches: block after block, the threads of a block as fibers that take turns at barriers. Every second launch goes
// through its blocks and threads from the last to the first, so that a missing barrier shows whichever way it errs. Shared memory is filled with 0xff before
// each block (NaN in every floating type, -1 in integers).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>

#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#undef __forceinline__
#define __forceinline__ inline  // g++ decides: fewer copies compile faster

namespace mien_emulator {

// A place in the source, for messages.
struct Site {
  const char *name, *file;
  int line;
};
#define MIEN_EMULATOR_SITE(name) (::mien_emulator::Site{name, __FILE__, __LINE__})
#define MIEN_EMULATOR_HERE MIEN_EMULATOR_SITE(__func__)

struct Config {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
};

// Of the thread that runs.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;
#define threadIdx (::mien_emulator::thread_index)
#define blockIdx (::mien_emulator::block_index)
#define blockDim (::mien_emulator::block_size)
#define gridDim (::mien_emulator::grid_size)

// --- launches ------------------------------------------------------------------------------------------------------------------
struct Work {  // a kernel with its arguments
  virtual ~Work() = default;
  virtual void thread() const = 0;
};
// Takes `work`. `function`: the kernel where its dynamic shared memory may be above 48 KiB, else null.
void submit(const Site& site, const Config& config, const void* function, Work* work);

// Calls f with the given values; templates deduce their arguments from them as in a launch.
template <class F, class... Given>
void launch(const Site& site, const Config& config, const F& f, Given... given) {
  struct Call final : Work {
    Call(const F& function, const Given&... values) : f(function), all(values...) {}
    void thread() const override { std::apply(f, all); }
    F f;
    std::tuple<Given...> all;
  };
  submit(site, config, nullptr, new Call(f, given...));
}
template <class... Parameters>
struct Launch {
  void operator()(Parameters... given) const {
    struct Call final : Work {
      Call(void (*function)(Parameters...), const Parameters&... values) : f(function), all(values...) {}
      void thread() const override { std::apply(f, all); }
      void (*f)(Parameters...);
      std::tuple<Parameters...> all;
    };
    submit(site, config, reinterpret_cast<const void*>(kernel), new Call(kernel, given...));
  }
  Site site;
  Config config;
  void (*kernel)(Parameters...);
};
template <class... Parameters>
Launch<Parameters...> launch_as(const Site& site, const Config& config, void (*kernel)(Parameters...)) {
  return {site, config, kernel};
}

[[noreturn]] void broken(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void bounds(unsigned most) {  // of __launch_bounds__
  if (block_size.x * block_size.y * block_size.z > most) broken("a block larger than its __launch_bounds__(%u)", most);
}

// --- shared memory ---------------------------------------------------------------------------------------------------------------
extern std::uint64_t block_number;  // of all that ever ran
void fresh(void* memory, std::size_t bytes);
#define MIEN_EMULATOR_FRESH(name)                                                    \
  static std::uint64_t mien_block_of_##name = 0;                                     \
  if (mien_block_of_##name != ::mien_emulator::block_number) {                       \
    mien_block_of_##name = ::mien_emulator::block_number;                            \
    ::mien_emulator::fresh(const_cast<void*>(static_cast<const volatile void*>(&name)), sizeof name); \
  }
void* dynamic_shared();

// --- threads together --------------------------------------------------------------------------------------------------------------
void sync_threads(const Site& site);
// Gives `bytes` of `mine` to the warp and waits for all its threads: the slots of its 32 lanes, 16 bytes each, which stay until this thread's next exchange.
const unsigned char* exchange(const Site& site, unsigned mask, const void* mine, std::size_t bytes, unsigned& lane, unsigned& lanes);

template <class T>
T shfl_down(const Site& site, unsigned mask, T value, unsigned step) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  unsigned lane, lanes;
  const unsigned char* all = exchange(site, mask, &value, sizeof value, lane, lanes);
  if (lane + step < 32) {
    if (lane + step >= lanes) broken("%s:%d: a shuffle from lane %u of a warp of %u", site.file, site.line, lane + step, lanes);
    std::memcpy(&value, all + 16 * (lane + step), sizeof value);
  }
  return value;
}
inline unsigned ballot(const Site& site, unsigned mask, bool vote) {
  unsigned lane, lanes, votes = 0;
  const unsigned char* all = exchange(site, mask, &vote, sizeof vote, lane, lanes);
  for (unsigned k = 0; k < lanes; ++k) votes |= static_cast<unsigned>(all[16 * k]) << k;
  return votes;
}

}  // namespace mien_emulator

// --- device functions ------------------------------------------------------------------------------------------------------------
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<wide>(a) * b >> 64);
}
inline unsigned atomicAdd(unsigned* at, unsigned v) { return (*at += v) - v; }  // only threads of one block run, and they take turns
inline long long __double_as_longlong(double v) { return __builtin_bit_cast(long long, v); }
// Compiled without contraction, so each is one rounding.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
std::common_type_t<A, B> min(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return y < x ? y : x;
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
std::common_type_t<A, B> max(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return x < y ? y : x;
}

// What has no integer becomes the largest or smallest one on a GPU.
inline long long mien_emulated_llround(double v) { return v >= 0x1p63 ? INT64_MAX : v < -0x1p63 || v != v ? INT64_MIN : static_cast<long long>(round(v)); }
#define llround(v) mien_emulated_llround(v)

// --- the run-time's templates, which its header keeps for nvcc ---------------------------------------------------------------------
template <class... P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(P...)) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
