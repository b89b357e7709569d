#include "mien/tensor/tensor.h"

#include <sstream>

namespace mien {
namespace {

double element_as_double(const void* p, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::f32: return static_cast<double>(static_cast<const float*>(p)[i]);
    case DType::f64: return static_cast<const double*>(p)[i];
    case DType::bf16: return static_cast<double>(to_float(static_cast<const bfloat16*>(p)[i]));
    case DType::f16: return static_cast<double>(to_float(static_cast<const float16*>(p)[i]));
    case DType::i32: return static_cast<double>(static_cast<const std::int32_t*>(p)[i]);
    case DType::i64: return static_cast<double>(static_cast<const std::int64_t*>(p)[i]);
    case DType::u8: return static_cast<double>(static_cast<const std::uint8_t*>(p)[i]);
    case DType::boolean: return static_cast<const std::uint8_t*>(p)[i] != 0 ? 1.0 : 0.0;
  }
  return 0;
}

}  // namespace

Storage::Storage(std::int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (bytes_ > 0) {
    allocator_ = allocator_of(device);
    data_ = static_cast<std::byte*>(allocator_->allocate(bytes_));
  }
}

Storage::~Storage() {
  if (allocator_) allocator_->deallocate(data_, bytes_);
}

void Tensor::release() noexcept {
  if (impl_ && impl_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete impl_;
  impl_ = nullptr;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Layout layout, Device device) {
  const std::int64_t count = mien::numel(shape);
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(count, item_size(dtype), &bytes))
    throw ShapeError("empty", "number of bytes overflows 64 bits: " + std::string(name(dtype)) + to_string(shape));
  return on_storage(std::make_shared<Storage>(bytes, device), shape, layout == Layout::channels_last ? channels_last_strides(shape) : contiguous_strides(shape), dtype);
}

Tensor Tensor::on_storage(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides, DType dtype) {
  auto impl = std::make_unique<TensorImpl>();
  impl->storage = std::move(storage);
  impl->shape = shape;
  impl->strides = strides;
  impl->dtype = dtype;
  Tensor t;
  t.impl_ = impl.release();
  t.retain();
  return t;
}

Tensor Tensor::as_strided(const Shape& shape, const Strides& strides, std::int64_t offset) const {
  if (shape.rank() != strides.rank()) throw ShapeError("as_strided", "shape " + to_string(shape) + " and strides " + to_string(strides) + " differ in rank");
  if (mien::numel(shape) > 0) {
    std::int64_t low = offset, high = offset;
    bool overflow = false;
    for (int i = 0; i < shape.rank(); ++i) {
      std::int64_t reach = 0, &end = strides[i] < 0 ? low : high;
      overflow = overflow || __builtin_mul_overflow(shape[i] - 1, strides[i], &reach) || __builtin_add_overflow(end, reach, &end);
    }
    if (overflow || low < 0 || high >= impl().storage->bytes() / item_size(dtype()))
      throw ShapeError("as_strided", "view " + to_string(shape) + " with strides " + to_string(strides) + " leaves the storage of " + describe(*this));
  }
  auto made = std::make_unique<TensorImpl>();
  made->storage = impl().storage;
  made->offset = offset;
  made->shape = shape;
  made->strides = strides;
  made->dtype = dtype();
  Tensor t;
  t.impl_ = made.release();
  t.retain();
  return t;
}

double Tensor::item() const {
  if (numel() != 1) throw ShapeError("item", "expects a tensor of one element, got " + describe(*this));
  if (device().is_cpu()) return element_as_double(raw_data(), dtype(), 0);
  std::int64_t one = 0;  // as large as any element
  copy_memory(&one, Device::cpu(), raw_data(), device(), item_size(dtype()));
  return element_as_double(&one, dtype(), 0);
}

std::int64_t Tensor::item_int() const {
  if (numel() == 1 && dtype() == DType::i64) {
    std::int64_t value = 0;
    copy_memory(&value, Device::cpu(), raw_data(), device(), 8);
    return value;
  }
  return static_cast<std::int64_t>(item());
}

std::vector<double> Tensor::to_vector() const {
  const std::int64_t count = numel();
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(count));
  // Of a tensor elsewhere, the stretch of memory that its elements lie in comes here.
  const std::byte* first = static_cast<const std::byte*>(raw_data());
  std::vector<std::byte> host;
  if (!device().is_cpu() && count > 0) {
    std::int64_t low = 0, high = 0;
    for (int d = 0; d < rank(); ++d) (strides()[d] < 0 ? low : high) += (shape()[d] - 1) * strides()[d];
    const std::int64_t size = item_size(dtype());
    host.resize(static_cast<std::size_t>((high - low + 1) * size));
    copy_memory(host.data(), Device::cpu(), first + low * size, device(), static_cast<std::int64_t>(host.size()));
    first = host.data() - low * size;
  }
  Shape index = Shape::filled(rank(), 0);
  std::int64_t position = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    out.push_back(element_as_double(first, dtype(), position));
    for (int d = rank() - 1; d >= 0; --d) {
      position += strides()[d];
      if (++index[d] < shape()[d]) break;
      position -= index[d] * strides()[d];
      index[d] = 0;
    }
  }
  return out;
}

void Tensor::check_count(std::int64_t count, const Shape& shape, const char* op) {
  if (count != mien::numel(shape))
    throw ShapeError(op, "shape " + to_string(shape) + " holds " + std::to_string(mien::numel(shape)) + " values, got " + std::to_string(count));
}

void Tensor::check_dtype(DType wanted) const {
  if (dtype() != wanted)
    throw DTypeError("data", std::string("asked for ") + name(wanted) + ", the tensor is " + describe(*this), "Cast with mien::cast first.");
}

void Tensor::check_host() const {
  if (!device().is_cpu())
    throw DeviceError("data", "asked for the values of " + describe(*this) + " on " + to_string(device()), "Copy it with mien::to(x, Device::cpu()) first; raw_data() gives the address there.");
}

void Tensor::check_contiguous() const {
  if (!is_contiguous()) throw ShapeError("span", "expects a contiguous tensor, got strides " + to_string(strides()) + " of " + describe(*this), "Call mien::contiguous first.");
}

std::int64_t Tensor::element_offset(std::initializer_list<std::int64_t> index) const {
  if (static_cast<int>(index.size()) != rank())
    throw ShapeError("at", "expects " + std::to_string(rank()) + " indices, got " + std::to_string(index.size()) + " for " + describe(*this));
  std::int64_t offset = 0;
  int d = 0;
  for (const auto i : index) {
    if (i < 0 || i >= shape()[d]) throw ShapeError("at", "index " + std::to_string(i) + " is out of range in dimension " + std::to_string(d) + " of " + describe(*this));
    offset += i * strides()[d++];
  }
  return offset;
}

Tensor on_cpu(const Tensor& x) {
  if (x.device().is_cpu()) return x;
  if (!x.is_contiguous() && !x.is_channels_last())
    throw ShapeError("on_cpu", "expects a contiguous or channels_last tensor, got strides " + to_string(x.strides()) + " of " + describe(x), "Call mien::contiguous first.");
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.is_contiguous() ? Layout::contiguous : Layout::channels_last);
  copy_memory(y.raw_data(), y.device(), x.raw_data(), x.device(), x.numel() * item_size(x.dtype()));
  return y;
}

std::string describe(const Tensor& t) { return t.defined() ? name(t.dtype()) + to_string(t.shape()) : "undefined"; }

std::string to_string(const Tensor& t) {
  std::ostringstream out;
  out << describe(t);
  if (!t.defined()) return out.str();
  const auto values = t.to_vector();
  out << " {";
  for (std::size_t i = 0; i < values.size() && i < 64; ++i) out << (i ? ", " : "") << values[i];
  if (values.size() > 64) out << ", ...";
  out << "}";
  return out.str();
}

}  // namespace mien
