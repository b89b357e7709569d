// The emulated GPU: device memory, fibers, and the functions of the CUDA run-time that mien calls.
#include "emulator.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "faults.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The header only names these.
struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st : CUgraph_st {};
struct CUstream_st {
  CUgraph_st* capture = nullptr;  // while what is put into the stream is recorded
  bool spoilt = false;            // something in between could not be recorded
};
struct CUevent_st {};

namespace mien_emulator {

uint3 thread_index, block_index;
dim3 block_size, grid_size;
std::uint64_t block_number = 0;

namespace {

std::recursive_mutex& machine() {  // one thing at a time
  static auto* m = new std::recursive_mutex;
  return *m;
}
using Lock = std::lock_guard<std::recursive_mutex>;

constexpr unsigned most_threads = 1024, warp_lanes = 32;
constexpr std::size_t plain_shared = 48 << 10, most_shared = 64 << 10;  // the second: of compute capability 7.5, the oldest that mien is built for
constexpr std::size_t fiber_stack = 256 << 10, page = 4096;

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t report(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

// --- planned failures ----------------------------------------------------------------------------------------------------------------
std::string failing;
cudaError_t failure = cudaSuccess;
int still_passing = 0, graphs = 0;
// What fail_next planned for this call.
cudaError_t planned(const char* function) {
  if (failing != function || still_passing-- > 0) return cudaSuccess;
  failing.clear();
  return report(failure);
}

// --- device memory -------------------------------------------------------------------------------------------------------------------
// Readable only while a kernel or a copy runs: elsewhere an access by the host ends the program, as it would on a GPU. Blocks lie a stretch of nothing apart.
// They are made of huge pages, one entry of the page table for 2 MiB: opening and closing them takes most of a small kernel's time.
class Memory {
 public:
  Memory() {
    const char* set = std::getenv("MIEN_EMULATED_MEMORY");  // MiB
    total = (set ? std::strtoull(set, nullptr, 10) : 4096) << 20;
    reserved_ = 4 * total + huge;
    auto* at = static_cast<char*>(mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (at == MAP_FAILED) std::abort();
    base_ = at + (huge - reinterpret_cast<std::uintptr_t>(at) % huge) % huge;
    reserved_ -= static_cast<std::size_t>(base_ - at);
    madvise(base_, reserved_, MADV_HUGEPAGE);
  }
  void* allocate(std::size_t bytes) {
    const std::size_t size = (bytes + page - 1) / page * page, stretch = whole(size);
    if (size > total - used) return nullptr;
    char* at = base_;
    for (const auto& [start, length] : blocks_) {
      if (static_cast<std::size_t>(start - at) >= stretch) break;
      at = start + whole(length);
    }
    if (at + stretch > base_ + reserved_) return nullptr;
    blocks_[at] = size;
    used += size;
    if (size <= std::size_t{64} << 20) {  // more stays zero and takes no memory until it is used
      open(at, size, true);
      std::memset(at, 0xff, size);
      open(at, size, false);
    }
    return at;
  }
  bool free(void* block) {
    const auto it = blocks_.find(static_cast<char*>(block));
    if (it == blocks_.end()) return false;
    madvise(it->first, it->second, MADV_DONTNEED);
    used -= it->second;
    blocks_.erase(it);
    return true;
  }
  bool holds(const void* p) const { return p >= base_ && p < base_ + reserved_; }
  bool holds(const void* p, std::size_t bytes) const {
    const auto it = block_of(p);
    return it != blocks_.end() && static_cast<const char*>(p) + bytes <= it->first + it->second;
  }
  void open_all(bool readable) const {
    for (const auto& [at, size] : blocks_) open(at, size, readable);
  }
  void open_at(const void* p, bool readable) const {
    if (const auto it = block_of(p); it != blocks_.end()) open(it->first, it->second, readable);
  }

  std::size_t total = 0, used = 0;

 private:
  static constexpr std::size_t huge = std::size_t{2} << 20;
  using Blocks = std::map<char*, std::size_t>;
  static std::size_t whole(std::size_t size) { return (size / huge + 1) * huge; }
  static void open(char* at, std::size_t size, bool readable) { mprotect(at, size, readable ? PROT_READ | PROT_WRITE : PROT_NONE); }
  Blocks::const_iterator block_of(const void* p) const {
    const auto it = blocks_.upper_bound(static_cast<char*>(const_cast<void*>(p)));
    return it == blocks_.begin() ? blocks_.end() : std::prev(it);
  }
  char* base_;
  std::size_t reserved_;
  Blocks blocks_;
};
Memory& memory() {
  static auto* m = new Memory;
  return *m;
}
struct Opened {
  Opened() { memory().open_all(true); }
  ~Opened() { memory().open_all(false); }
};
struct OpenedAt {
  explicit OpenedAt(const void* p) : at(p) { memory().open_at(at, true); }
  ~OpenedAt() { memory().open_at(at, false); }
  const void* at;
};

// --- fibers ------------------------------------------------------------------------------------------------------------------------------
#if defined(__x86_64__) && !defined(MIEN_EMULATOR_UCONTEXT)
#define MIEN_EMULATOR_SWITCH
#endif
struct Fiber {
  void* stack = nullptr;
  std::size_t stack_bytes = 0;
#if defined(MIEN_EMULATOR_SWITCH)
  void* top = nullptr;  // where the registers lie that the calling convention keeps
#else
  ucontext_t context;
#endif
};
Fiber host_fiber, *running = &host_fiber;  // the first is the thread that launches

#if defined(MIEN_EMULATOR_SWITCH)
extern "C" void mien_emulator_switch(void** from, void* to);
// ucontext asks the system for its signal mask at every switch, which takes thirty times as long.
asm(R"(
.text
.type mien_emulator_switch, @function
mien_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size mien_emulator_switch, .-mien_emulator_switch
)");
void begin(Fiber& f, void (*run)()) {
  void** top = reinterpret_cast<void**>((reinterpret_cast<std::uintptr_t>(f.stack) + f.stack_bytes) / 16 * 16);
  *--top = nullptr;  // run() finds the stack as after a call
  *--top = reinterpret_cast<void*>(run);
  f.top = top - 6;
}
void change(Fiber& from, Fiber& to) { mien_emulator_switch(&from.top, to.top); }
#else
void begin(Fiber& f, void (*run)()) {
  getcontext(&f.context);
  f.context.uc_stack = {f.stack, 0, f.stack_bytes};
  f.context.uc_link = nullptr;
  makecontext(&f.context, run, 0);
}
void change(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

#if defined(__SANITIZE_ADDRESS__)  // it must know the stack in use
void arrive(void* fake) { __sanitizer_finish_switch_fiber(fake, host_fiber.stack ? nullptr : const_cast<const void**>(&host_fiber.stack), host_fiber.stack_bytes ? nullptr : &host_fiber.stack_bytes); }
void switch_to(Fiber& to) {
  Fiber& from = *running;
  running = &to;
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, to.stack, to.stack_bytes);
  change(from, to);
  arrive(fake);
}
#else
void arrive(void*) {}
void switch_to(Fiber& to) {
  Fiber& from = *running;
  running = &to;
  change(from, to);
}
#endif

// --- a launch -----------------------------------------------------------------------------------------------------------------------------
struct Thread {
  Fiber* fiber;
  const Site* waits;  // where, or null
  Site site;
};
struct Warp {
  unsigned arrived, phase;
  unsigned char slots[2][warp_lanes][16];  // two, since the first of a warp may come again before the last one has read
};

// The launch that runs, and its block.
const Site* launched = nullptr;
const Work* work = nullptr;
unsigned count = 0, next = 0, ended = 0, arrived = 0, current = 0;
bool backwards = false;
Site barrier{};  // where threads wait for the block
std::size_t static_shared = 0, given_shared = 0;
Thread threads[most_threads];
Warp warps[most_threads / warp_lanes];
unsigned ready[most_threads], first_ready = 0, ready_count = 0;
std::vector<Fiber*>& idle = *new std::vector<Fiber*>;
alignas(128) unsigned char dynamic[most_shared];
std::uint64_t launches_done = 0;
std::map<const void*, std::size_t> allowed_shared;  // cudaFuncSetAttribute

unsigned in_order(unsigned i, unsigned of) { return backwards ? of - 1 - i : i; }
void become(unsigned t) {
  current = t;
  if (block_size.y * block_size.z == 1) {
    thread_index = {t, 0, 0};
  } else {
    thread_index = {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
  }
}
void push_ready(unsigned t) { ready[(first_ready + ready_count++) % most_threads] = t; }

void run_threads();
Fiber* make_fiber() {
  auto* f = new Fiber;
  f->stack = mmap(nullptr, fiber_stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (f->stack == MAP_FAILED) std::abort();
  mprotect(f->stack, page, PROT_NONE);
  // Stacks that began at equal places of their pages would all lie in the same few lines of the cache.
  static std::size_t made = 0;
  f->stack_bytes = fiber_stack - made++ % 128 * 576;
  begin(*f, run_threads);
  return f;
}
Fiber* idle_fiber() {
  if (idle.empty()) return make_fiber();
  Fiber* f = idle.back();
  idle.pop_back();
  return f;
}

[[noreturn]] void stuck() {
  std::string where;
  for (unsigned t = 0; t < count; ++t) {
    if (!threads[t].waits || (t > 0 && threads[t - 1].waits && threads[t - 1].site.line == threads[t].site.line)) continue;
    unsigned last = t;
    while (last + 1 < count && threads[last + 1].waits && threads[last + 1].site.line == threads[t].site.line) ++last;
    where += "\n  threads " + std::to_string(t) + " to " + std::to_string(last) + " wait in " + threads[t].site.name + " at " + threads[t].site.file + ":" + std::to_string(threads[t].site.line);
  }
  broken("not all threads of a block come to a barrier or shuffle; %u of %u have ended%s", ended, count, where.c_str());
}

// What runs now that the current thread waits or has ended.
Fiber& pick() {
  if (ready_count > 0) {
    become(ready[first_ready]);
    first_ready = (first_ready + 1) % most_threads;
    --ready_count;
    return *threads[current].fiber;
  }
  if (next < count) return *idle_fiber();
  if (ended == count) return host_fiber;
  stuck();
}
void go_on(Fiber& to) {
  if (&to != running) switch_to(to);
}
// A fiber runs thread after thread; one that waits keeps it.
void run_threads() {
  arrive(nullptr);
  for (;;) {
    while (next < count) {
      become(in_order(next++, count));
      threads[current] = {running, nullptr, {}};
      work->thread();
      ++ended;
    }
    idle.push_back(running);
    switch_to(pick());
  }
}
void wait(const Site& site) {
  Thread& t = threads[current];
  t.site = site;
  t.waits = &t.site;
}

void run_block() {
  ++block_number;
  next = ended = arrived = first_ready = ready_count = 0;
  static_shared = 0;
  for (unsigned w = 0; w * warp_lanes < count; ++w) warps[w].arrived = warps[w].phase = 0;
  if (given_shared) std::memset(dynamic, 0xff, given_shared);
  switch_to(pick());
}

// --- crashes: which kernel it was ----------------------------------------------------------------------------------------------------------
void describe(char* text, std::size_t size) {
  std::snprintf(text, size, "kernel %s launched at %s:%d, block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u)", launched ? launched->name : "?", launched ? launched->file : "?",
                launched ? launched->line : 0, block_index.x, block_index.y, block_index.z, grid_size.x, grid_size.y, grid_size.z, thread_index.x, thread_index.y, thread_index.z, block_size.x,
                block_size.y, block_size.z);
}
struct sigaction before_us;
void crashed(int, siginfo_t* info, void*) {
  char where[1024], text[1280];
  describe(where, sizeof where);
  const int length = std::snprintf(text, sizeof text, "emulated GPU: an access to %p, which is %s\n  in %s\n", info->si_addr,
                                   memory().holds(info->si_addr) ? "in no allocation of the device" : "no memory", where);
  if (write(2, text, static_cast<std::size_t>(length)) < 0) std::abort();
  sigaction(SIGSEGV, &before_us, nullptr);  // and again, for whoever was asked before
}
struct Watched {
  Watched() {
    struct sigaction ours {};
    ours.sa_sigaction = crashed;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &ours, &before_us);
  }
  ~Watched() { sigaction(SIGSEGV, &before_us, nullptr); }
};

// --- MIEN_EMULATOR_REPORT=1: how often every kernel ran, and how long, when the program ends --------------------------------------------------
struct Seen {
  std::uint64_t launches = 0, blocks = 0;
  double seconds = 0;
};
using Report = std::map<std::string, Seen>;
Report* seen() {
  static Report* r = [] {
    if (!std::getenv("MIEN_EMULATOR_REPORT")) return static_cast<Report*>(nullptr);
    static Report all;
    std::atexit([] {
      for (const auto& [where, s] : all) std::fprintf(stderr, "%10.3f s %9lu launches %11lu blocks  %s\n", s.seconds, static_cast<unsigned long>(s.launches), static_cast<unsigned long>(s.blocks), where.c_str());
    });
    return &all;
  }();
  return r;
}

void run(const Site& site, const Config& config, const Work& the_work) {
  const Lock lock(machine());
  const auto began = std::chrono::steady_clock::now();
  const Opened opened;
  const Watched watched;
  launched = &site;
  work = &the_work;
  grid_size = config.grid;
  block_size = config.block;
  count = config.block.x * config.block.y * config.block.z;
  given_shared = config.shared;
  backwards = launches_done++ % 2 == 1;
  const std::uint64_t blocks = std::uint64_t{grid_size.x} * grid_size.y * grid_size.z;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t b = backwards ? blocks - 1 - i : i;
    block_index = {static_cast<unsigned>(b % grid_size.x), static_cast<unsigned>(b / grid_size.x % grid_size.y), static_cast<unsigned>(b / grid_size.x / grid_size.y)};
    run_block();
  }
  launched = nullptr;
  if (Report* all = seen()) {
    Seen& s = (*all)[std::string(site.file) + ":" + std::to_string(site.line) + " " + site.name];
    ++s.launches;
    s.blocks += blocks;
    s.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }
}

// Runs `f` now, or when the graph does that the stream records.
template <class F>
cudaError_t put(cudaStream_t stream, F&& f) {
  const Lock lock(machine());
  if (stream && stream->capture) stream->capture->work.emplace_back(std::forward<F>(f));
  else f();
  return cudaSuccess;
}

thread_local cudaStream_t recorded = nullptr;  // the stream whose recording this thread began
// What asks the driver for something, or waits, must not be called meanwhile; the recording is lost.
bool forbidden() {
  if (recorded) recorded->spoilt = true;
  return recorded != nullptr;
}

}  // namespace

void fail_next(const char* function, cudaError_t status, int passing) {
  const Lock lock(machine());
  failing = function;
  failure = status;
  still_passing = passing;
}
int graphs_alive() { return graphs; }

void broken(const char* format, ...) {
  char what[4096], where[1024];
  va_list list;
  va_start(list, format);
  std::vsnprintf(what, sizeof what, format, list);
  va_end(list);
  describe(where, sizeof where);
  std::fprintf(stderr, "emulated GPU: %s\n  in %s\n", what, where);
  std::fflush(stderr);
  std::abort();
}

void submit(const Site& site, const Config& config, const void* function, Work* given) {
  const std::shared_ptr<const Work> the_work(given);
  const Lock lock(machine());
  if (planned("launch") != cudaSuccess) return;
  const dim3 &g = config.grid, &b = config.block;
  const bool sizes_fit = g.x > 0 && g.y > 0 && g.z > 0 && b.x > 0 && b.y > 0 && b.z > 0 && g.x <= 0x7fffffffu && g.y <= 65535 && g.z <= 65535 && b.x <= 1024 && b.y <= 1024 && b.z <= 64 &&
                         std::uint64_t{b.x} * b.y * b.z <= most_threads;
  const auto allowed = allowed_shared.find(function);
  if (!sizes_fit) report(cudaErrorInvalidConfiguration);
  else if (config.shared > (allowed == allowed_shared.end() ? plain_shared : allowed->second)) report(cudaErrorInvalidValue);
  else put(config.stream, [=] { run(site, config, *the_work); });
}

void fresh(void* memory, std::size_t bytes) {
  std::memset(memory, 0xff, bytes);
  static_shared += bytes;
  if (static_shared > plain_shared || static_shared + given_shared > most_shared) broken("%zu bytes of shared memory, %zu of them dynamic", static_shared + given_shared, given_shared);
}
void* dynamic_shared() { return dynamic; }

void sync_threads(const Site& site) {
  if (count == 1) return;
  wait(site);
  // A GPU would take two barriers of one block for one; the language forbids it.
  if (arrived > 0 && (barrier.line != site.line || std::strcmp(barrier.file, site.file) != 0)) broken("threads of a block meet in two places, %s:%d and %s:%d", barrier.file, barrier.line, site.file, site.line);
  barrier = site;
  if (++arrived == count) {
    arrived = 0;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned t = in_order(i, count);
      threads[t].waits = nullptr;
      push_ready(t);
    }
  }
  go_on(pick());
}

const unsigned char* exchange(const Site& site, unsigned mask, const void* mine, std::size_t bytes, unsigned& lane, unsigned& lanes) {
  const unsigned w = current / warp_lanes;
  lane = current % warp_lanes;
  lanes = std::min(warp_lanes, count - w * warp_lanes);
  if (mask != 0xffffffffu) broken("%s:%d: a shuffle or vote of part of a warp, which is not emulated", site.file, site.line);
  Warp& warp = warps[w];
  const unsigned char* all = warp.slots[warp.phase & 1][0];
  std::memcpy(warp.slots[warp.phase & 1][lane], mine, bytes);
  wait(site);
  if (++warp.arrived == lanes) {
    warp.arrived = 0;
    ++warp.phase;
    for (unsigned i = 0; i < lanes; ++i) {
      const unsigned t = w * warp_lanes + in_order(i, lanes);
      threads[t].waits = nullptr;
      push_ready(t);
    }
  }
  go_on(pick());
  return all;
}

}  // namespace mien_emulator

// --- the CUDA run-time ---------------------------------------------------------------------------------------------------------------------
using namespace mien_emulator;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t e = last_error;
  last_error = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "another error";
  }
}
const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }

// library.cpp is compiled with this for dlopen: there are no cuBLAS and no cuDNN, their entries decline.
void* mien_emulated_dlopen(const char*, int) { return nullptr; }

cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t e = planned("cudaSetDevice")) return e;
  return report(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device != 0) return report(cudaErrorInvalidDevice);
  *p = {};
  std::strcpy(p->name, "emulated GPU");
  p->major = 7;
  p->minor = 5;
  p->multiProcessorCount = 4;
  p->totalGlobalMem = memory().total;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Lock lock(machine());
  *total = memory().total;
  *free = *total - memory().used;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  const Lock lock(machine());
  if (forbidden()) return report(cudaErrorStreamCaptureUnsupported);
  *block = memory().allocate(std::max<std::size_t>(bytes, 1));
  return report(*block ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* block) {
  const Lock lock(machine());
  if (!block) return cudaSuccess;
  if (forbidden()) return report(cudaErrorStreamCaptureUnsupported);
  return report(memory().free(block) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void** block, std::size_t bytes, unsigned) {
  if (forbidden()) return report(cudaErrorStreamCaptureUnsupported);
  *block = std::aligned_alloc(page, (std::max<std::size_t>(bytes, 1) + page - 1) / page * page);
  return report(*block ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* block) {
  std::free(block);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(machine());
  if (bytes == 0) return cudaSuccess;
  const bool to_device = memory().holds(to), from_device = memory().holds(from);
  const bool fits = (!to_device || memory().holds(to, bytes)) && (!from_device || memory().holds(from, bytes));
  const bool said = kind == cudaMemcpyDefault || (to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
                                                  from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice));
  if (!fits || !said) return report(cudaErrorInvalidValue);
  return put(stream, [=] {
    const OpenedAt there(to), here(from);
    std::memmove(to, from, bytes);
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(machine());
  if (!memory().holds(to, bytes)) return report(cudaErrorInvalidValue);
  return put(stream, [=] {
    const OpenedAt there(to);
    std::memset(to, value, bytes);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return *s = new CUstream_st, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t s) { return delete s, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return report(forbidden() ? cudaErrorStreamCaptureUnsupported : cudaSuccess); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return *e = new CUevent_st, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return report(forbidden() ? cudaErrorStreamCaptureUnsupported : cudaSuccess); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  const Lock lock(machine());
  if (!s || s->capture || recorded) return report(cudaErrorStreamCaptureUnsupported);
  s->capture = new CUgraph_st;
  s->spoilt = false;
  recorded = s;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  const Lock lock(machine());
  *graph = s->spoilt ? nullptr : s->capture;
  if (s->spoilt) delete s->capture;
  s->capture = nullptr;
  recorded = nullptr;
  return report(*graph ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  if (const cudaError_t e = planned("cudaGraphInstantiate")) return e;
  *made = new CUgraphExec_st;
  (*made)->work = graph->work;
  ++graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return --graphs, delete graph, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return put(stream, [work = graph->work] {
    for (const auto& one : work) one();
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) { return *attributes = {}, planned("cudaFuncGetAttributes"); }
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const Lock lock(machine());
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || static_cast<std::size_t>(value) > most_shared) return report(cudaErrorInvalidValue);
  allowed_shared[function] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

}  // extern "C"
