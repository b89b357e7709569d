#include <algorithm>
#include <cstring>
#include <filesystem>

#include "mien/io/file.h"
#include "mien/io/torch_file.h"
#include "mien/io/zip_impl.h"

namespace mien {
namespace {

[[noreturn]] void refuse(const std::string& file, const std::string& why, const std::string& hint = "The file is damaged; make it again.") {
  throw IoError(IoKind::bad_data, "npy", file, why, hint);
}

// The value of a key of the header's Python dict: text up to the next comma outside parentheses.
std::string value_of(const std::string& header, const std::string& key, const std::string& file) {
  const auto at = header.find("'" + key + "'");
  const auto colon = at == std::string::npos ? at : header.find(':', at);
  if (colon == std::string::npos) refuse(file, "its header has no " + key);
  int depth = 0;
  std::string text;
  for (std::size_t i = colon + 1; i < header.size(); ++i) {
    const char c = header[i];
    if (c == '(') ++depth;
    if (c == ')') --depth;
    if ((c == ',' && depth == 0) || c == '}') break;
    if (c != ' ') text += c;
  }
  return text;
}

struct Element {
  DType dtype;
  int size;
  bool swap;
  char kind;
  int letters = 0;  // of text: each element is so many letters
};
Element element_of(std::string descr, const std::string& file) {
  std::erase(descr, '\'');
  if (descr.find('O') != std::string::npos)
    refuse(file, "holds Python objects (pickle), which could run code when read", "Save plain arrays instead: np.savez(\"weights.npz\", **{name: array for each of them}).");
  if (descr.size() < 3) refuse(file, "its dtype " + descr + " is not known");
  const char order = descr[0], kind = descr[1];
  const int size = std::atoi(descr.c_str() + 2);
  const bool swap = order == '>' && size > 1;
  if (kind == 'f' && size == 4) return {DType::f32, 4, swap, kind};
  if (kind == 'f' && size == 8) return {DType::f64, 8, swap, kind};
  if (kind == 'f' && size == 2) return {DType::f16, 2, swap, kind};
  if (kind == 'b' && size == 1) return {DType::boolean, 1, false, kind};
  if (kind == 'u' && size == 1) return {DType::u8, 1, false, kind};
  if (kind == 'i' && size == 4) return {DType::i32, 4, swap, kind};
  if ((kind == 'i' || kind == 'u') && (size == 1 || size == 2 || size == 4 || size == 8)) return {DType::i64, size, swap, kind};
  if (kind == 'U' && size > 0) return {DType::i32, 4, swap, kind, size};
  refuse(file, "its dtype " + descr + " is not known", "Save it as float32, float64 or int64.");
}

// One element of the file as an element of the tensor.
void convert(const std::byte* from, const Element& e, void* to) {
  std::byte raw[8] = {};
  for (int i = 0; i < e.size; ++i) raw[e.swap ? e.size - 1 - i : i] = from[i];
  if (e.dtype != DType::i64 || e.size == 8) {
    std::memcpy(to, raw, static_cast<std::size_t>(e.size));
    return;
  }
  std::int64_t wide = 0;
  std::memcpy(&wide, raw, 8);
  if (e.kind == 'i') wide = wide << (64 - 8 * e.size) >> (64 - 8 * e.size);  // sign
  std::memcpy(to, &wide, 8);
}

Tensor parse(std::span<const std::byte> b, const std::string& file) {
  if (b.size() < 12 || std::memcmp(b.data(), "\x93NUMPY", 6) != 0) refuse(file, "is no .npy file");
  const int version = static_cast<int>(b[6]);
  std::uint32_t length = 0;
  const std::size_t start = version == 1 ? 10 : 12;
  std::memcpy(&length, b.data() + 8, version == 1 ? 2 : 4);
  if (version < 1 || version > 3 || length > 65536 || start + length > b.size()) refuse(file, "has a damaged header");
  const std::string header(reinterpret_cast<const char*>(b.data()) + start, length);
  const Element e = element_of(value_of(header, "descr", file), file);
  const bool fortran = value_of(header, "fortran_order", file) == "True";
  if (fortran && e.letters > 0) refuse(file, "holds text in Fortran order", "Save it with numpy.ascontiguousarray.");
  Shape shape;
  std::int64_t count = 1;
  const std::string sizes = value_of(header, "shape", file);
  if (sizes.find_first_not_of("0123456789L,() ") != std::string::npos) refuse(file, "its shape " + sizes.substr(0, 60) + " is not a list of sizes");
  for (std::size_t i = 0; i < sizes.size();) {
    if (sizes[i] < '0' || sizes[i] > '9') {
      ++i;
      continue;
    }
    if (shape.rank() == max_rank) refuse(file, "has more than 8 dimensions", "Reshape it first.");
    std::int64_t s = 0;
    for (; i < sizes.size() && sizes[i] >= '0' && sizes[i] <= '9'; ++i)
      if (__builtin_mul_overflow(s, 10, &s) || __builtin_add_overflow(s, sizes[i] - '0', &s)) refuse(file, "its shape overflows");
    shape.push_back(s);
    if (__builtin_mul_overflow(count, s, &count)) refuse(file, "its shape overflows");
  }
  if (e.letters > 0) {
    if (shape.rank() == max_rank) refuse(file, "has more than 7 dimensions of text", "Reshape it first.");
    shape.push_back(e.letters);
    if (__builtin_mul_overflow(count, e.letters, &count)) refuse(file, "its shape overflows");
  }
  const std::uint64_t have = b.size() - start - length;
  if (static_cast<unsigned __int128>(count) * static_cast<unsigned>(e.size) != have)
    refuse(file, "holds " + std::to_string(have) + " bytes, its header describes " + std::to_string(count) + " values of " + std::to_string(e.size));
  const Tensor t = Tensor::empty(shape, e.dtype);
  const std::byte* data = b.data() + start + length;
  const auto width = static_cast<std::size_t>(item_size(e.dtype));
  auto* to = static_cast<std::byte*>(t.raw_data());
  Shape steps = shape;  // of the file, in elements
  std::int64_t step = 1;
  for (int d = 0; d < shape.rank(); ++d) {
    const int k = fortran ? d : shape.rank() - 1 - d;
    steps[k] = step;
    step *= shape[k];
  }
  Shape index = Shape::filled(shape.rank(), 0);
  for (std::int64_t n = 0, at = 0; n < count; ++n) {
    convert(data + at * e.size, e, to + static_cast<std::size_t>(n) * width);
    for (int d = shape.rank() - 1; d >= 0; --d) {
      at += steps[d];
      if (++index[d] < shape[d]) break;
      at -= index[d] * steps[d];
      index[d] = 0;
    }
  }
  return t;
}

}  // namespace

TensorFile load_npy(const std::string& path) {
  TensorFile out;
  out.tensors.emplace_back(std::filesystem::path(path).stem().string(), parse(read_file(path), path));
  return out;
}

TensorFile load_npz(const std::string& path) {
  const auto bytes = read_file(path);
  const ZipReader zip(bytes, path);
  TensorFile out;
  for (const auto& e : zip.entries()) {
    if (!e.name.ends_with(".npy")) continue;
    out.tensors.emplace_back(e.name.substr(0, e.name.size() - 4), parse(zip.read(e), path + " (" + e.name + ")"));
  }
  if (out.tensors.empty()) refuse(path, "holds no array");
  return out;
}

void save_npy(const std::string& path, const Tensor& t) {
  const char* descr = nullptr;
  switch (t.dtype()) {
    case DType::f32: descr = "<f4"; break;
    case DType::f64: descr = "<f8"; break;
    case DType::f16: descr = "<f2"; break;
    case DType::i32: descr = "<i4"; break;
    case DType::i64: descr = "<i8"; break;
    case DType::u8: descr = "|u1"; break;
    case DType::boolean: descr = "|b1"; break;
    default: throw DTypeError("save_npy", "numpy has no bf16, got " + describe(t), "Cast with mien::cast(x, DType::f32).");
  }
  if (!t.is_contiguous()) throw ShapeError("save_npy", "expects a contiguous tensor, got " + describe(t), "Call mien::contiguous first.");
  std::string shape = "(";
  for (const auto s : t.shape()) shape += std::to_string(s) + ",";
  std::string header = std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': " + shape + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::vector<std::byte> out(10 + header.size() + static_cast<std::size_t>(t.numel() * item_size(t.dtype())));
  const auto length = static_cast<std::uint16_t>(header.size());
  std::memcpy(out.data(), "\x93NUMPY\x01\x00", 8);
  std::memcpy(out.data() + 8, &length, 2);
  std::memcpy(out.data() + 10, header.data(), header.size());
  if (t.numel() > 0) std::memcpy(out.data() + 10 + header.size(), on_cpu(t).raw_data(), out.size() - 10 - header.size());
  write_file_atomic(path, out);
}

TensorFile load_tensors(const std::string& path) {
  const auto head = [&] {
    auto bytes = read_file(path);
    bytes.resize(std::min<std::size_t>(bytes.size(), 10));
    return bytes;
  }();
  const auto begins = [&](const char* magic, std::size_t n) { return head.size() >= n && std::memcmp(head.data(), magic, n) == 0; };
  if (begins("\x93NUMPY", 6)) return load_npy(path);
  if (begins("\x80\x02", 2)) return load_torch(path);
  if (head.size() > 8 && head[8] == std::byte{'{'}) return load_safetensors(path);
  if (begins("PK\x03\x04", 4)) {
    const auto bytes = read_file(path);
    const ZipReader zip(bytes, path);
    for (const auto& e : zip.entries())
      if (e.name.ends_with("data.pkl")) return load_torch(path);
    return load_npz(path);
  }
  throw IoError(IoKind::bad_data, "load", path, "is none of .safetensors, .pt, .npy and .npz", "Convert it to one of these first.");
}

}  // namespace mien
