// What a GPU's host code does when a call of the run-time fails: only an emulated one fails when it is told to.
#include "cuda_emulator/faults.h"

#include "catch.h"
#include "mien/ops/factory.h"
#include "mien/tensor/device_backend.h"

namespace mien::test {
namespace {

using mien_emulator::fail_next;

std::vector<double> twos(std::int64_t n) { return full({n}, 2, {.device = Device::cuda()}).to_vector(); }

// The devices as a process finds them that has used none yet.
struct Fresh {
  Fresh() { set_device_backend(device_backend()); }
  ~Fresh() { set_device_backend(device_backend()); }
};

}  // namespace

TEST_CASE("an error that passes is told once, by the call that it befell", "[faults]") {
  MIEN_NEEDS_CUDA();
  fail_next("launch", cudaErrorMemoryAllocation);
  CHECK_THROWS_AS(twos(5), OutOfMemory);
  CHECK(twos(5) == std::vector<double>(5, 2));
  fail_next("launch", cudaErrorInvalidValue);
  CHECK_THROWS_AS(twos(5), DeviceError);
  CHECK(twos(5) == std::vector<double>(5, 2));
}

TEST_CASE("errors after which a process can do nothing more on its device", "[faults]") {
  MIEN_NEEDS_CUDA();
  for (const cudaError_t e : {cudaErrorIllegalAddress, cudaErrorContained, cudaErrorTensorMemoryLeak, cudaErrorMpsClientTerminated, cudaErrorExternalDevice}) {
    INFO("error " << static_cast<int>(e));
    fail_next("launch", e);
    CHECK_THROWS_AS(twos(5), DeviceLost);
  }
}

TEST_CASE("a device without room for a context is not one without kernels", "[faults]") {
  MIEN_NEEDS_CUDA();
  const Fresh fresh;
  fail_next("cudaSetDevice", cudaErrorDevicesUnavailable);
  CHECK(Device::parse("auto").is_cpu());
  fail_next("cudaSetDevice", cudaErrorDevicesUnavailable);
  CHECK(message_of<DeviceError>([] { Device::cuda(); }).find("Another process holds the device") != std::string::npos);
  fail_next("cudaFuncGetAttributes", cudaErrorMemoryAllocation);
  CHECK(why_no_cuda().find("kernels") == std::string::npos);
  CHECK(Device::parse("auto") == Device::cuda());  // there is room again
  CHECK(twos(5) == std::vector<double>(5, 2));
}
TEST_CASE("a device that this build has no kernels for", "[faults]") {
  MIEN_NEEDS_CUDA();
  const Fresh fresh;
  fail_next("cudaFuncGetAttributes", cudaErrorNoKernelImageForDevice);
  CHECK(message_of<DeviceError>([] { Device::cuda(); }).find("this build has no kernels for emulated GPU (compute capability 7.5)") != std::string::npos);
  CHECK(Device::parse("auto").is_cpu());
}

}  // namespace mien::test
