#include "measure.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "mien/kernels/kernel.h"
#include "mien/tensor/error.h"

namespace mien::bench {
namespace {

double milliseconds(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}

// CPU time of every process since the machine started; negative where it can't be read.
double all_cpu_ms() {
  std::ifstream file("/proc/stat");
  std::string word;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0;
  if (!(file >> word >> user >> nice >> system >> idle >> wait >> irq >> soft)) return -1;
  return 1e3 * (user + nice + system + irq + soft) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::atomic<std::int64_t> macs{0};
thread_local std::vector<OpTime>* op_times = nullptr;  // where profile() wants them

// The work is output values times the length of the sum behind each; a gradient does the same multiplications as its forward pass, so the weight and the
// output (or its gradient) always tell: in: x, w -> y; gy, w -> gx; gy, x -> gw.
std::int64_t macs_of(const char* op, std::span<const View> in, std::span<const View> out) {
  const auto is = [&](const char* name) { return std::strcmp(op, name) == 0; };
  std::int64_t n = 0;
  if (is("conv2d")) n = out[0].numel() * (in[1].numel() / std::max<std::int64_t>(in[1].shape[0], 1));
  else if (is("conv2d_grad_input") || is("conv2d_grad_input_add")) n = in[0].numel() * (in[1].numel() / std::max<std::int64_t>(in[1].shape[0], 1));
  else if (is("conv2d_grad_weight")) n = in[0].numel() * (out[0].numel() / std::max<std::int64_t>(out[0].shape[0], 1));
  else if (is("matmul") || is("linear")) n = out[0].numel() * in[0].shape[in[0].rank() - 1];
  // Convolution, activation and pooling in one: the convolution has stride 1 and no padding. The backward op's first output is empty when nobody wants it.
  const auto block = [](const View& x, const View& w) { return x.shape[0] * (x.shape[2] - w.shape[2] + 1) * (x.shape[3] - w.shape[3] + 1) * w.numel(); };
  if (is("conv_block")) n = block(in[0], in[1]);
  else if (is("conv_block_backward")) n = block(in[1], in[2]) * (out[0].numel() > 0 ? 2 : 1);
  if (is("norm_conv")) n = out[0].numel() * (in[1].numel() / in[1].shape[0]);
  else if (is("norm_conv_backward")) n = 2 * in[0].numel() * (in[7].numel() / in[7].shape[0]);
  return n;
}
void count(const char* op, std::span<const View> in, std::span<const View> out) { macs.fetch_add(macs_of(op, in, out), std::memory_order_relaxed); }

// The time between two calls is the first one's: it holds what happens between ops, too.
void note(const char* op, std::span<const View> in, std::span<const View> out) {
  if (!op_times) return;
  const double now = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
  if (!op_times->empty()) op_times->back().ms += now;
  std::string operands;
  for (const View& v : in.first(std::min<std::size_t>(in.size(), 2))) operands += (operands.empty() ? "" : " ") + to_string(v.shape);
  if (!out.empty()) operands += " -> " + to_string(out[0].shape);
  op_times->push_back({op, operands, 1, -now, 2e-9 * static_cast<double>(macs_of(op, in, out))});
}

struct Observed {
  explicit Observed(KernelObserver observer) : before(set_kernel_observer(observer)) {}
  KernelObserver before;
  ~Observed() { set_kernel_observer(before); }
};

}  // namespace

Clock Clock::now() { return {milliseconds(CLOCK_MONOTONIC), milliseconds(CLOCK_PROCESS_CPUTIME_ID)}; }

Spread spread_of(std::vector<double> v) {
  if (v.empty()) throw ValueError("spread_of", "needs at least one value");
  std::sort(v.begin(), v.end());
  const auto at = [&](double share) { return v[static_cast<std::size_t>(share * static_cast<double>(v.size() - 1) + .5)]; };
  return {at(.5), at(.1), at(.9)};
}

std::int64_t count_macs(const std::function<void()>& work) {
  const Observed guard(count);
  const std::int64_t before = macs.load();
  work();
  return macs.load() - before;
}

std::vector<OpTime> profile(const std::function<void()>& work) {
  std::vector<OpTime> all;
  {
    const Observed guard(note);
    op_times = &all;
    work();
    op_times = nullptr;
  }
  if (!all.empty()) all.back().ms += milliseconds(CLOCK_PROCESS_CPUTIME_ID);
  std::map<std::pair<std::string, std::string>, OpTime> alike;
  for (const OpTime& t : all) {
    OpTime& sum = alike.try_emplace({t.op, t.operands}, OpTime{t.op, t.operands}).first->second;
    sum.calls += t.calls, sum.ms += t.ms, sum.gflop += t.gflop;
  }
  std::vector<OpTime> out;
  for (const auto& [key, t] : alike) out.push_back(t);
  std::sort(out.begin(), out.end(), [](const OpTime& a, const OpTime& b) { return a.ms > b.ms; });
  return out;
}

Figures measure(const std::function<void()>& work, int runs) {
  Figures f;
  work();
  work();  // memory that the first run's results keep is touched for the first time in the second
  const double everyone = all_cpu_ms();
  const Clock start = Clock::now();
  std::vector<double> wall, cpu;
  while (runs > 0 ? static_cast<int>(wall.size()) < runs : wall.size() < 3 || (wall.size() < 1000 && Clock::now().wall_ms - start.wall_ms < 3000)) {
    const Clock a = Clock::now();
    work();
    const Clock b = Clock::now();
    wall.push_back(b.wall_ms - a.wall_ms);
    cpu.push_back(b.cpu_ms - a.cpu_ms);
  }
  const Clock end = Clock::now();
  f.runs = static_cast<int>(wall.size());
  f.wall_ms = spread_of(wall);
  f.cpu_ms = spread_of(cpu);
  if (everyone >= 0) f.foreign_cpus = std::max(0.0, (all_cpu_ms() - everyone - (end.cpu_ms - start.cpu_ms)) / (end.wall_ms - start.wall_ms));
  return f;
}

Machine machine() {
  Machine m;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) m.cpus = CPU_COUNT(&set);
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && (m.model.empty() || m.features.empty());) {
    const auto colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.rfind("model name", 0) == 0) m.model = value;
    if (line.rfind("flags", 0) == 0) {
      std::istringstream words(value);
      for (std::string w; words >> w;)
        for (const char* known : {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"})
          if (w == known) m.features.push_back(w);
    }
  }
  return m;
}

std::int64_t peak_resident_bytes() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

}  // namespace mien::bench
