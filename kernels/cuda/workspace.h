// How kernels and the libraries' entries cut args.workspace.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mien::cuda {

// Pieces of args.workspace, 256-byte aligned. The same sequence of sizes through `workspace_bytes` gives what to book.
class Workspace {
 public:
  explicit Workspace(void* base = nullptr) : base_(static_cast<std::byte*>(base)) {}
  void* take(std::int64_t bytes) {
    void* at = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return at;
  }
  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take(count * static_cast<std::int64_t>(sizeof(T))));
  }
  std::int64_t bytes() const noexcept { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

}  // namespace mien::cuda
