// Tensor: an intrusive handle to {storage, offset, shape, strides, dtype, lazy autograd meta}. Copying a Tensor copies the handle; views share
// the storage. This header holds data and does no arithmetic: that is ops/ (mien::add, mien::reshape, ...).
//
//   Tensor x = Tensor::from({1.f, 2.f, 3.f, 4.f}, {2, 2});
//   float  v = x.at<float>({1, 0});
//   for (float& e : x.span<float>()) e *= 2;      // contiguous tensors only
//
// Order: images are logical [N, C, H, W]; channels_last is a stride order of the same logical tensor.
// Thread safety: handles count atomically; reading one tensor from many threads is safe, writing needs the caller's lock.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "mien/tensor/allocator.h"
#include "mien/tensor/device.h"
#include "mien/tensor/view.h"

namespace mien {

// Bytes on a device and the allocator they go back to, if they are not borrowed. The version counts in-place writes; autograd compares it with the one it saved.
class Storage {
 public:
  Storage(std::int64_t bytes, Device device);
  Storage(void* borrowed, std::int64_t bytes) noexcept : data_(static_cast<std::byte*>(borrowed)), bytes_(bytes), device_(Device::cpu()) {}
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* data() noexcept { return data_; }
  std::int64_t bytes() const noexcept { return bytes_; }
  Device device() const noexcept { return device_; }
  std::uint32_t version() const noexcept { return version_.load(std::memory_order_relaxed); }
  void bump_version() noexcept { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Device device_;
  std::atomic<std::uint32_t> version_{0};
};

// What autograd hangs on a tensor; defined in autograd/.
struct AutogradMeta {
  virtual ~AutogradMeta() = default;
};

enum class Layout : std::uint8_t { contiguous, channels_last };

struct TensorImpl {
  std::atomic<std::int64_t> references{0};
  std::shared_ptr<Storage> storage;
  std::int64_t offset = 0;  // in elements
  Shape shape;
  Strides strides;
  DType dtype = DType::f32;
  std::unique_ptr<AutogradMeta> autograd;
};

class Tensor {
 public:
  Tensor() noexcept = default;  // undefined: only defined() may be asked
  Tensor(const Tensor& o) noexcept : impl_(o.impl_) { retain(); }
  Tensor(Tensor&& o) noexcept : impl_(o.impl_) { o.impl_ = nullptr; }
  Tensor& operator=(Tensor o) noexcept {
    std::swap(impl_, o.impl_);
    return *this;
  }
  ~Tensor() { release(); }

  // Uninitialised memory. Shape is logical; `layout` chooses the stride order.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Layout layout = Layout::contiguous, Device device = Device::cpu());
  // Copies of host values; the dtype follows T (float, double, int32_t, int64_t, uint8_t, bool). ShapeError if the count does not fit.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    Tensor t = empty(shape, dtype_v<T>);
    check_count(static_cast<std::int64_t>(values.size()), shape);
    std::copy(values.begin(), values.end(), t.data<T>());
    return t;
  }
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape) {
    return from(std::span<const T>(values.begin(), values.size()), shape);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  template <class T>
  static Tensor scalar(T value) {
    return from(std::span<const T>(&value, 1), Shape{});
  }
  // The caller's host memory itself, contiguous, without a copy: a camera's frame, a decoded picture. It must outlive the tensor and all that share its storage, and
  // where T is const nothing may write to them. (Pinned memory must also outlive copies to a GPU that are under way.) ShapeError if the count does not fit.
  template <class T>
  static Tensor borrow(std::span<T> values, const Shape& shape) {
    using Value = std::remove_const_t<T>;
    check_count(static_cast<std::int64_t>(values.size()), shape, "borrow");
    return on_storage(std::make_shared<Storage>(const_cast<Value*>(values.data()), static_cast<std::int64_t>(values.size_bytes())), shape, contiguous_strides(shape), dtype_v<Value>);
  }

  bool defined() const noexcept { return impl_ != nullptr; }
  explicit operator bool() const noexcept { return defined(); }
  const Shape& shape() const { return impl().shape; }
  const Strides& strides() const { return impl().strides; }
  int rank() const { return impl().shape.rank(); }
  std::int64_t size(std::int64_t dim) const { return impl().shape[normalize_dim(dim, rank(), "size")]; }  // negative counts from the end
  std::int64_t numel() const { return mien::numel(impl().shape); }
  DType dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device(); }
  bool is_contiguous() const { return view().is_contiguous(); }
  bool is_channels_last() const { return view().is_channels_last(); }
  std::uint32_t version() const { return impl().storage->version(); }

  // Address of element [0, ..., 0]. DTypeError when T is not the tensor's dtype, DeviceError when the memory is not the CPU's.
  template <class T>
  T* data() const {
    check_dtype(dtype_v<T>);
    check_host();
    return static_cast<T*>(raw_data());
  }
  // The same without checks, an address on the tensor's device.
  void* raw_data() const { return impl().storage->data() + impl().offset * item_size(impl().dtype); }
  // All elements of a contiguous tensor in order; ShapeError when it is not contiguous.
  template <class T>
  std::span<T> span() const {
    check_contiguous();
    return {data<T>(), static_cast<std::size_t>(numel())};
  }
  template <class T>
  T& at(std::initializer_list<std::int64_t> index) const {
    return data<T>()[element_offset(index)];
  }
  // The only element, as double or int64. ShapeError when there is not exactly one.
  double item() const;
  std::int64_t item_int() const;
  // Every element in logical order, whatever the strides and the dtype. For tests, printing and files.
  std::vector<double> to_vector() const;

  View view() const { return {raw_data(), impl().dtype, impl().shape, impl().strides, device()}; }
  // A new handle to the same storage with other sizes; no autograd, no copy. Ops build differentiable views on it. ShapeError outside the storage.
  Tensor as_strided(const Shape& shape, const Strides& strides, std::int64_t offset) const;
  // A new handle that has no part in autograd; shares memory.
  Tensor detach() const { return as_strided(shape(), strides(), impl().offset); }
  std::int64_t storage_offset() const { return impl().offset; }
  const std::shared_ptr<Storage>& storage() const { return impl().storage; }
  bool is_same(const Tensor& o) const noexcept { return impl_ == o.impl_; }

  TensorImpl& impl() const {
    if (!impl_) throw ValueError("tensor", "an undefined tensor was used", "Give it a value first.");
    return *impl_;
  }

 private:
  static void check_count(std::int64_t count, const Shape& shape, const char* op = "from");
  static Tensor on_storage(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides, DType dtype);
  void check_dtype(DType wanted) const;
  void check_host() const;
  void check_contiguous() const;
  std::int64_t element_offset(std::initializer_list<std::int64_t> index) const;
  void retain() const noexcept {
    if (impl_) impl_->references.fetch_add(1, std::memory_order_relaxed);
  }
  void release() noexcept;
  TensorImpl* impl_ = nullptr;
};

// The values on the CPU: x itself when it is there, else a copy without autograd (of a contiguous or channels_last tensor). What files and host code read.
Tensor on_cpu(const Tensor& x);

std::string describe(const Tensor& t);   // "f32[1, 3, 160, 160]", "undefined"
std::string to_string(const Tensor& t);  // description and up to 64 values

}  // namespace mien
