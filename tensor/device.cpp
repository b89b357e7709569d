#include "mien/tensor/device.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "mien/tensor/device_allocator.h"
#include "mien/tensor/device_backend.h"

#if MIEN_WITH_CUDA
extern "C" mien::DeviceBackend* mien_cuda_backend();
#endif

namespace mien {
namespace {

constexpr int max_devices = 16;

// One device, opened when it is first asked for and never closed: tensors of static duration may outlive everything else. What can't be opened now (another
// process holds it, its memory is full) is asked again the next time.
struct Opened {
  std::string unusable;  // why no kernel of this build runs there
  void* main_stream = nullptr;
  std::shared_ptr<DeviceAllocator> memory;
};

struct Devices {
  std::mutex mutex;
#if MIEN_WITH_CUDA
  DeviceBackend* backend = mien_cuda_backend();
#else
  DeviceBackend* backend = nullptr;
#endif
  std::array<std::unique_ptr<Opened>, max_devices> opened;
};
Devices& devices() {
  static auto* instance = new Devices;
  return *instance;
}

thread_local std::array<void*, max_devices> chosen_stream{};  // null: the main one

constexpr const char* without_cuda = "this library was built without CUDA";

int count_devices(std::string& why) {
  DeviceBackend* backend = devices().backend;
  if (!backend) {
    why = without_cuda;
    return 0;
  }
  return std::min(backend->count(why), max_devices);
}

void* stream_of(int index);

std::int64_t memory_limit() {
  const char* text = std::getenv("MIEN_CUDA_MEMORY_LIMIT");
  return text ? parse_bytes(text) : 0;
}

Opened& open(int index) {
  Devices& d = devices();
  const std::lock_guard lock(d.mutex);
  auto& slot = d.opened[static_cast<std::size_t>(index)];
  if (!slot) {
    auto made = std::make_unique<Opened>();
    made->unusable = d.backend->unsupported(index);
    if (made->unusable.empty()) {
      made->main_stream = d.backend->make_stream(index);
      made->memory = make_device_allocator(*d.backend, index, [index] { return stream_of(index); }, memory_limit());
    }
    slot = std::move(made);
  }
  return *slot;
}

void* stream_of(int index) {
  void* chosen = chosen_stream[static_cast<std::size_t>(index)];
  return chosen ? chosen : open(index).main_stream;
}

}  // namespace

DeviceBackend* device_backend() noexcept { return devices().backend; }

DeviceBackend* set_device_backend(DeviceBackend* backend) noexcept {
  Devices& d = devices();
  const std::lock_guard lock(d.mutex);
  for (int i = 0; i < max_devices; ++i)
    if (auto& slot = d.opened[static_cast<std::size_t>(i)]) {
      slot->memory.reset();
      if (slot->main_stream) d.backend->drop_stream(i, slot->main_stream);
      slot.reset();
    }
  return std::exchange(d.backend, backend);
}

bool built_with_cuda() noexcept { return MIEN_WITH_CUDA; }

int cuda_device_count() noexcept {
  try {
    std::string why;
    return count_devices(why);
  } catch (...) {
    return 0;
  }
}

std::string why_no_cuda() {
  std::string why;
  if (count_devices(why) == 0) return why;
  try {
    return open(0).unusable;
  } catch (const DeviceError& e) {
    return e.what();
  } catch (const OutOfMemory& e) {
    return e.what();
  }
}

Device Device::cuda(int index) {
  std::string why;
  const int count = count_devices(why);
  if (count == 0)
    throw DeviceError("device", "cuda was asked for, but " + why,
                      devices().backend ? "Use Device::cpu() (--device cpu)." : "Use Device::cpu() (--device cpu), or build with -DMIEN_CUDA=ON.");
  if (index < 0 || index >= count)
    throw DeviceError("device", "cuda:" + std::to_string(index) + " was asked for, this machine has " + (count == 1 ? "cuda:0 only" : "cuda:0 to cuda:" + std::to_string(count - 1)));
  if (const auto& reason = open(index).unusable; !reason.empty()) throw DeviceError("device", reason, "Build with its architecture (-DMIEN_CUDA_ARCHITECTURES=...), or use Device::cpu().");
  return {DeviceType::cuda, index};
}

Device Device::parse(const std::string& text) {
  if (text == "cpu") return cpu();
  if (text == "auto") return why_no_cuda().empty() ? cuda() : cpu();
  if (text == "cuda") return cuda();
  if (text.rfind("cuda:", 0) == 0 && text.size() > 5 && text.find_first_not_of("0123456789", 5) == std::string::npos && text.size() < 8)
    return cuda(std::stoi(text.substr(5)));
  throw ValueError("device", "expected auto, cpu, cuda or cuda:N, got '" + text + "'");
}

std::string to_string(Device device) {
  return device.is_cpu() ? "cpu" : "cuda:" + std::to_string(device.index());
}

std::string describe(Device device) {
  if (device.is_cpu()) return "cpu";
  const DeviceInfo i = devices().backend->info(device.index());
  return to_string(device) + " " + i.name + ", compute capability " + std::to_string(i.major) + "." + std::to_string(i.minor) + ", " + std::to_string(i.memory >> 30) + " GiB";
}

Stream current_stream(Device device) {
  return device.is_cpu() ? Stream{} : Stream{device, stream_of(device.index())};
}

void make_current(Device device) {
  if (!device.is_cpu()) devices().backend->use(device.index());
}

ProfileRange::ProfileRange(Device device, const char* name) noexcept : open_(!device.is_cpu()) {
  if (open_) devices().backend->begin_range(name);
}
ProfileRange::~ProfileRange() {
  if (open_) devices().backend->end_range();
}

void synchronize(Device device) {
  if (!device.is_cpu()) devices().backend->synchronize(device.index(), current_stream(device).handle);
}

void order_after(Device later, Device earlier) {
  if (later.is_cpu() || earlier.is_cpu() || later == earlier) return;
  DeviceBackend& backend = *devices().backend;
  void* event = backend.record(earlier.index(), current_stream(earlier).handle);
  try {
    backend.wait(later.index(), current_stream(later).handle, event);
  } catch (...) {
    backend.drop_event(event);
    throw;
  }
  backend.drop_event(event);
}

StreamGuard::StreamGuard(Stream stream) : before_{stream.device, nullptr} {
  if (!stream.device.is_cpu()) before_.handle = std::exchange(chosen_stream[static_cast<std::size_t>(stream.device.index())], stream.handle);
}
StreamGuard::~StreamGuard() {
  if (!before_.device.is_cpu()) chosen_stream[static_cast<std::size_t>(before_.device.index())] = before_.handle;
}

std::shared_ptr<DeviceAllocator> device_allocator(Device device) {
  if (device.is_cpu()) throw DeviceError("device_allocator", "expects a GPU, got the CPU");
  return open(device.index()).memory;
}

std::shared_ptr<Allocator> allocator_of(Device device) {
  if (device.is_cpu()) return cpu_allocator();
  return open(device.index()).memory;
}

void copy_memory(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes) {
  if (bytes == 0) return;
  if (to_device.is_cpu() && from_device.is_cpu()) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return;
  }
  const Device device = to_device.is_cpu() ? from_device : to_device;
  const CopyKind kind = to_device.is_cpu() ? CopyKind::to_host : from_device.is_cpu() ? CopyKind::to_device : CopyKind::on_device;
  void* stream = current_stream(device).handle;
  order_after(to_device, from_device);
  devices().backend->copy(device.index(), to, from, bytes, kind, stream);
  order_after(from_device, to_device);  // between two GPUs: what is freed there serves the next work only when the copy is done
  if (to_device.is_cpu()) devices().backend->synchronize(device.index(), stream);
}

}  // namespace mien
