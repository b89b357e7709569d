// What a GPU's host code does when a call of the run-time fails: only an emulated one fails when it is told to.
#include "cuda_emulator/faults.h"

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/infer/infer.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/unary.h"
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

TEST_CASE("a run that can't be recorded is a run of calls, and no recording is left behind", "[faults]") {
  MIEN_NEEDS_CUDA();
  const NoGrad guard;
  const infer::Forward forward = [](std::span<const Tensor> x) { return std::vector<Tensor>{sigmoid(relu(x[0]))}; };
  const Tensor x = full({1, 3, 8, 8}, .5), there = to(x, Device::cuda());
  const auto plan = infer::compile(forward, {x}, {.device = Device::cuda()});
  const auto expected = forward(std::span(&there, 1))[0].to_vector();
  const int before = mien_emulator::graphs_alive();
  const auto right = [&](infer::Session& session) { return session(there).to_vector() == expected; };
  // The first launch of a run copies its input, the second is the first that is recorded; the recording then ends well.
  struct Fault {
    const char* function;
    int passing;
  };
  for (const auto& [function, passing] : {Fault{"launch", 1}, Fault{"cudaGraphInstantiate", 0}}) {
    INFO(function);
    infer::Session session(plan);
    CHECK(right(session));
    fail_next(function, cudaErrorMemoryAllocation, passing);
    CHECK(right(session));
    CHECK(mien_emulator::graphs_alive() == before);
    CHECK(right(session));  // recorded at the second try
    CHECK(mien_emulator::graphs_alive() == before + 1);
    CHECK(right(session));
  }
  CHECK(mien_emulator::graphs_alive() == before);
  infer::Session session(plan);
  CHECK(right(session));
  for (int run = 0; run < 2; ++run) {
    fail_next("launch", cudaErrorMemoryAllocation, 1);
    CHECK(right(session));
  }
  CHECK(right(session));
  CHECK(mien_emulator::graphs_alive() == before);  // it is not tried again
}

}  // namespace mien::test
