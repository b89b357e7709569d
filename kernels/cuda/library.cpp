// Where cuBLAS and cuDNN lie, and a handle of each for every thread and device.
#include "mien/kernels/cuda/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace mien::cuda_library {
namespace {

namespace fs = std::filesystem;
using Paths = std::vector<fs::path>;

Paths split(const char* text) {
  Paths parts;
  if (!text) return parts;
  const std::string all = text;
  for (std::size_t from = 0; from <= all.size();) {
    const std::size_t colon = std::min(all.find(':', from), all.size());
    if (colon > from) parts.emplace_back(all.substr(from, colon - from));
    from = colon + 1;
  }
  return parts;
}

// Folders inside `parent` whose names begin with `prefix`. Nothing where the folder can't be read.
Paths folders(const fs::path& parent, const std::string& prefix) {
  Paths found;
  std::error_code error;
  fs::directory_iterator at(parent, error);
  while (!error && at != fs::directory_iterator()) {
    std::error_code ignored;
    if (at->path().filename().string().rfind(prefix, 0) == 0 && fs::is_directory(at->path(), ignored)) found.push_back(at->path());
    at.increment(error);
  }
  std::sort(found.begin(), found.end());  // the order of a folder's entries is the file system's affair
  return found;
}

// prefix/lib*/python3*/site-packages, and Debian's dist-packages.
void add_site_packages(const fs::path& prefix, Paths& sites) {
  for (const char* lib : {"lib", "lib64"})
    for (const auto& python : folders(prefix / lib, "python3"))
      for (const char* site : {"site-packages", "dist-packages"}) sites.push_back(python / site);
}

Paths search_folders() {
  Paths all = split(std::getenv("MIEN_CUDA_LIBRARIES"));
  for (const char* path : {"/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib", "/usr/local/cuda/targets/sbsa-linux/lib"})
    all.emplace_back(path);
  Paths sites;
  if (const char* env = std::getenv("VIRTUAL_ENV")) add_site_packages(env, sites);
  if (const char* env = std::getenv("CONDA_PREFIX")) add_site_packages(env, sites);
  for (const auto& folder : split(std::getenv("PATH"))) {
    std::error_code error;
    const fs::path python = folder / "python3";
    if (!fs::exists(python, error) || error) continue;
    add_site_packages(folder.parent_path(), sites);  // an environment's bin/python3 is a link to another prefix
    const fs::path real = fs::canonical(python, error);
    if (!error) add_site_packages(real.parent_path().parent_path(), sites);
  }
  add_site_packages("/usr", sites);
  add_site_packages("/usr/local", sites);
  for (const auto& folder : folders("/opt", "")) {
    add_site_packages(folder, sites);
    add_site_packages(folder / ".venv", sites);
    add_site_packages(folder / "venv", sites);
  }
  for (const auto& site : sites)
    for (const auto& package : folders(site / "nvidia", "")) all.push_back(package / "lib");
  return all;
}

// Opens the first of `names` that is found. `before`: a library that the first one needs, opened ahead of it from the same folder.
void* open(std::initializer_list<const char*> names, std::initializer_list<const char*> before) {
  constexpr int mode = RTLD_NOW | RTLD_GLOBAL;
  for (const char* name : names)
    if (void* library = dlopen(name, mode)) return library;
  static const Paths all = search_folders();
  for (const auto& folder : all)
    for (const char* name : names) {
      std::error_code error;
      const fs::path file = folder / name;
      if (!fs::exists(file, error) || error) continue;
      for (const char* first : before) dlopen((folder / first).c_str(), mode);  // a failure shows below
      if (void* library = dlopen(file.c_str(), mode)) return library;
    }
  return nullptr;
}

template <class F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

// What a library loaded, or why not. Made once and never dropped: handles outlive everything.
template <class Functions>
struct Loaded {
  Functions functions;
  const char* missing = nullptr;
};

const Loaded<Cublas>& loaded_cublas() {
  static const auto* loaded = [] {
    auto* l = new Loaded<Cublas>;
    try {
      // Buffers of one fixed size make cuBLAS give the same bits every time, whatever the streams. It reads this when the first handle is made.
      setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
      void* library = open({"libcublas.so.13", "libcublas.so.12"}, {"libcublasLt.so.13", "libcublasLt.so.12"});
      Cublas& f = l->functions;
      if (!library) l->missing = "cuBLAS (libcublas.so.13) was not found; MIEN_CUDA_LIBRARIES names folders to look in";
      else if (!find(library, "cublasCreate_v2", f.create) || !find(library, "cublasSetStream_v2", f.set_stream) ||
               !find(library, "cublasSetWorkspace_v2", f.set_workspace) || !find(library, "cublasSetMathMode", f.set_math_mode) ||
               !find(library, "cublasGemmStridedBatchedEx", f.gemm))
        l->missing = "cuBLAS lacks a function";
    } catch (...) {
      l->missing = "cuBLAS could not be loaded";
    }
    return l;
  }();
  return *loaded;
}

// A thread's handles, by device. A thread that ends leaves them to the next one: making one takes long, and destroying them while a program ends is not safe.
template <class Handle>
class Handles {
 public:
  template <class Make>
  Handle get(int device, const Make& make) {
    auto& mine = mine_[device];
    if (!mine) {
      const std::lock_guard lock(mutex());
      auto& spare = pool()[device];
      if (!spare.empty()) {
        mine = spare.back();
        spare.pop_back();
      }
    }
    if (!mine) mine = make();
    return mine;
  }
  ~Handles() {
    const std::lock_guard lock(mutex());
    for (const auto& [device, handle] : mine_)
      if (handle) pool()[device].push_back(handle);
  }

 private:
  static std::mutex& mutex() {
    static auto* m = new std::mutex;
    return *m;
  }
  static std::map<int, std::vector<Handle>>& pool() {
    static auto* p = new std::map<int, std::vector<Handle>>;
    return *p;
  }
  std::map<int, Handle> mine_;
};

}  // namespace

const Cublas* cublas() { return loaded_cublas().missing ? nullptr : &loaded_cublas().functions; }
const char* cublas_missing() { return loaded_cublas().missing; }

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  cuda::check(cudaPeekAtLastError(), what);  // a lost device says more about itself than the library
  throw DeviceError(what, "cuBLAS reports status " + std::to_string(static_cast<int>(status)), "");
}

cublasHandle_t cublas_handle(int device, void* stream, void* workspace) {
  static thread_local Handles<cublasHandle_t> handles;
  cuda::check(cudaSetDevice(device), "cublas");
  const Cublas& f = *cublas();
  const cublasHandle_t handle = handles.get(device, [&] {
    cublasHandle_t made = nullptr;
    check(f.create(&made), "cublas");
    // Sums that are cut stay in f32 for 16-bit results, too.
    check(f.set_math_mode(made, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)), "cublas");
    return made;
  });
  check(f.set_stream(handle, static_cast<cudaStream_t>(stream)), "cublas");  // sets the default workspace, too: so the workspace comes after
  check(f.set_workspace(handle, workspace, static_cast<std::size_t>(cublas_workspace)), "cublas");
  return handle;
}

namespace {
const Loaded<Cudnn>& loaded_cudnn() {
  static const auto* loaded = [] {
    auto* l = new Loaded<Cudnn>;
    try {
      cublas();                                     // cuDNN uses it: the one of this process, wherever it was found
      void* library = open({"libcudnn.so.9"}, {});  // it opens its own parts, from its own folder
      Cudnn& f = l->functions;
      bool whole = library != nullptr;
#define MIEN_FIND(name) whole = whole && find(library, #name, f.name);
      MIEN_CUDNN_FUNCTIONS(MIEN_FIND)
#undef MIEN_FIND
      if (!library) l->missing = "cuDNN (libcudnn.so.9) was not found; MIEN_CUDA_LIBRARIES names folders to look in";
      else if (!whole) l->missing = "cuDNN lacks a function";
      else if (const std::size_t v = f.cudnnGetVersion(); v < 90000 || v >= 100000) l->missing = "cuDNN is not of version 9";
    } catch (...) {
      l->missing = "cuDNN could not be loaded";
    }
    return l;
  }();
  return *loaded;
}
}  // namespace

const Cudnn* cudnn() { return loaded_cudnn().missing ? nullptr : &loaded_cudnn().functions; }
const char* cudnn_missing() { return loaded_cudnn().missing; }

void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  cuda::check(cudaPeekAtLastError(), what);
  throw DeviceError(what, std::string("cuDNN reports ") + cudnn()->cudnnGetErrorString(status), "");
}

cudnnHandle_t cudnn_handle(int device, void* stream) {
  static thread_local Handles<cudnnHandle_t> handles;
  cuda::check(cudaSetDevice(device), "cudnn");
  const cudnnHandle_t handle = handles.get(device, [&] {
    cudnnHandle_t made = nullptr;
    const cudnnStatus_t status = cudnn()->cudnnCreate(&made);
    // It has no handle to give, ever, for reasons of its own; without memory it is "not initialized" or has an "internal error".
    if (status > CUDNN_STATUS_NOT_INITIALIZED && status < CUDNN_STATUS_INTERNAL_ERROR) return cudnnHandle_t{};
    check(status, "cudnn");
    return made;
  });
  if (!handle) return nullptr;
  check(cudnn()->cudnnSetStream(handle, static_cast<cudaStream_t>(stream)), "cudnn");
  return handle;
}

}  // namespace mien::cuda_library
