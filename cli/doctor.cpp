// mien doctor: what this machine and this build can do, and whether the fast kernels agree with the reference here.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "commands.h"
#include "exit_codes.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/tensor/error.h"

namespace mien::cli {
namespace {

// The same convolution at every level and on the GPUs against the reference; on tiles as bf16x3, which they compute alone.
bool self_test(const std::vector<Device>& gpus) {
  const NoGrad guard;
  const Level before = max_cpu_level();
  manual_seed(1);
  const Tensor x = channels_last(randn({2, 5, 13, 17})), w = randn({7, 5, 3, 3});
  set_max_cpu_level(Level::ref);
  const auto expected = conv2d(x, w).to_vector();
  bool good = true;
  for (const Level l : {Level::base, Level::avx2, Level::avx512, Level::amx}) {
    if (l > machine_cpu_level()) continue;
    set_max_cpu_level(l);
    set_matmul_precision(l == Level::amx ? Precision::bf16x3 : Precision::f32);
    const auto got = conv2d(x, w).to_vector();
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
    const double allowed = l == Level::amx ? 1e-3 : 1e-4;  // sums of 45 products; bf16x3 errs by up to 5e-5 of each
    std::printf("self-test %s: largest difference %.1e%s\n", name(l), worst, worst < allowed ? "" : "  WRONG");
    good = good && worst < allowed;
  }
  set_max_cpu_level(before);
  set_matmul_precision(Precision::f32);
  for (const Device gpu : gpus) {
    const auto got = conv2d(to(x, gpu), to(w, gpu)).to_vector();
    double worst = 0;
    for (std::size_t k = 0; k < got.size(); ++k) worst = std::max(worst, std::abs(got[k] - expected[k]));
    std::printf("self-test %s: largest difference %.1e%s\n", to_string(gpu).c_str(), worst, worst < 1e-4 ? "" : "  WRONG");
    good = good && worst < 1e-4;
  }
  return good;
}

int doctor() {
  std::printf("%s\n", version_text().c_str());
  const int count = cuda_device_count();
  if (count == 0) std::printf("GPU: none (%s)\n", why_no_cuda().c_str());
  std::vector<Device> gpus;  // that can be used
  for (int i = 0; i < count; ++i) {
    try {
      gpus.push_back(Device::cuda(i));
      std::printf("GPU: %s\n", describe(gpus.back()).c_str());
    } catch (const Error& e) {
      std::printf("GPU: cuda:%d can't be used (%s)\n", i, e.what());
    }
  }
  std::error_code error;
  const auto space = std::filesystem::space(".", error);
  if (!error) std::printf("free disk here: %.1f GiB\n", static_cast<double>(space.available) / (1 << 30));
  try {
    std::printf("weights: %s\n", find_weights("", "mtcnn.safetensors").c_str());
  } catch (const Error& e) {
    std::printf("weights: none (%s)\n", e.what());
  }
  if (self_test(gpus)) return 0;
  std::fprintf(stderr, "mien: a fast kernel computes something else than the reference. Set MIEN_MAX_ISA to a level that is right and report it.\n");
  return code(Exit::internal);
}

}  // namespace

Run add_doctor(CLI::App&) { return doctor; }

}  // namespace mien::cli
