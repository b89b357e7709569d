#include "work.h"

#include <filesystem>

#include "mien/autograd/autograd.h"
#include "mien/infer/infer.h"
#include "mien/io/torch_file.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/precision.h"
#include "mien/models/facenet/embedding_net.h"
#include "mien/models/facenet/inception_resnet_v1.h"
#include "mien/models/lenet/lenet.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/models/mtcnn/inference.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/autocast.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/reduce.h"
#include "mien/ops/resize.h"
#include "mien/ops/shape.h"
#include "mien/ops/softmax.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/optim/optimizer.h"

namespace mien::bench {
namespace {

constexpr std::int64_t people = 10575;  // classes behind an embedding while training: those of CASIA-WebFace

// A net in the terms that the work needs: tensors in, tensors out, and a loss.
struct Net {
  std::string name;
  std::unique_ptr<Module> module{};
  std::function<std::vector<Tensor>(const Tensor&)> forward{};
  std::unique_ptr<Linear> head{};  // embeddings to people
  std::int64_t height = 0, width = 0, channels = 3, classes = 0;
};

std::vector<Tensor> defined(const MtcnnOutput& o) { return o.points.defined() ? std::vector{o.logits, o.boxes, o.points} : std::vector{o.logits, o.boxes}; }

template <class M, class F>
Net net_of(std::string name, std::unique_ptr<M> module, std::int64_t height, std::int64_t width, F forward) {
  Net net{.name = std::move(name), .height = height, .width = width};
  net.forward = [m = module.get(), forward](const Tensor& x) { return forward(*m, x); };
  net.module = std::move(module);
  return net;
}

Net embedding(std::string name, std::unique_ptr<EmbeddingNet> module, std::int64_t height, std::int64_t width) {
  const std::int64_t size = module->embedding_size();
  Net net = net_of(std::move(name), std::move(module), height, width, [](EmbeddingNet& m, const Tensor& x) { return std::vector{m.forward(x)}; });
  net.head = std::make_unique<Linear>(LinearOptions{.in = size, .out = people});
  net.classes = people;
  return net;
}

template <class M>
Net mtcnn_net(const char* name, std::int64_t side) {
  return net_of(name, std::make_unique<M>(), side, side, [](M& m, const Tensor& x) { return defined(m.forward(x)); });
}

struct Named {
  const char* name;
  Net (*make)();
};
// No dropout: the same work gives the same loss elsewhere.
constexpr Named nets[] = {
    {"inception-resnet-v1", [] { return embedding("inception-resnet-v1", std::make_unique<InceptionResnetV1>(InceptionResnetV1Options{.dropout = 0}), 160, 160); }},
    {"mobilefacenet", [] { return embedding("mobilefacenet", std::make_unique<MobileFaceNet>(MobileFaceNetOptions{.height = 112, .width = 112, .size = 512}), 112, 112); }},
    {"pnet", [] { return mtcnn_net<PNet>("pnet", 12); }},
    {"rnet", [] { return mtcnn_net<RNet>("rnet", 24); }},
    {"onet", [] { return mtcnn_net<ONet>("onet", 48); }},
    {"lenet",
     [] {
       Net net = net_of("lenet", std::make_unique<LeNet>(), 28, 28, [](LeNet& m, const Tensor& x) { return std::vector{m.forward(x)}; });
       net.channels = 1;
       net.classes = 10;
       return net;
     }},
};

Net make_net(const std::string& model) {
  for (const Named& n : nets)
    if (model == n.name) return n.make();
  if (!std::filesystem::exists(model)) {
    std::string known;
    for (const Named& n : nets) known += std::string(known.empty() ? "" : ", ") + n.name;
    throw IoError(IoKind::missing, "bench", model, "there is no such model file", "Nets by name: " + known + ".");
  }
  const TensorFile file = load_safetensors(model);
  EmbeddingSpec spec;
  auto loaded = load_embedding_net(file, model, &spec);
  return embedding(spec.architecture, std::move(loaded), spec.height, spec.width);
}

// What the library has for inference: one plan, a session for each input (the scales of a pyramid keep their sizes).
class Planned {
 public:
  Planned(const Net& net, const std::vector<Tensor>& inputs, DType dtype, Device device) {
    const auto forward = [&](std::span<const Tensor> x) { return net.forward(x[0]); };
    const auto plan = infer::compile(forward, {slice(inputs[0], 0, 0, 1)}, {.dtype = dtype, .device = device, .any_size = inputs.size() > 1});
    for (std::size_t i = 0; i < inputs.size(); ++i) sessions_.emplace_back(plan);
  }
  std::span<const Tensor> run(std::size_t i, const Tensor& input) { return sessions_[i].run({&input, 1}); }

 private:
  std::vector<infer::Session> sessions_;
};

// R-Net and O-Net in f32 have a faster way than a plan, the detector's: contiguous crops in, one row a crop out. Empty for other nets.
using Rows = std::function<Tensor(const Tensor&)>;
Rows detector_net(const Net& net, Device device) {
  Mtcnn all;
  if (net.name == "rnet") all.rnet.load_state_dict(net.module->state_dict());
  else if (net.name == "onet") all.onet.load_state_dict(net.module->state_dict());
  else return {};
  const auto inference = std::make_shared<mtcnn::Inference>(all, device);
  if (net.name == "rnet") return [inference](const Tensor& x) { return inference->rnet(x); };
  return [inference](const Tensor& x) { return inference->onet(x); };
}
// The columns of such rows as the net's outputs: logits, boxes, points.
std::vector<Tensor> outputs_of(const Tensor& rows) {
  std::vector<Tensor> out{slice(rows, 1, 0, 2), slice(rows, 1, 2, 6)};
  if (rows.size(1) > 6) out.push_back(slice(rows, 1, 6, rows.size(1)));
  return out;
}

// P-Net over a pyramid in f32 as the detector runs it: from the photograph to the cells that reach the threshold, scaling included, maps left out.
class Candidates {
 public:
  Candidates(PNet& net, std::int64_t width, std::int64_t height, const std::vector<Shape>& scales, Device device)
      : bytes_(cast(randint(0, 256, {height, width, 3}), DType::u8)), pixels_(permute(to(bytes_, device), {2, 0, 1})), nets_(with(net, device)) {
    std::vector<std::int64_t> sides;
    for (const Shape& s : scales) sides.insert(sides.end(), {s[2], s[3]});
    sizes_ = to(Tensor::from(sides, {static_cast<std::int64_t>(scales.size()), 2}), device);
  }
  PnetCandidates run(float threshold) const { return nets_.candidates(pixels_, sizes_, threshold); }
  // A scale's picture as the net alone takes it.
  Tensor scaled(const Shape& s) const { return channels_last(affine(resize_area(cast(unsqueeze(permute(bytes_, {2, 0, 1}), 0), DType::f32), {s[2], s[3]}), 1. / 128, -127.5 / 128)); }
  // Throws unless every cell has the probability and the offsets of the maps.
  void check(const std::vector<std::vector<Tensor>>& maps) const {
    const Tensor all = to(run(0).values, Device::cpu());
    std::int64_t row = 0;
    for (const auto& m : maps) {
      const auto flat = [](const Tensor& x) { return reshape(permute(x, {0, 2, 3, 1}), {x.size(2) * x.size(3), x.size(1)}); };  // a cell a row
      const Tensor expected = concat({slice(flat(softmax(m[0], 1)), 1, 1, 2), flat(m[1])}, 1), got = slice(all, 0, row, row + expected.size(0));
      row += expected.size(0);
      if (const double off = max(abs(got - expected)).item(); !(off <= 1e-4))
        throw InternalError("bench", "P-Net's candidates differ from its maps by " + std::to_string(off));
    }
  }

 private:
  static mtcnn::Inference with(PNet& net, Device device) {
    Mtcnn all;
    all.pnet.load_state_dict(net.state_dict());
    return mtcnn::Inference(all, device);
  }
  Tensor bytes_, pixels_, sizes_;  // u8 [H, W, 3] on the CPU; where the nets run: u8 [3, H, W], channels side by side, and i64 [S, 2]
  mtcnn::Inference nets_;
};

// Everything a model's closures need.
struct State {
  Net net;
  std::vector<Tensor> inputs;
  Tensor labels, boxes, points;
  std::unique_ptr<Sgd> optimizer;
  std::optional<double> first_loss;

  Tensor loss(const std::vector<Tensor>& out) {
    if (net.head) return cross_entropy((*net.head)(out[0]), labels);
    if (net.classes > 0) return cross_entropy(out[0], labels);
    return mtcnn::three_task_loss(out[0], out[1], out.size() > 2 ? out[2] : Tensor(), labels, boxes, points, {.points = out.size() > 2 ? 1 : .5}).total;
  }
  void step() {
    const Tensor value = loss(net.forward(inputs[0]));
    if (!first_loss) first_loss = value.item();
    backward(value);
    optimizer->step();
    optimizer->zero_grad();
  }
};

// As a detector scales: the sizes of its pyramid.
std::vector<Shape> pyramid(std::int64_t width, std::int64_t height, const DetectorOptions& o) {
  std::vector<Shape> shapes;
  double scale = 12 / o.min_face, side = static_cast<double>(std::min(width, height)) * scale;
  for (; side >= 12; scale *= o.factor, side *= o.factor)
    shapes.push_back({1, 3, static_cast<std::int64_t>(static_cast<double>(height) * scale + 1), static_cast<std::int64_t>(static_cast<double>(width) * scale + 1)});
  return shapes;
}

// The labels of a training step: of MTCNN a quarter each of faces, others, part faces and landmark faces, as its batches are filled.
void make_targets(State& s, std::int64_t batch) {
  if (s.net.classes > 0) {
    s.labels = randint(0, s.net.classes, {batch});
    return;
  }
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < batch; ++i) rows.push_back(std::array<std::int64_t, 4>{1, 0, -1, -2}[static_cast<std::size_t>(i % 4)]);
  s.labels = Tensor::from(rows, {batch});
  s.boxes = randn({batch, 4});
  if (s.net.name == "onet") s.points = randn({batch, 10});
}

void save_all(const std::string& folder, const std::string& stem, const std::vector<Tensor>& tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) save_npy(folder + "/" + stem + "-" + std::to_string(i) + ".npy", contiguous(tensors[i].detach()));
}

void dump_start(const std::string& folder, State& s) {
  std::error_code error;
  if (!std::filesystem::create_directories(folder, error) && error) throw IoError(IoKind::cannot_create, "bench", folder, "can't be made: " + error.message());
  TensorFile file;
  for (auto& [n, t] : s.net.module->state_dict()) file.tensors.emplace_back(n, t.detach());
  if (s.net.head && s.labels.defined())
    for (auto& [n, t] : s.net.head->state_dict()) file.tensors.emplace_back("head." + n, t.detach());
  save_safetensors(folder + "/weights.safetensors", file);
  save_all(folder, "input", s.inputs);
  std::vector<Tensor> targets;
  for (const Tensor& t : {s.labels, s.boxes, s.points})
    if (t.defined()) targets.push_back(t);
  save_all(folder, "target", targets);
}

Work training(const std::shared_ptr<State>& s, const ModelOptions& o) {
  s->net.module->train();
  s->net.module->require_grad();
  s->net.module->to(o.device);
  s->optimizer = std::make_unique<Sgd>(SgdOptions{.lr = .001, .momentum = .9, .weight_decay = 5e-4});
  std::vector<NamedTensor> all = s->net.module->parameters();
  if (s->net.head && o.mode == Mode::train) {
    s->net.head->require_grad();
    s->net.head->to(o.device);
    for (auto& [n, t] : s->net.head->parameters()) all.push_back({"head." + n, t});
  }
  s->optimizer->add_group(all);
  Work w;
  if (o.mode == Mode::train) {
    for (Tensor* t : {&s->inputs[0], &s->labels, &s->boxes, &s->points})
      if (t->defined()) *t = to(*t, o.device);
    w.run = [s, dtype = o.dtype] {
      const Autocast guard(dtype);
      s->step();
    };
    w.loss = [s] { return s->first_loss.value(); };
  } else {
    for (auto& [n, t] : all) set_grad(t, randn(t.shape(), {.device = o.device}));
    w.run = [s] { s->optimizer->step(); };
  }
  w.eager = w.run;
  return w;
}

}  // namespace

const char* name(Mode mode) noexcept {
  static constexpr const char* names[] = {"inference", "train", "update"};
  return names[static_cast<int>(mode)];
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Named& n : nets) names.emplace_back(n.name);
  return names;
}

Work model_work(const ModelOptions& o) {
  if (o.dtype != DType::f32 && o.mode == Mode::update) throw ValueError("--dtype", std::string("an optimizer's step computes in f32, not in ") + name(o.dtype));
  if (o.dtype == DType::bf16 && o.mode == Mode::train && o.device.is_cpu()) set_matmul_precision(Precision::bf16);  // tensors stay f32
  const bool scales = o.pyramid_width > 0;
  if (scales && (o.model != "pnet" || o.mode != Mode::inference || o.batch != 1)) throw ValueError("--pyramid", "is for inference of pnet with --batch 1");
  manual_seed(1);
  const auto s = std::make_shared<State>();
  s->net = make_net(o.model);
  std::shared_ptr<const Candidates> candidates;
  if (scales) {
    auto* pnet = dynamic_cast<PNet*>(s->net.module.get());
    s->net.forward = [pnet](const Tensor& x) { return defined(pnet->maps(x)); };
    const std::vector<Shape> shapes = pyramid(o.pyramid_width, o.pyramid_height, {.min_face = o.min_face});
    if (shapes.empty()) throw ValueError("--pyramid", "the picture is smaller than --min-face");
    candidates = std::make_shared<Candidates>(*pnet, o.pyramid_width, o.pyramid_height, shapes, o.device);
    for (const Shape& shape : shapes) s->inputs.push_back(candidates->scaled(shape));
  } else {
    s->inputs.push_back(randn({o.batch, s->net.channels, s->net.height, s->net.width}, {.layout = Layout::channels_last}));
  }
  if (o.mode == Mode::train) make_targets(*s, o.batch);
  if (!o.dump.empty()) dump_start(o.dump, *s);
  Work w;
  if (o.mode == Mode::inference) {
    s->net.module->eval();
    std::vector<Tensor> out;
    if (const Rows rows = o.dtype == DType::f32 ? detector_net(s->net, o.device) : Rows{}) {
      const Tensor crops = to(contiguous(s->inputs[0]), o.device);
      w.run = [rows, crops] {
        const NoGrad guard;
        rows(crops);
      };
      out = outputs_of(rows(crops));
    } else if (candidates && o.dtype == DType::f32) {
      const NoGrad guard;
      std::vector<std::vector<Tensor>> maps;
      w.run = [candidates] { candidates->run(DetectorOptions{}.thresholds[0]); };
      for (const Tensor& x : s->inputs) maps.push_back(s->net.forward(x));
      candidates->check(maps);
      out = maps[0];
    } else {
      const auto planned = std::make_shared<Planned>(s->net, s->inputs, o.dtype, o.device);
      std::vector<Tensor> there;
      for (const Tensor& x : s->inputs) there.push_back(to(x, o.device));
      w.run = [there, planned] {
        for (std::size_t i = 0; i < there.size(); ++i) planned->run(i, there[i]);
      };
      const auto first = planned->run(0, there[0]);
      out.assign(first.begin(), first.end());
    }
    w.eager = [s] {
      const NoGrad guard;
      for (const Tensor& x : s->inputs) s->net.forward(x);
    };
    if (!o.dump.empty()) save_all(o.dump, "output", out);
  } else {
    w = training(s, o);
  }
  if (!o.device.is_cpu())
    w.run = [run = w.run, device = o.device] {
      run();
      synchronize(device);
    };
  w.device = o.device;
  w.net = s->net.name;
  if (!o.device.is_cpu()) w.dtype = o.mode == Mode::train ? o.dtype : DType::f32;
  else if (max_cpu_level() >= Level::amx) w.dtype = o.dtype;
  w.items = scales || o.mode == Mode::update ? 1 : o.batch;
  w.parameters = s->net.module->parameter_count();
  if (o.mode != Mode::update)
    for (const Tensor& x : s->inputs) w.inputs.push_back(x.shape());
  return w;
}

Work detect_work(const Detector& detector, const Image& image) {
  Work w;
  w.net = "mtcnn";
  w.device = detector.options().device;
  w.inputs = {Shape{image.height, image.width, 3}};
  w.run = [&detector, &image] { detector.detect(image); };
  // P-Net over the pyramid, R- and O-Net on as many windows as the stages before them leave; the values don't matter.
  const std::array<std::size_t, 2> windows{detector.propose(image, 1).size(), detector.propose(image, 2).size()};
  w.eager = [&detector, &image, windows] {
    const NoGrad guard;
    const Mtcnn nets;
    for (const Shape& shape : pyramid(image.width, image.height, detector.options())) nets.pnet.maps(zeros(shape));
    for (std::size_t i = 0; i < windows[0]; ++i) nets.rnet.forward(zeros({1, 3, 24, 24}));
    for (std::size_t i = 0; i < windows[1]; ++i) nets.onet.forward(zeros({1, 3, 48, 48}));
  };
  return w;
}

}  // namespace mien::bench
