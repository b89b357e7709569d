// Time, arithmetic and memory of a piece of work, and the machine it ran on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mien::bench {

struct Clock {
  double wall_ms, cpu_ms;  // cpu: of all threads of this process
  static Clock now();
};

struct Spread {
  double median = 0, p10 = 0, p90 = 0;
};
Spread spread_of(std::vector<double> values);  // nearest rank; ValueError without values

struct Figures {
  int runs = 0;
  Spread wall_ms, cpu_ms;      // a run
  double foreign_cpus = 0;     // CPUs that other processes kept busy meanwhile (of the whole machine)
};

// Two runs of warm-up, then `runs`; 0 runs: as many as fit into 3 seconds, at least 3.
Figures measure(const std::function<void()>& work, int runs);

// The multiply-adds of every convolution and matrix product that `work` runs through run_kernel, both directions of differentiation included.
std::int64_t count_macs(const std::function<void()>& work);

// Where the time of one run of `work` goes: CPU time of each op on operands of the same shapes, the longest first. Of ops that the calling thread applies:
// a planned session calls its kernels without them.
struct OpTime {
  std::string op, operands;
  int calls = 0;
  double ms = 0, gflop = 0;  // of all calls
};
std::vector<OpTime> profile(const std::function<void()>& work);

struct Machine {
  std::string model;                  // as the operating system names it; clouds mask it
  int cpus = 0;                       // that this process may run on
  std::vector<std::string> features;  // those that matter to the kernels
};
Machine machine();
std::int64_t peak_resident_bytes();   // of this process (VmHWM), 0 where it can't be read

}  // namespace mien::bench
