#include "mien/models/facenet/embedding_net.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "mien/layers/init.h"
#include "mien/models/facenet/convert.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/ops/copy.h"

namespace mien {
namespace {

std::string exact(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", v);
  return text;
}

// Reads one value after the other and says which key is wrong.
class Reader {
 public:
  Reader(const std::map<std::string, std::string>& metadata, const std::string& file) : metadata_(metadata), file_(file) {}
  const std::string* find(const std::string& key) const {
    const auto it = metadata_.find(key);
    return it == metadata_.end() ? nullptr : &it->second;
  }
  const std::string& text(const std::string& key) const {
    if (const std::string* value = find(key)) return *value;
    throw IoError(IoKind::bad_data, "model", file_, "its metadata has no " + key, "Give a model file of mien: `mien convert` makes one of other programs' weights.");
  }
  double number(const std::string& key, double low, double high) const {
    char* end = nullptr;
    const double v = std::strtod(text(key).c_str(), &end);
    if (end == text(key).c_str() || *end || !(v >= low && v <= high)) refuse(key);
    return v;
  }
  std::int64_t integer(const std::string& key, double low, double high) const {
    const double v = number(key, low, high);
    if (v != std::floor(v)) refuse(key);
    return static_cast<std::int64_t>(v);
  }
  [[noreturn]] void refuse(const std::string& key) const {
    throw IoError(IoKind::bad_data, "model", file_, "its metadata has " + key + " = '" + text(key).substr(0, 60) + "', which makes no sense");
  }

 private:
  const std::map<std::string, std::string>& metadata_;
  const std::string& file_;
};

// Checkpoints of other programs often wrap the state dict ("net_state_dict.", "module."): what stands before `first` is taken off every name.
TensorFile without_wrapping(const TensorFile& input, const std::string& first) {
  std::string prefix;
  for (const auto& [name, t] : input.tensors)
    if (name.size() > first.size() && name.compare(name.size() - first.size(), first.size(), first) == 0 && name[name.size() - first.size() - 1] == '.') prefix = name.substr(0, name.size() - first.size());
  TensorFile out;
  for (const auto& [name, t] : input.tensors)
    if (name.rfind(prefix, 0) == 0) out.tensors.emplace_back(name.substr(prefix.size()), t);
  return out;
}

// Other programs' state dicts count the batches that batch norm has seen; nothing here needs it.
bool is_counter(const std::string& name) {
  static const std::string end = "num_batches_tracked";
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::map<std::string, std::string> EmbeddingSpec::to_metadata() const {
  std::map<std::string, std::string> m{{"mien.architecture", architecture}, {"mien.version", "1"}, {"mien.input_height", std::to_string(height)}, {"mien.input_width", std::to_string(width)},
                                       {"mien.embedding_size", std::to_string(size)}, {"mien.mean", exact(mean)}, {"mien.scale", exact(scale)}};
  if (alignment == Alignment::similarity) {
    std::string text;
    for (const auto& p : points) {
      if (!text.empty()) text += " ";
      text += exact(static_cast<double>(p[0])) + "," + exact(static_cast<double>(p[1]));
    }
    m["mien.alignment"] = "similarity";
    m["mien.points"] = text;
  } else {
    m["mien.alignment"] = "box";
    m["mien.margin"] = exact(margin);
  }
  if (threshold) {
    m["mien.threshold"] = exact(*threshold);
    m["mien.threshold_source"] = threshold_source;
    if (threshold_flip) m["mien.threshold_flip"] = *threshold_flip ? "true" : "false";
  }
  if (classes) m["mien.classes"] = std::to_string(classes);
  return m;
}

EmbeddingSpec EmbeddingSpec::from_metadata(const std::map<std::string, std::string>& metadata, const std::string& file) {
  const Reader r(metadata, file);
  EmbeddingSpec s;
  s.architecture = r.text("mien.architecture");
  if (s.architecture != "mobilefacenet" && s.architecture != "inception-resnet-v1")
    throw IoError(IoKind::bad_data, "model", file, "holds weights of " + s.architecture + ", expected a face-embedding net (mobilefacenet, inception-resnet-v1)");
  s.height = r.integer("mien.input_height", 16, 4096);
  s.width = r.integer("mien.input_width", 16, 4096);
  s.size = r.integer("mien.embedding_size", 1, 65536);
  s.mean = r.number("mien.mean", -1e4, 1e4);
  s.scale = r.number("mien.scale", 1e-9, 1e4);
  const std::string& alignment = r.text("mien.alignment");
  if (alignment == "similarity") {
    std::istringstream in(r.text("mien.points"));
    char comma = 0;
    for (auto& p : s.points)
      if (!(in >> p[0] >> comma >> p[1]) || comma != ',' || !std::isfinite(p[0]) || !std::isfinite(p[1])) r.refuse("mien.points");
  } else if (alignment == "box") {
    s.alignment = Alignment::box;
    s.margin = r.number("mien.margin", 0, static_cast<double>(std::min(s.height, s.width)) - 1);
  } else {
    r.refuse("mien.alignment");
  }
  if (r.find("mien.threshold")) {
    s.threshold = r.number("mien.threshold", 0, 4);
    s.threshold_source = r.text("mien.threshold_source");
    if (const auto flip = r.find("mien.threshold_flip")) {
      if (*flip != "true" && *flip != "false") r.refuse("mien.threshold_flip");
      s.threshold_flip = *flip == "true";
    }
  }
  if (r.find("mien.classes")) s.classes = r.integer("mien.classes", 0, 1e8);
  return s;
}

FivePoints five_point_template(std::int64_t height, std::int64_t width) {
  if (height < 1 || (height != width && !(height == 112 && width == 96)))
    throw ValueError("five_point_template", "expects a square or 112x96, got " + std::to_string(height) + "x" + std::to_string(width));
  FivePoints p{{{38.2946f, 51.6963f}, {73.5318f, 51.5014f}, {56.0252f, 71.7366f}, {41.5493f, 92.3655f}, {70.7299f, 92.2041f}}};
  for (auto& q : p) {
    if (width != height) q[0] -= 8;
    for (auto& v : q) v = v * static_cast<float>(height) / 112.f;
  }
  return p;
}

std::unique_ptr<EmbeddingNet> make_embedding_net(const EmbeddingSpec& spec) {
  if (spec.architecture == "mobilefacenet") return std::make_unique<MobileFaceNet>(MobileFaceNetOptions{.height = spec.height, .width = spec.width, .size = spec.size});
  if (spec.architecture == "inception-resnet-v1") return std::make_unique<InceptionResnetV1>(InceptionResnetV1Options{.embedding = spec.size, .classes = spec.classes});
  throw ValueError("make_embedding_net", "there is no net called '" + spec.architecture + "'", "Known: mobilefacenet, inception-resnet-v1.");
}

std::unique_ptr<EmbeddingNet> load_embedding_net(TensorFile file, const std::string& name, EmbeddingSpec* spec) {
  const EmbeddingSpec s = EmbeddingSpec::from_metadata(file.metadata, name);
  check_finite(file, name);
  std::unique_ptr<EmbeddingNet> net;
  const init::SkipRandom skip;
  if (s.architecture == "inception-resnet-v1") net = std::make_unique<InceptionResnetV1>(inception_resnet_v1_options(file, name));  // the tensors tell its repeats and widths
  else net = make_embedding_net(s);
  std::vector<NamedTensor> state;
  for (const auto& [tensor, t] : file.tensors) state.push_back({tensor, t});
  if (const LoadReport report = net->check_state_dict(state); !report.ok())
    throw IoError(IoKind::bad_data, "model", name, report.message(), "Give weights of " + s.architecture + "; `mien convert` reads those of other programs.");
  net->adopt_state_dict(state);
  net->eval();
  if (spec) *spec = s;
  return net;
}

TensorFile to_model_file(EmbeddingNet& net, const EmbeddingSpec& spec) {
  TensorFile file;
  file.metadata = spec.to_metadata();
  for (const auto& t : net.state_dict()) file.tensors.emplace_back(t.name, t.value);
  return file;
}

namespace {

TensorFile convert_mobilefacenet(const TensorFile& input, const std::string& source) {
  TensorFile file;
  for (const auto& [name, t] : input.tensors)
    if (!is_counter(name)) file.tensors.emplace_back(name, cast(t, DType::f32));
  // The last layers tell the sizes.
  const Tensor *field = file.find("linear7.conv.weight"), *last = file.find("linear1.conv.weight");
  if (!field || !last || field->rank() != 4 || last->rank() != 4)
    throw IoError(IoKind::bad_data, "convert", source, "has no 4-dimensional linear7.conv.weight and linear1.conv.weight", "Give MobileFaceNet weights with the names of Xiaoccer's PyTorch code.");
  EmbeddingSpec spec;
  spec.architecture = "mobilefacenet";
  spec.height = field->size(2) * 16;
  spec.width = field->size(3) * 16;
  spec.size = last->size(0);
  spec.points = five_point_template(spec.height, spec.width);
  file.metadata = spec.to_metadata();
  return to_model_file(*load_embedding_net(file, source), spec);
}

// facenet-pytorch crops by the box; 14 is the margin of its LFW evaluation.
TensorFile convert_facenet(const TensorFile& input, const std::string& source) {
  TensorFile file = facenet_tensors(input);
  const InceptionResnetV1Options o = inception_resnet_v1_options(file, source);
  EmbeddingSpec spec;
  spec.architecture = "inception-resnet-v1";
  spec.height = spec.width = 160;
  spec.size = o.embedding;
  spec.classes = o.classes;
  spec.alignment = EmbeddingSpec::Alignment::box;
  spec.margin = 14;
  file.metadata = spec.to_metadata();
  return to_model_file(*load_embedding_net(file, source), spec);
}

}  // namespace

TensorFile convert_embedding_net(const std::string& architecture, const TensorFile& input, const std::string& source) {
  if (architecture == "mobilefacenet") return convert_mobilefacenet(without_wrapping(input, "conv1.conv.weight"), source);
  if (architecture == "inception-resnet-v1" || architecture == "facenet") return convert_facenet(without_wrapping(input, "conv2d_1a.conv.weight"), source);
  throw ValueError("convert", "there is no net called '" + architecture + "'", "Known: mobilefacenet, inception-resnet-v1, facenet.");
}

}  // namespace mien
