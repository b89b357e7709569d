// What tensor/device_backend.h asks, answered by the CUDA run-time (linked statically: it loads the driver when it is first called).
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <string>

#include "mien/kernels/cuda/backend.h"
#include "mien/kernels/cuda/probe.h"
#include "mien/tensor/device_backend.h"
#include "mien/tensor/error.h"

namespace mien::cuda {

namespace {
// After these the process can do nothing more on the device ("the process must be terminated and relaunched", says CUDA).
bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorContextIsDestroyed:
    case cudaErrorExternalDevice: return true;
    default: return false;
  }
}
// What is told here, or matters to nobody, is not left behind for the next launch to find.
void forget(cudaError_t status) noexcept {
  if (status != cudaSuccess) cudaGetLastError();
}
}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  forget(status);
  const std::string text = std::string("CUDA reports ") + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")";
  if (is_lost(status)) throw DeviceLost(what, "the device is lost to this process: " + text, "Start the program anew: what it saved is intact.");
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(what, text, "Use a smaller batch or picture.");
  throw DeviceError(what, text, status == cudaErrorDevicesUnavailable ? "Another process holds the device: wait for it, or use another one." : "");
}

namespace {

cudaStream_t queue(void* stream) { return static_cast<cudaStream_t>(stream); }
std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

class CudaBackend final : public DeviceBackend {
 public:
  int count(std::string& why) override {
    int n = 0;
    const cudaError_t status = cudaGetDeviceCount(&n);
    if (status == cudaSuccess && n > 0) return n;
    forget(status);
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) why = "no NVIDIA driver was found";
    else if (status == cudaErrorInsufficientDriver)
      why = "the NVIDIA driver knows CUDA " + version(driver) + ", this build needs " + version(runtime) + " or newer";
    else if (status == cudaErrorNoDevice || status == cudaSuccess) why = "the NVIDIA driver sees no GPU";
    else why = std::string("CUDA reports ") + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")";
    return 0;
  }

  void use(int device) override { check(cudaSetDevice(device), "device"); }  // cheap when nothing changes

  std::string unsupported(int device) override {
    use(device);
    const cudaError_t status = probe();
    if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction) {
      check(status, "device");
      return {};
    }
    forget(status);
    const DeviceInfo i = info(device);
    return "this build has no kernels for " + i.name + " (compute capability " + std::to_string(i.major) + "." + std::to_string(i.minor) +
           "): " + cudaGetErrorString(status);
  }

  DeviceInfo info(int device) override {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, device), "device");
    return {p.name, p.major, p.minor, p.multiProcessorCount, static_cast<std::int64_t>(p.totalGlobalMem)};
  }

  DeviceMemory memory(int device) override {
    use(device);
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "device");
    return {static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)};
  }

  void* allocate(int device, std::int64_t bytes) override {
    use(device);
    void* block = nullptr;
    const cudaError_t status = cudaMalloc(&block, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) return forget(status), nullptr;
    check(status, "device");
    return block;
  }
  void deallocate(int device, void* block) noexcept override {
    forget(cudaSetDevice(device));
    forget(cudaFree(block));
  }
  void* allocate_host(std::int64_t bytes) override {
    void* block = nullptr;
    const cudaError_t status = cudaHostAlloc(&block, static_cast<std::size_t>(bytes), cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) return forget(status), nullptr;
    check(status, "device");
    return block;
  }
  void deallocate_host(void* block) noexcept override { forget(cudaFreeHost(block)); }

  void* make_stream(int device) override {
    use(device);
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    return stream;
  }
  void drop_stream(int device, void* stream) noexcept override {
    forget(cudaSetDevice(device));
    forget(cudaStreamDestroy(queue(stream)));
  }
  void synchronize(int device, void* stream) override {
    use(device);
    check(cudaStreamSynchronize(queue(stream)), "synchronize");
  }
  void copy(int device, void* to, const void* from, std::int64_t bytes, CopyKind kind, void* stream) override {
    use(device);
    const cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kinds[static_cast<int>(kind)], queue(stream)), "copy");
  }

  void* record(int device, void* stream) override {
    use(device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    check(cudaEventRecord(event, queue(stream)), "event");
    return event;
  }
  bool passed(void* event) override {
    const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(event));
    if (status == cudaErrorNotReady) return forget(status), false;
    check(status, "event");
    return true;
  }
  void wait(int device, void* stream, void* event) override {
    use(device);
    check(cudaStreamWaitEvent(queue(stream), static_cast<cudaEvent_t>(event)), "event");
  }
  void drop_event(void* event) noexcept override { forget(cudaEventDestroy(static_cast<cudaEvent_t>(event))); }

  void begin_range(const char* name) noexcept override { nvtxRangePushA(name); }
  void end_range() noexcept override { nvtxRangePop(); }

  void begin_capture(int device, void* stream) override {
    use(device);
    check(cudaStreamBeginCapture(queue(stream), cudaStreamCaptureModeThreadLocal), "graph");
  }
  void* end_capture(int device, void* stream) override {
    use(device);
    cudaGraph_t graph = nullptr;
    if (const cudaError_t status = cudaStreamEndCapture(queue(stream), &graph); status != cudaSuccess || !graph) return forget(status), nullptr;
    cudaGraphExec_t made = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "graph");
    return made;
  }
  void launch(int device, void* graph, void* stream) override {
    use(device);
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), queue(stream)), "graph");
  }
  void drop_graph(void* graph) noexcept override { forget(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph))); }
};

}  // namespace
}  // namespace mien::cuda

extern "C" mien::DeviceBackend* mien_cuda_backend() {
  static auto* backend = new mien::cuda::CudaBackend;  // leaked on purpose: tensors of static duration give their memory back to it
  return backend;
}
