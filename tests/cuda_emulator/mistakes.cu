// Kernels with one mistake each: the emulated GPU must see it, in a process of its own, and say which it was. Ends with 0 when it saw all.
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr int threads = 64;
float* out = nullptr;  // on the device: `threads` values

// Neighbours' values through shared memory; each mistake is left out of it or put into it.
enum Mistake { none, barrier_missing, barrier_missing_backwards, barrier_for_half, two_barriers, shuffle_for_half, shared_not_written, beyond };
template <int M>
__global__ void __launch_bounds__(threads) neighbours(float* y) {
  __shared__ float values[threads];
  const int t = static_cast<int>(threadIdx.x);
  if (M != shared_not_written || t != 5) values[t] = static_cast<float>(t);
  if (M == barrier_for_half) {
    if (t < 32) __syncthreads();
  } else if (M == two_barriers) {
    if (t < 32) __syncthreads();
    else __syncthreads();
  } else if (M != barrier_missing && M != barrier_missing_backwards) {
    __syncthreads();
  }
  float v = values[M == barrier_missing_backwards ? (t + threads - 1) % threads : (t + 1) % threads];
  if (M == shuffle_for_half && t % 2 == 0) v = __shfl_down_sync(0xffffffffu, v, 1);
  y[M == beyond ? t + (1 << 20) : t] = v;
}
template <int M>
void launch() {
  neighbours<M><<<1, threads, 0, nullptr>>>(out);
}
__global__ void __launch_bounds__(32) small(float* y) { y[threadIdx.x] = 1; }

// Ran through with the right values.
bool right(int shift) {
  std::vector<float> y(threads);
  if (cudaPeekAtLastError() != cudaSuccess || cudaMemcpyAsync(y.data(), out, threads * sizeof(float), cudaMemcpyDeviceToHost, nullptr) != cudaSuccess) return false;
  for (int t = 0; t < threads; ++t)
    if (y[static_cast<std::size_t>(t)] != static_cast<float>((t + shift + threads) % threads)) return false;
  return true;
}

int failures = 0;
constexpr int survived = 42;
// `run` in another process: its answer, or that it crashed with `says` among its words.
template <class F>
void expect(const char* name, const char* says, const F& run) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    if (cudaMalloc(reinterpret_cast<void**>(&out), threads * sizeof(float)) != cudaSuccess) _exit(survived);
    _exit(run() ? 0 : survived);
  }
  close(ends[1]);
  std::string text;
  char part[512];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;  // sanitizers end a process that crashes with a code of their own
  const bool seen = says ? code != 0 && code != survived && text.find(says) != std::string::npos : code == 0;
  std::printf("%-28s %s\n", name, seen ? "seen" : "NOT SEEN");
  if (!seen) std::printf("%s\n", text.c_str());
  failures += !seen;
}

}  // namespace

int main() {
  expect("no mistake", nullptr, [] { return launch<none>(), right(1) && (launch<none>(), right(1)); });
  // Whichever way threads must wait for each other, one of two launches goes the other way.
  expect("a missing barrier", nullptr, [] { return launch<barrier_missing>(), !right(1) || (launch<barrier_missing>(), !right(1)); });
  expect("the same, backwards", nullptr, [] { return launch<barrier_missing_backwards>(), !right(-1) || (launch<barrier_missing_backwards>(), !right(-1)); });
  expect("shared memory not written", nullptr, [] { return launch<shared_not_written>(), !right(1); });
  expect("a barrier for half a block", "not all threads of a block come to a barrier", [] { return launch<barrier_for_half>(), false; });
  expect("barriers in two places", "threads of a block meet in two places", [] { return launch<two_barriers>(), false; });
  expect("a shuffle for half a warp", "not all threads of a block come to a barrier or shuffle", [] { return launch<shuffle_for_half>(), false; });
  expect("an access beyond the memory", "in no allocation of the device", [] { return launch<beyond>(), false; });
  expect("the host reads the device", "", [] { return *out > 0; });
  expect("a block above its bounds", "larger than its __launch_bounds__(32)", [] {
    small<<<1, threads, 0, nullptr>>>(out);
    return false;
  });
  expect("a block above CUDA's limits", nullptr, [] {
    small<<<1, 2048, 0, nullptr>>>(out);
    return cudaGetLastError() == cudaErrorInvalidConfiguration;
  });
  expect("a copy in the wrong direction", nullptr, [] {
    float here = 0;
    return cudaMemcpyAsync(&here, out, sizeof here, cudaMemcpyHostToDevice, nullptr) == cudaErrorInvalidValue;
  });
  expect("an allocation in a recording", nullptr, [] {
    cudaStream_t stream;
    cudaGraph_t graph;
    void* more;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    return cudaMalloc(&more, 1) == cudaErrorStreamCaptureUnsupported && cudaStreamEndCapture(stream, &graph) != cudaSuccess;
  });
  return failures;
}
