// PyTorch's files are pickles: programs for a small stack machine. This reader follows only the opcodes that state dicts need and calls
// nothing: a GLOBAL is a name to compare with an allow-list, a REDUCE of `_rebuild_tensor_v2` makes a description of a tensor, any other gives an inert
// value. Sources: Python's Lib/pickletools.py and torch/serialization.py for the two containers.
#include "mien/io/torch_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "mien/io/file.h"
#include "mien/io/zip_impl.h"

namespace mien {
namespace {

struct Value;
using Ref = std::shared_ptr<Value>;
struct Value {
  enum Kind { inert, none, number, text, global, list, dict, mark, storage, tensor } kind = inert;
  std::int64_t integer = 0;
  std::string string;                        // text, global, storage key
  std::vector<Ref> items;                    // list and tuple; dict: key, value, key, value
  DType dtype = DType::f32;                  // storage
  std::int64_t count = 0;                    // storage
  Ref of;                                    // tensor: its storage
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape, strides;  // tensor
};

Ref make(Value::Kind kind) {
  auto v = std::make_shared<Value>();
  v->kind = kind;
  return v;
}

const std::map<std::string, DType>& storages() {
  static const std::map<std::string, DType> table = {{"FloatStorage", DType::f32}, {"DoubleStorage", DType::f64}, {"HalfStorage", DType::f16},
                                                     {"BFloat16Storage", DType::bf16}, {"LongStorage", DType::i64}, {"IntStorage", DType::i32},
                                                     {"ByteStorage", DType::u8}, {"BoolStorage", DType::boolean}};
  return table;
}

class Unpickler {
 public:
  Unpickler(std::span<const std::byte> b, std::size_t at, const std::string& file) : b_(b), at_(at), file_(file) {}
  std::size_t position() const noexcept { return at_; }

  Ref run() {
    for (std::int64_t steps = 0;; ++steps) {
      if (steps > 4'000'000 || stack_.size() > 1'000'000) refuse("is too long");
      const auto op = static_cast<unsigned char>(byte());
      if (op == '.') return pop();
      step(op);
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw IoError(IoKind::bad_data, "torch", file_, "its pickle " + why + " (byte " + std::to_string(at_) + ")", "Save a plain state dict: torch.save(model.state_dict(), path).");
  }
  std::byte byte() {
    if (at_ >= b_.size()) refuse("ends early");
    return b_[at_++];
  }
  std::uint64_t number(int n) {
    std::uint64_t v = 0;
    for (int i = 0; i < n; ++i) v |= static_cast<std::uint64_t>(byte()) << (8 * i);
    return v;
  }
  std::string chars(std::uint64_t n) {
    if (n > b_.size() - at_) refuse("has a string that leaves the file");
    std::string s(reinterpret_cast<const char*>(b_.data()) + at_, n);
    at_ += n;
    return s;
  }
  std::string line() {
    std::string s;
    for (char c; (c = static_cast<char>(byte())) != '\n';) s += c;
    return s;
  }
  Ref pop() {
    if (stack_.empty()) refuse("takes from an empty stack");
    Ref v = stack_.back();
    stack_.pop_back();
    return v;
  }
  void push(Ref v) { stack_.push_back(std::move(v)); }
  void push_number(std::int64_t v) {
    Ref r = make(Value::number);
    r->integer = v;
    push(r);
  }
  void push_text(std::string s, Value::Kind kind = Value::text) {
    Ref r = make(kind);
    r->string = std::move(s);
    push(r);
  }
  std::vector<Ref> to_mark() {
    std::vector<Ref> items;
    while (true) {
      Ref v = pop();
      if (v->kind == Value::mark) break;
      items.push_back(std::move(v));
    }
    std::reverse(items.begin(), items.end());
    return items;
  }
  void tuple(std::size_t n) {
    Ref t = make(Value::list);
    for (std::size_t i = 0; i < n; ++i) t->items.insert(t->items.begin(), pop());
    push(t);
  }
  void store(std::uint64_t key) {
    if (stack_.empty() || memo_.size() > 1'000'000) refuse("has a bad memo");
    memo_[key] = stack_.back();
  }
  void get(std::uint64_t key) {
    const auto it = memo_.find(key);
    if (it == memo_.end()) refuse("asks for a memo that was not made");
    push(it->second);
  }

  void step(unsigned char op) {
    switch (op) {
      case 0x80: byte(); return;                                  // PROTO
      case 0x95: number(8); return;                               // FRAME
      case '(': push(make(Value::mark)); return;
      case 'N': push(make(Value::none)); return;
      case 0x88: push_number(1); return;
      case 0x89: push_number(0); return;
      case 'J': push_number(static_cast<std::int32_t>(number(4))); return;
      case 'K': push_number(static_cast<std::int64_t>(number(1))); return;
      case 'M': push_number(static_cast<std::int64_t>(number(2))); return;
      case 0x8a: {                                                // LONG1
        const int n = static_cast<int>(number(1));
        if (n > 8) { chars(static_cast<std::uint64_t>(n)); push(make(Value::inert)); return; }
        std::int64_t v = static_cast<std::int64_t>(number(n));
        if (n > 0 && n < 8) v = v << (64 - 8 * n) >> (64 - 8 * n);
        push_number(v);
        return;
      }
      case 'G': number(8); push(make(Value::inert)); return;      // a float: no tensor needs one
      case 'I': case 'L': case 'F': push_number(std::atoll(line().c_str())); return;
      case 'X': push_text(chars(number(4))); return;
      case 0x8c: push_text(chars(number(1))); return;
      case 'T': case 'B': push_text(chars(number(4))); return;
      case 'U': case 'C': push_text(chars(number(1))); return;
      case 'c': { std::string module = line(); push_text(module + "." + line(), Value::global); return; }
      case 0x93: { const Ref name = pop(), module = pop(); push_text(module->string + "." + name->string, Value::global); return; }
      case ')': case ']': push(make(Value::list)); return;
      case '}': push(make(Value::dict)); return;
      case 't': case 'l': { Ref t = make(Value::list); t->items = to_mark(); push(t); return; }
      case 'd': { Ref t = make(Value::dict); t->items = to_mark(); push(t); return; }
      case 0x85: tuple(1); return;
      case 0x86: tuple(2); return;
      case 0x87: tuple(3); return;
      case 'q': store(number(1)); return;
      case 'r': store(number(4)); return;
      case 0x94: store(memo_.size()); return;
      case 'p': store(static_cast<std::uint64_t>(std::atoll(line().c_str()))); return;
      case 'h': get(number(1)); return;
      case 'j': get(number(4)); return;
      case 'g': get(static_cast<std::uint64_t>(std::atoll(line().c_str()))); return;
      case 'a': { Ref v = pop(); if (stack_.empty()) refuse("appends to nothing"); stack_.back()->items.push_back(v); return; }
      case 'e': case 'u': {
        auto items = to_mark();
        if (stack_.empty()) refuse("fills nothing");
        for (auto& i : items) stack_.back()->items.push_back(std::move(i));
        return;
      }
      case 's': {
        Ref v = pop(), k = pop();
        if (stack_.empty()) refuse("fills nothing");
        stack_.back()->items.push_back(k);
        stack_.back()->items.push_back(v);
        return;
      }
      case 'b': pop(); return;                                    // BUILD: state of an object; tensors need none
      case '0': pop(); return;
      case '1': to_mark(); return;
      case '2': if (stack_.empty()) refuse("copies nothing"); push(stack_.back()); return;
      case 'Q': persistent(pop()); return;
      case 'R': { const Ref args = pop(); reduce(pop(), args); return; }
      case 0x81: { pop(); pop(); push(make(Value::inert)); return; }  // NEWOBJ
      default: refuse("has the opcode " + std::to_string(op) + ", which a state dict does not need");
    }
  }

  // ('storage', torch.FloatStorage, key, location, count, ...)
  void persistent(const Ref& id) {
    if (id->kind != Value::list || id->items.size() < 5 || id->items[0]->string != "storage" || id->items[1]->kind != Value::global) refuse("refers to something that is no storage");
    const std::string& type = id->items[1]->string;
    const auto it = storages().find(type.substr(type.rfind('.') + 1));
    if (type.rfind("torch.", 0) != 0 || it == storages().end()) refuse("has a storage of type " + type.substr(0, 80));
    Ref s = make(Value::storage);
    s->dtype = it->second;
    s->string = id->items[2]->string;
    s->count = id->items[4]->integer;
    if (s->count < 0) refuse("has a storage of negative size");
    push(s);
  }

  static std::vector<std::int64_t> integers(const Ref& list) {
    std::vector<std::int64_t> out;
    for (const auto& i : list->items) out.push_back(i->integer);
    return out;
  }

  void reduce(const Ref& f, const Ref& args) {
    if (f->kind == Value::global && f->string == "torch._utils._rebuild_tensor_v2" && args->items.size() >= 4 && args->items[0]->kind == Value::storage) {
      Ref t = make(Value::tensor);
      t->of = args->items[0];
      t->offset = args->items[1]->integer;
      t->shape = integers(args->items[2]);
      t->strides = integers(args->items[3]);
      push(t);
    } else if (f->kind == Value::global && f->string == "torch._utils._rebuild_parameter" && !args->items.empty()) {
      push(args->items[0]);
    } else if (f->kind == Value::global && f->string == "collections.OrderedDict") {
      push(make(Value::dict));
    } else {
      push(make(Value::inert));
    }
  }

  std::span<const std::byte> b_;
  std::size_t at_;
  const std::string& file_;
  std::vector<Ref> stack_;
  std::map<std::uint64_t, Ref> memo_;
};

using Storages = std::map<std::string, std::vector<std::byte>>;

Tensor build(const Value& v, const Storages& data, const std::string& file, const std::string& name) {
  const auto refuse = [&](const std::string& why) -> Tensor { throw IoError(IoKind::bad_data, "torch", file, "tensor " + name + " " + why); };
  const auto it = data.find(v.of->string);
  if (it == data.end()) return refuse("has no data");
  if (v.shape.size() > max_rank || v.strides.size() != v.shape.size()) return refuse("has a damaged shape");
  const Shape shape{std::span(v.shape)}, strides{std::span(v.strides)};
  const std::int64_t size = item_size(v.of->dtype), have = static_cast<std::int64_t>(it->second.size()) / size, count = numel(shape);
  std::int64_t last = v.offset;
  for (int d = 0; d < shape.rank(); ++d) {
    std::int64_t reach = 0;
    if (strides[d] < 0 || (shape[d] > 0 && __builtin_mul_overflow(shape[d] - 1, strides[d], &reach)) || __builtin_add_overflow(last, reach, &last)) return refuse("has damaged strides");
  }
  if (v.offset < 0 || (count > 0 && last >= have)) return refuse("leaves its storage");
  const Tensor t = Tensor::empty(shape, v.of->dtype);
  auto* to = static_cast<std::byte*>(t.raw_data());
  Shape index = Shape::filled(shape.rank(), 0);
  for (std::int64_t n = 0, at = v.offset; n < count; ++n) {
    std::memcpy(to + n * size, it->second.data() + at * size, static_cast<std::size_t>(size));
    for (int d = shape.rank() - 1; d >= 0; --d) {
      at += strides[d];
      if (++index[d] < shape[d]) break;
      at -= index[d] * strides[d];
      index[d] = 0;
    }
  }
  return t;
}

void collect(const Ref& v, const std::string& prefix, int depth, const Storages& data, const std::string& file, TensorFile& out) {
  if (v->kind == Value::tensor) out.tensors.emplace_back(prefix, build(*v, data, file, prefix));
  if (v->kind != Value::dict || depth > 8) return;
  for (std::size_t i = 0; i + 1 < v->items.size(); i += 2)
    if (v->items[i]->kind == Value::text) collect(v->items[i + 1], prefix.empty() ? v->items[i]->string : prefix + "." + v->items[i]->string, depth + 1, data, file, out);
}

TensorFile load_zip(std::span<const std::byte> bytes, const std::string& path) {
  const ZipReader zip(bytes, path);
  Storages data;
  std::vector<std::byte> pickle;
  for (const auto& e : zip.entries()) {
    if (e.name.ends_with("/data.pkl") || e.name == "data.pkl") pickle = zip.read(e);
    else if (const auto slash = e.name.rfind("/data/"); slash != std::string::npos) data[e.name.substr(slash + 6)] = zip.read(e);
  }
  TensorFile out;
  collect(Unpickler(pickle, 0, path).run(), "", 0, data, path, out);
  return out;
}

// Consecutive pickles (magic, protocol, system, the object, storage keys), then each storage: its count in 8 bytes and its values.
TensorFile load_legacy(std::span<const std::byte> bytes, const std::string& path) {
  std::size_t at = 0;
  const auto next = [&] {
    Unpickler u(bytes, at, path);
    Ref v = u.run();
    at = u.position();
    return v;
  };
  next();
  next();
  next();
  const Ref object = next();
  const Ref keys = next();
  std::map<std::string, DType> types;
  const auto find_types = [&](const auto& self, const Ref& v, int depth) -> void {
    if (v->kind == Value::tensor) types[v->of->string] = v->of->dtype;
    if (depth < 9)
      for (const auto& i : v->items) self(self, i, depth + 1);
  };
  find_types(find_types, object, 0);
  Storages data;
  for (const auto& k : keys->items) {
    std::uint64_t count = 0;
    if (at + 8 > bytes.size()) throw IoError(IoKind::bad_data, "torch", path, "ends before the storage " + k->string);
    std::memcpy(&count, bytes.data() + at, 8);
    at += 8;
    const auto type = types.find(k->string);
    const auto size = static_cast<std::uint64_t>(item_size(type == types.end() ? DType::f32 : type->second));
    if (count > (bytes.size() - at) / size) throw IoError(IoKind::bad_data, "torch", path, "ends inside the storage " + k->string);
    data[k->string].assign(bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.begin() + static_cast<std::ptrdiff_t>(at + count * size));
    at += count * size;
  }
  TensorFile out;
  collect(object, "", 0, data, path, out);
  return out;
}

}  // namespace

TensorFile load_torch(const std::string& path) {
  const auto bytes = read_file(path);
  TensorFile out = bytes.size() > 4 && std::memcmp(bytes.data(), "PK\x03\x04", 4) == 0 ? load_zip(bytes, path) : load_legacy(bytes, path);
  if (out.tensors.empty()) throw IoError(IoKind::bad_data, "torch", path, "holds no tensor that a state dict would have", "Save it with torch.save(model.state_dict(), path).");
  return out;
}

}  // namespace mien
