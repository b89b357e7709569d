#include "mien/models/facenet/convert.h"

#include <span>

#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/view.h"
#include "mien/tensor/error.h"

namespace mien {
namespace {

struct Scope {
  const char *module, *variables;
};

// Where a path starts with a module's name, TensorFlow's scope follows; a block's number counts from 1 there.
constexpr Scope stages[] = {
    {"conv2d_1a", "Conv2d_1a_3x3"}, {"conv2d_2a", "Conv2d_2a_3x3"}, {"conv2d_2b", "Conv2d_2b_3x3"}, {"conv2d_3b", "Conv2d_3b_1x1"}, {"conv2d_4a", "Conv2d_4a_3x3"},
    {"conv2d_4b", "Conv2d_4b_3x3"}, {"mixed_6a", "Mixed_6a"},       {"mixed_7a", "Mixed_7a"},       {"block8", "Block8"},           {"last_linear", "Bottleneck"},
    {"last_bn", "Bottleneck"},      {"repeat_1", "Repeat/block35"}, {"repeat_2", "Repeat_1/block17"}, {"repeat_3", "Repeat_2/block8"}};
constexpr Scope block35[] = {{"branch0", "Branch_0/Conv2d_1x1"},      {"branch1.0", "Branch_1/Conv2d_0a_1x1"}, {"branch1.1", "Branch_1/Conv2d_0b_3x3"}, {"branch2.0", "Branch_2/Conv2d_0a_1x1"},
                             {"branch2.1", "Branch_2/Conv2d_0b_3x3"}, {"branch2.2", "Branch_2/Conv2d_0c_3x3"}, {"conv2d", "Conv2d_1x1"}};
constexpr Scope block17[] = {{"branch0", "Branch_0/Conv2d_1x1"}, {"branch1.0", "Branch_1/Conv2d_0a_1x1"}, {"branch1.1", "Branch_1/Conv2d_0b_1x7"}, {"branch1.2", "Branch_1/Conv2d_0c_7x1"}, {"conv2d", "Conv2d_1x1"}};
constexpr Scope block8[] = {{"branch0", "Branch_0/Conv2d_1x1"}, {"branch1.0", "Branch_1/Conv2d_0a_1x1"}, {"branch1.1", "Branch_1/Conv2d_0b_1x3"}, {"branch1.2", "Branch_1/Conv2d_0c_3x1"}, {"conv2d", "Conv2d_1x1"}};
constexpr Scope mixed_6a[] = {{"branch0", "Branch_0/Conv2d_1a_3x3"}, {"branch1.0", "Branch_1/Conv2d_0a_1x1"}, {"branch1.1", "Branch_1/Conv2d_0b_3x3"}, {"branch1.2", "Branch_1/Conv2d_1a_3x3"}};
constexpr Scope mixed_7a[] = {{"branch0.0", "Branch_0/Conv2d_0a_1x1"}, {"branch0.1", "Branch_0/Conv2d_1a_3x3"}, {"branch1.0", "Branch_1/Conv2d_0a_1x1"}, {"branch1.1", "Branch_1/Conv2d_1a_3x3"},
                              {"branch2.0", "Branch_2/Conv2d_0a_1x1"}, {"branch2.1", "Branch_2/Conv2d_0b_3x3"}, {"branch2.2", "Branch_2/Conv2d_1a_3x3"}};
constexpr Scope values[] = {{"conv.weight", "weights"},       {"conv2d.weight", "weights"},           {"conv2d.bias", "biases"}, {"bn.bias", "BatchNorm/beta"},
                            {"bn.running_mean", "BatchNorm/moving_mean"}, {"bn.running_var", "BatchNorm/moving_variance"}};

bool ends_with(const std::string& text, const std::string& tail) { return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0; }

// Takes "head." off the front of `path` when it is there.
bool take(std::string& path, const std::string& head) {
  if (path.compare(0, head.size() + 1, head + ".") != 0) return false;
  path.erase(0, head.size() + 1);
  return true;
}

std::string variable_of(std::string path) {
  if (take(path, "logits")) return path == "weight" ? "Logits/weights" : "Logits/biases";
  std::string out = "InceptionResnetV1";
  std::string stage;
  for (const auto& [module, scope] : stages)
    if (take(path, module)) {
      out += std::string("/") + scope;
      stage = module;
      break;
    }
  if (stage == "last_linear") return out + "/weights";
  if (stage == "last_bn") path = std::string("bn.").append(path);
  if (stage.rfind("repeat_", 0) == 0) {
    const std::size_t dot = path.find('.');
    out += "_" + std::to_string(std::stoll(path.substr(0, dot)) + 1);
    path.erase(0, dot + 1);
  }
  const auto inside = stage == "repeat_1"   ? std::span<const Scope>(block35)
                      : stage == "repeat_2" ? std::span<const Scope>(block17)
                      : stage == "mixed_6a" ? std::span<const Scope>(mixed_6a)
                      : stage == "mixed_7a" ? std::span<const Scope>(mixed_7a)
                      : stage == "repeat_3" || stage == "block8" ? std::span<const Scope>(block8)
                                                                 : std::span<const Scope>();
  for (const auto& [module, scope] : inside)
    if (take(path, module)) {
      out += std::string("/") + scope;
      if (std::string(module) == "conv2d") path = std::string("conv2d.").append(path);  // the only ones with a bias
      break;
    }
  for (const auto& [value, name] : values)
    if (path == value) return out + "/" + name;
  return {};  // the weight of a batch norm
}

// From TensorFlow's memory order: HWIO to OIHW, [in, out] to [out, in].
Tensor reordered(const Tensor& t) {
  if (t.rank() == 4) return contiguous(permute(t, {3, 2, 0, 1}));
  if (t.rank() == 2) return contiguous(transpose(t, 0, 1));
  return t;
}

// How many blocks the names tell of, the first of them called `prefix` + `first` + `tail`.
std::int64_t count_blocks(const TensorFile& file, const std::string& prefix, std::int64_t first, const std::string& tail) {
  std::int64_t n = 0;
  while (file.find(prefix + std::to_string(first + n) + tail)) ++n;
  return n;
}

TensorFile from_tensorflow(const TensorFile& input) {
  TensorFile by_variable;
  for (const auto& [name, t] : input.tensors) by_variable.tensors.emplace_back(ends_with(name, ":0") ? name.substr(0, name.size() - 2) : name, t);
  // Names follow from a net; a small one has them all, but for the blocks that repeat and the head.
  const auto blocks = [&](const std::string& kind) { return count_blocks(by_variable, "InceptionResnetV1/" + kind + "_", 1, "/Conv2d_1x1/weights"); };
  InceptionResnetV1 net({.embedding = 1,
                         .classes = by_variable.find("Logits/weights") ? 1 : 0,
                         .repeats = {blocks("Repeat/block35"), blocks("Repeat_1/block17"), blocks("Repeat_2/block8")},
                         .divisor = 16});
  TensorFile out;
  for (const auto& [name, variable] : facenet_names(net)) {
    if (const Tensor* t = variable.empty() ? nullptr : by_variable.find(variable)) {
      out.tensors.emplace_back(name, cast(reordered(*t), DType::f32));
    } else if (variable.empty()) {
      const std::string beta = variable_of(name.substr(0, name.size() - 6) + "bias");
      if (const Tensor* b = by_variable.find(beta)) out.tensors.emplace_back(name, ones(b->shape()));
    }
  }
  return out;
}

}  // namespace

std::vector<FacenetName> facenet_names(InceptionResnetV1& net) {
  std::vector<FacenetName> out;
  for (const auto& t : net.state_dict()) out.push_back({t.name, variable_of(t.name)});
  return out;
}

TensorFile facenet_tensors(const TensorFile& input) {
  for (const auto& [name, t] : input.tensors)
    if (name.rfind("InceptionResnetV1/", 0) == 0) return from_tensorflow(input);
  TensorFile out;
  for (const auto& [name, t] : input.tensors)
    if (!ends_with(name, "num_batches_tracked")) out.tensors.emplace_back(name, is_floating(t.dtype()) ? cast(t, DType::f32) : t);
  return out;
}

InceptionResnetV1Options inception_resnet_v1_options(const TensorFile& file, const std::string& name) {
  const Tensor *first = file.find("conv2d_1a.conv.weight"), *last = file.find("last_linear.weight"), *head = file.find("logits.weight");
  const auto fits = [](const Tensor* t, std::int64_t rank) { return t && t->rank() == rank && t->size(0) > 0; };
  if (!fits(first, 4) || 32 % first->size(0) != 0 || first->size(0) < 2 || !fits(last, 2) || (head && !fits(head, 2)))
    throw IoError(IoKind::bad_data, "inception-resnet-v1", name, "has no conv2d_1a.conv.weight [32, 3, 3, 3] and last_linear.weight [embedding, 1792]",
                  "Give weights of facenet-pytorch, or the TensorFlow variables as .npz.");
  return {.embedding = last->size(0),
          .classes = head ? head->size(0) : 0,
          .repeats = {count_blocks(file, "repeat_1.", 0, ".conv2d.weight"), count_blocks(file, "repeat_2.", 0, ".conv2d.weight"), count_blocks(file, "repeat_3.", 0, ".conv2d.weight")},
          .divisor = 32 / first->size(0)};
}

}  // namespace mien
