#include "mien/models/mtcnn/mtcnn.h"

#include "mien/layers/init.h"
#include "mien/ops/conv_block.h"
#include "mien/ops/copy.h"
#include "mien/ops/norm.h"
#include "mien/ops/view.h"

namespace mien {
namespace {

constexpr Pair k1{1, 1}, k2{2, 2}, k3{3, 3};
constexpr PoolParams pool2{.kernel = {2, 2}, .stride = {2, 2}, .ceil_mode = true};
constexpr PoolParams pool3{.kernel = {3, 3}, .stride = {2, 2}, .ceil_mode = true};

Tensor block(const Tensor& x, const Conv2d& conv, const PReLU& activation, const PoolParams& window = {.kernel = k1, .stride = k1}) {
  return conv_block(x, conv.weight, conv.bias, activation.weight, window);
}

// [N, C, H, W] as [N, W * H * C]: see the head of mtcnn.h.
Tensor flatten_whc(const Tensor& x) { return flatten(permute(x, {0, 3, 2, 1}), 1); }

}  // namespace

PNet::PNet()
    : conv1({.in = 3, .out = 10, .kernel = k3}), conv2({.in = 10, .out = 16, .kernel = k3}), conv3({.in = 16, .out = 32, .kernel = k3}),
      conv4_1({.in = 32, .out = 2, .kernel = k1}), conv4_2({.in = 32, .out = 4, .kernel = k1}), prelu1(10), prelu2(16), prelu3(32) {}

MtcnnOutput PNet::maps(const Tensor& x) const {
  const Tensor h = block(block(block(x, conv1, prelu1, pool2), conv2, prelu2), conv3, prelu3);
  return {conv4_1(h), conv4_2(h), {}};
}
MtcnnOutput PNet::forward(const Tensor& x) const {
  const MtcnnOutput m = maps(x);
  return {flatten(m.logits, 1), flatten(m.boxes, 1), {}};
}
void PNet::visit(Visitor& v) {
  v("conv1", conv1);
  v("prelu1", prelu1);
  v("conv2", conv2);
  v("prelu2", prelu2);
  v("conv3", conv3);
  v("prelu3", prelu3);
  v("conv4_1", conv4_1);
  v("conv4_2", conv4_2);
}

RNet::RNet()
    : conv1({.in = 3, .out = 28, .kernel = k3}), conv2({.in = 28, .out = 48, .kernel = k3}), conv3({.in = 48, .out = 64, .kernel = k2}), prelu1(28), prelu2(48), prelu3(64),
      prelu4(128), dense4({.in = 576, .out = 128}), dense5_1({.in = 128, .out = 2}), dense5_2({.in = 128, .out = 4}) {}

MtcnnOutput RNet::forward(const Tensor& x) const {
  Tensor h = block(block(block(x, conv1, prelu1, pool3), conv2, prelu2, pool3), conv3, prelu3);
  h = prelu4(dense4(flatten_whc(h)));
  return {dense5_1(h), dense5_2(h), {}};
}
void RNet::visit(Visitor& v) {
  v("conv1", conv1);
  v("prelu1", prelu1);
  v("conv2", conv2);
  v("prelu2", prelu2);
  v("conv3", conv3);
  v("prelu3", prelu3);
  v("dense4", dense4);
  v("prelu4", prelu4);
  v("dense5_1", dense5_1);
  v("dense5_2", dense5_2);
}

ONet::ONet()
    : conv1({.in = 3, .out = 32, .kernel = k3}), conv2({.in = 32, .out = 64, .kernel = k3}), conv3({.in = 64, .out = 64, .kernel = k3}),
      conv4({.in = 64, .out = 128, .kernel = k2}), prelu1(32), prelu2(64), prelu3(64), prelu4(128), prelu5(256), dense5({.in = 1152, .out = 256}),
      dense6_1({.in = 256, .out = 2}), dense6_2({.in = 256, .out = 4}), dense6_3({.in = 256, .out = 10}) {}

MtcnnOutput ONet::forward(const Tensor& x) const {
  Tensor h = block(block(x, conv1, prelu1, pool3), conv2, prelu2, pool3);
  h = block(block(h, conv3, prelu3, pool2), conv4, prelu4);
  h = prelu5(mien::dropout(dense5(flatten_whc(h)), dropout, training()));
  return {dense6_1(h), dense6_2(h), dense6_3(h)};
}
void ONet::visit(Visitor& v) {
  v("conv1", conv1);
  v("prelu1", prelu1);
  v("conv2", conv2);
  v("prelu2", prelu2);
  v("conv3", conv3);
  v("prelu3", prelu3);
  v("conv4", conv4);
  v("prelu4", prelu4);
  v("dense5", dense5);
  v("prelu5", prelu5);
  v("dense6_1", dense6_1);
  v("dense6_2", dense6_2);
  v("dense6_3", dense6_3);
}

namespace {

struct Part {
  const char* prefix;
  Module& net;
};
std::vector<Part> parts_of(Mtcnn& m) { return {{"pnet.", m.pnet}, {"rnet.", m.rnet}, {"onet.", m.onet}}; }

std::vector<NamedTensor> with_prefix(const TensorFile& file, const std::string& prefix) {
  std::vector<NamedTensor> out;
  for (const auto& [name, t] : file.tensors)
    if (name.rfind(prefix, 0) == 0) out.push_back({name.substr(prefix.size()), t});
  return out;
}

}  // namespace

TensorFile Mtcnn::to_file() {
  TensorFile file;
  file.metadata = {{"mien.architecture", "mtcnn"}, {"mien.version", "1"}, {"mien.preprocessing", "rgb, (x - 127.5) / 128, area resize"},
                   {"mien.defaults", "min_face 20, thresholds .6 .7 .7, factor .709"}};
  for (const auto& [prefix, net] : parts_of(*this))
    for (const auto& t : net.state_dict()) file.tensors.emplace_back(prefix + t.name, t.value);
  return file;
}

void Mtcnn::load(const TensorFile& file, const std::string& name) {
  const auto architecture = file.metadata.find("mien.architecture");
  if (architecture != file.metadata.end() && architecture->second != "mtcnn")
    throw IoError(IoKind::bad_data, "mtcnn", name, "holds weights of " + architecture->second + ", expected mtcnn");
  LoadReport all;
  for (const auto& [prefix, net] : parts_of(*this)) {
    const LoadReport r = net.check_state_dict(with_prefix(file, prefix));
    for (const auto& m : r.missing) all.missing.push_back(prefix + m);
    for (const auto& m : r.misshaped) all.misshaped.push_back(prefix + m);
    for (const auto& m : r.unexpected) all.unexpected.push_back(prefix + m);
  }
  for (const auto& [tensor, t] : file.tensors)
    if (tensor.rfind("pnet.", 0) != 0 && tensor.rfind("rnet.", 0) != 0 && tensor.rfind("onet.", 0) != 0) all.unexpected.push_back(tensor + " " + describe(t));
  if (!all.ok()) throw IoError(IoKind::bad_data, "mtcnn", name, all.message(), "Give weights of MTCNN; `mien convert --model mtcnn` reads those of other programs.");
  check_finite(file, name);
  for (const auto& [prefix, net] : parts_of(*this)) net.load_state_dict(with_prefix(file, prefix));
}

TensorFile convert_mtcnn(const std::vector<TensorFile>& inputs, const std::string& source) {
  TensorFile joined;
  for (const auto& file : inputs) {
    std::string prefix;
    if (!file.tensors.empty() && file.tensors[0].first.find("net.") != 1)  // no pnet. rnet. onet.: the layers tell which net it is
      prefix = file.find("dense6_1.weight") ? "onet." : file.find("dense5_1.weight") ? "rnet." : "pnet.";
    for (const auto& [name, t] : file.tensors) joined.tensors.emplace_back(prefix + name, cast(t, DType::f32));
  }
  const init::SkipRandom skip;
  Mtcnn nets;
  nets.load(joined, source);
  return nets.to_file();
}

}  // namespace mien
