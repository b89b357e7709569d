#include "mien/io/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "mien/io/crc32c.h"
#include "mien/io/file.h"

namespace mien {
namespace {

using json = nlohmann::json;
constexpr const char* crc_prefix = "mien.crc32c.";
constexpr const char* header_key = "mien.crc32c-header";
constexpr std::uint64_t max_header = 100'000'000;

struct NamedType {
  const char* name;
  DType dtype;
};
constexpr NamedType types[] = {{"F32", DType::f32}, {"F64", DType::f64}, {"BF16", DType::bf16}, {"F16", DType::f16},
                               {"I32", DType::i32}, {"I64", DType::i64}, {"U8", DType::u8},     {"BOOL", DType::boolean}};

const char* type_name(DType d) {
  for (const auto& t : types)
    if (t.dtype == d) return t.name;
  return "?";
}

[[noreturn]] void refuse(const std::string& file, const std::string& why) {
  throw IoError(IoKind::bad_data, "safetensors", file, why, "The file is damaged or no safetensors file; get or make it again.");
}

// nlohmann keeps the last of two equal keys and takes any depth: a filter in front of the parser refuses both.
json parse_header(const std::string& file, const char* begin, const char* end) {
  if (std::find(begin, end, '\0') != end) refuse(file, "its header holds a zero byte");  // which the parser would take for the end
  std::vector<std::set<std::string>> keys;
  std::string problem;
  const auto filter = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 4) problem = "its header is nested too deeply";
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.empty() && !keys.back().insert(value.get<std::string>()).second)
      problem = "its header has the key \"" + value.get<std::string>().substr(0, 100) + "\" twice";
    if (!problem.empty()) throw IoError(IoKind::bad_data, "safetensors", file, problem);
    return true;
  };
  try {
    return json::parse(begin, end, filter);
  } catch (const json::exception& e) {
    refuse(file, std::string("its header is not JSON: ") + e.what());
  }
}

struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  std::uint64_t begin, end;
};

Entry read_entry(const std::string& file, const std::string& name, const json& j) {
  const std::string where = "tensor " + name.substr(0, 200) + ": ";
  if (!j.is_object() || !j.contains("dtype") || !j.contains("shape") || !j.contains("data_offsets") || !j["dtype"].is_string() || !j["shape"].is_array() ||
      !j["data_offsets"].is_array() || j["data_offsets"].size() != 2)
    refuse(file, where + "expects dtype, shape and two data_offsets");
  Entry e{name, DType::f32, {}, 0, 0};
  const auto* type = std::find_if(std::begin(types), std::end(types), [&](const auto& t) { return j["dtype"] == t.name; });
  if (type == std::end(types)) refuse(file, where + "dtype " + j["dtype"].get<std::string>().substr(0, 40) + " is not known");
  e.dtype = type->dtype;
  if (j["shape"].size() > max_rank) refuse(file, where + "has " + std::to_string(j["shape"].size()) + " dimensions, at most 8 are taken");
  std::int64_t bytes = item_size(e.dtype);
  for (const auto& s : j["shape"]) {
    if (!s.is_number_unsigned() || s.get<std::uint64_t>() > (std::uint64_t{1} << 62)) refuse(file, where + "has a size that is not a whole number >= 0");
    e.shape.push_back(s.get<std::int64_t>());
  }
  for (const auto s : e.shape)
    if (__builtin_mul_overflow(bytes, s, &bytes)) refuse(file, where + "its size overflows");
  for (const auto& o : j["data_offsets"])
    if (!o.is_number_unsigned()) refuse(file, where + "has an offset that is not a whole number >= 0");
  e.begin = j["data_offsets"][0].get<std::uint64_t>();
  e.end = j["data_offsets"][1].get<std::uint64_t>();
  if (e.end < e.begin || e.end - e.begin != static_cast<std::uint64_t>(bytes))
    refuse(file, where + "its offsets hold " + std::to_string(e.end - e.begin) + " bytes, its shape needs " + std::to_string(bytes));
  return e;
}

std::string hex(std::uint32_t v) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", v);
  return text;
}

// What the header says, in a fixed order: protects names, types, shapes and metadata.
std::uint32_t header_crc(const TensorFile& f) {
  std::string text;
  for (const auto& [k, v] : f.metadata)
    if (k != header_key) text += std::to_string(k.size()) + ":" + k + std::to_string(v.size()) + ":" + v;
  for (const auto& [name, t] : f.tensors) text += std::to_string(name.size()) + ":" + name + describe(t);
  return crc32c(std::as_bytes(std::span(text)));
}

std::span<std::byte> bytes_of(const Tensor& t) { return {static_cast<std::byte*>(t.raw_data()), static_cast<std::size_t>(t.numel() * item_size(t.dtype()))}; }

void verify(const std::string& file, const TensorFile& f) {
  const auto header = f.metadata.find(header_key);
  if (header == f.metadata.end()) {
    for (const auto& [k, v] : f.metadata)
      if (k.rfind("mien.", 0) == 0 && k.find("crc32c") != std::string::npos) refuse(file, "the checksum of its header is missing");
    return;
  }
  for (const auto& [name, t] : f.tensors) {
    const auto it = f.metadata.find(crc_prefix + name);
    if (it == f.metadata.end()) refuse(file, "tensor " + name + " has no checksum");
    if (it->second != hex(crc32c(bytes_of(t)))) refuse(file, "tensor " + name + " does not fit its checksum");
  }
  if (header->second != hex(header_crc(f))) refuse(file, "its header does not fit its checksum");
}

// The bytes of a tensor in logical order.
void append_bytes(std::vector<std::byte>& out, const Tensor& anywhere) {
  const Tensor t = on_cpu(anywhere);
  const std::int64_t size = item_size(t.dtype()), count = t.numel();
  const std::size_t at = out.size();
  out.resize(at + static_cast<std::size_t>(count * size));
  const auto* from = static_cast<const std::byte*>(t.raw_data());
  if (count == 0) return;
  if (t.is_contiguous()) {
    std::memcpy(out.data() + at, from, static_cast<std::size_t>(count * size));
    return;
  }
  Shape index = Shape::filled(t.rank(), 0);
  std::int64_t position = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    std::memcpy(out.data() + at + n * size, from + position * size, static_cast<std::size_t>(size));
    for (int d = t.rank() - 1; d >= 0; --d) {
      position += t.strides()[d];
      if (++index[d] < t.shape()[d]) break;
      position -= index[d] * t.strides()[d];
      index[d] = 0;
    }
  }
}

}  // namespace

const Tensor* TensorFile::find(const std::string& name) const {
  for (const auto& [n, t] : tensors)
    if (n == name) return &t;
  return nullptr;
}

namespace {
// read(begin, bytes) puts bytes of the file there: each tensor's go straight to its memory.
template <class Read>
TensorFile parse(const std::string& file, std::uint64_t size, const Read& read) {
  if (size < 10) refuse(file, "has only " + std::to_string(size) + " bytes");
  std::uint64_t length = 0;
  read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > max_header || length > size - 8) refuse(file, "claims a header of " + std::to_string(length) + " bytes");
  std::vector<char> text(length);
  if (length > 0) read(8, std::as_writable_bytes(std::span(text)));
  if (text.empty() || text[0] != '{') refuse(file, "its header does not begin with {");
  const json header = parse_header(file, text.data(), text.data() + length);
  if (!header.is_object()) refuse(file, "its header is not an object");
  TensorFile out;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) refuse(file, "its __metadata__ is not an object");
      for (const auto& [k, v] : value.items()) {
        if (!v.is_string()) refuse(file, "its metadata " + k.substr(0, 100) + " is not a string");
        out.metadata[k] = v.template get<std::string>();
      }
    } else {
      entries.push_back(read_entry(file, name, value));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const std::uint64_t data = size - 8 - length;
  std::uint64_t at = 0;
  for (const auto& e : entries) {
    if (e.begin != at) refuse(file, "tensor " + e.name.substr(0, 200) + " begins at " + std::to_string(e.begin) + ", expected " + std::to_string(at) + " (no holes, no overlaps)");
    at = e.end;
  }
  if (at != data) refuse(file, "holds " + std::to_string(data) + " bytes of tensors, its header describes " + std::to_string(at));
  for (const auto& e : entries) {
    Tensor t = Tensor::empty(e.shape, e.dtype);
    if (e.end > e.begin) read(8 + length + e.begin, bytes_of(t));
    out.tensors.emplace_back(e.name, std::move(t));
  }
  verify(file, out);
  return out;
}
}  // namespace

TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  return parse(file, bytes.size(), [&](std::uint64_t begin, std::span<std::byte> to) { std::memcpy(to.data(), bytes.data() + begin, to.size()); });
}
TensorFile load_safetensors(const std::string& path) {
  const InputFile file(path);
  return parse(path, file.size(), [&](std::uint64_t begin, std::span<std::byte> to) { file.read(begin, to); });
}

std::vector<std::byte> to_safetensors(const TensorFile& file) {
  TensorFile copy = file;
  std::vector<std::byte> data;
  json header = json::object();
  std::set<std::string> names;
  for (const auto& [name, t] : copy.tensors) {
    if (!names.insert(name).second) throw ValueError("safetensors", "two tensors are called " + name);
    const std::size_t begin = data.size();
    append_bytes(data, t);
    copy.metadata[crc_prefix + name] = hex(crc32c(std::span(data).subspan(begin)));
    header[name] = {{"dtype", type_name(t.dtype())}, {"shape", std::vector<std::int64_t>(t.shape().begin(), t.shape().end())}, {"data_offsets", {begin, data.size()}}};
  }
  // A reader orders tensors by offset: empty ones at the same place keep the header's (alphabetical) order.
  std::stable_sort(copy.tensors.begin(), copy.tensors.end(), [&](const auto& a, const auto& b) {
    const auto &x = header[a.first]["data_offsets"], &y = header[b.first]["data_offsets"];
    return std::tuple(x[0].template get<std::size_t>(), x[1].template get<std::size_t>(), a.first) < std::tuple(y[0].template get<std::size_t>(), y[1].template get<std::size_t>(), b.first);
  });
  copy.metadata.erase(header_key);
  copy.metadata[header_key] = hex(header_crc(copy));
  header["__metadata__"] = copy.metadata;
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw ValueError("safetensors", "a name or metadata value is not UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  std::vector<std::byte> out(8 + text.size());
  const std::uint64_t length = text.size();
  std::memcpy(out.data(), &length, 8);
  std::memcpy(out.data() + 8, text.data(), text.size());
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

void save_safetensors(const std::string& path, const TensorFile& file) { write_file_atomic(path, to_safetensors(file)); }

namespace {
bool all_finite(const Tensor& t) {
  bool all = true;
  if (t.dtype() == DType::f32 && t.is_contiguous()) {  // as nearly all are: without a copy in f64
    for (const float v : t.span<float>()) all &= std::isfinite(v);
  } else {
    for (const double v : t.to_vector()) all &= std::isfinite(v);
  }
  return all;
}
}  // namespace

void check_finite(const TensorFile& file, const std::string& name) {
  for (const auto& [tensor, t] : file.tensors)
    if (is_floating(t.dtype()) && !all_finite(t))
      throw IoError(IoKind::bad_data, "weights", name, "tensor " + tensor + " holds a value that is not finite", "Use weights of a training that did not diverge.");
}

}  // namespace mien
