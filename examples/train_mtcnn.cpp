// MTCNN from photographs: crops -> P-Net -> its proposals -> R-Net -> its proposals -> O-Net.
//
//   train_mtcnn --voc DIR --landmarks DIR --out runs/mtcnn          all three stages, written to runs/mtcnn/mtcnn.safetensors
//   train_mtcnn --voc DIR --stages p --seconds 60                   one minute of P-Net
//
// Source: Zhang et al., "Joint face detection and alignment using multi-task cascaded convolutional networks", IEEE SPL 2016: three losses at once,
// online hard mining of the class loss (the hardest 70 % count), and each stage learns from the mistakes of the one before.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <sstream>
#include <utility>

#include "common_main.h"
#include "mien/autograd/autograd.h"
#include "mien/data/people.h"
#include "mien/face/detector.h"
#include "mien/io/crc32c.h"
#include "mien/io/safetensors.h"
#include "mien/kernels/parallel.h"
#include "mien/layers/init.h"
#include "mien/models/mtcnn/loss.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/models/mtcnn/samples.h"
#include "mien/ops/copy.h"
#include "mien/ops/reduce.h"
#include "mien/ops/view.h"

using namespace mien;
namespace fs = std::filesystem;

namespace {

struct Settings {
  std::string voc, landmarks, landmark_labels = "labels.txt", landmark_boxes, negatives, exclude, stages = "pro";
  std::int64_t batch = 256, hold_out = 10, p_epochs = 0, r_epochs = 0, o_epochs = 0;
  double lr = .02, weight_decay = 5e-4, smallest_face = 16;
  int workers = 1;
  bool check_majority = false;
};

struct Photos {
  std::vector<LabelledPhoto> train, held_out;
};

// Every hold_out-th photograph of each source is never trained on.
void share_out(Photos& photos, const std::vector<LabelledPhoto>& from, std::int64_t hold_out) {
  for (std::size_t i = 0; i < from.size(); ++i)
    (hold_out > 0 && static_cast<std::int64_t>(i) % hold_out == hold_out - 1 ? photos.held_out : photos.train).push_back(from[i]);
}

Photos load_photos(const Settings& s) {
  std::set<std::string> excluded;
  if (!s.exclude.empty()) {
    for (const auto& line : read_name_lines(s.exclude)) excluded.insert(fs::path(line).stem().string());
  }
  std::vector<LabelledPhoto> voc = read_voc_faces(s.voc);
  std::set<std::string> unknown = excluded;
  for (const auto& p : voc) unknown.erase(fs::path(p.file).stem().string());
  example::tell_unknown("train_mtcnn", s.exclude, {unknown.begin(), unknown.end()}, "picture");
  std::erase_if(voc, [&](const auto& p) { return excluded.contains(fs::path(p.file).stem().string()); });
  Photos photos;
  share_out(photos, voc, s.hold_out);
  if (!s.landmarks.empty()) {
    const auto at = [&](const std::string& leaf) { return leaf.empty() || fs::path(leaf).is_absolute() ? leaf : s.landmarks + "/" + leaf; };
    share_out(photos, read_five_points(s.landmarks, at(s.landmark_labels), at(s.landmark_boxes)), s.hold_out);
  }
  if (!s.negatives.empty())
    for (const auto& file : list_images(s.negatives)) photos.train.push_back({file, {}, true});
  return photos;
}

// Which photographs, wherever they lie, and what is labelled in them.
std::string fingerprint(const std::vector<LabelledPhoto>& photos) {
  std::ostringstream text;
  std::error_code gone;
  for (const auto& p : photos) {
    text << fs::path(p.file).filename().string() << " " << fs::file_size(p.file, gone);
    for (const auto& f : p.faces) {
      for (const float v : f.box) text << " " << v;
      for (const auto& point : f.points.value_or(std::array<std::array<float, 2>, 5>{})) text << " " << point[0] << " " << point[1];
    }
    text << "\n";
  }
  return example::fingerprint(photos.size(), crc32c(std::as_bytes(std::span(text.view()))));
}

// One stage of the cascade: how its net is called and what its crops are.
template <class Net>
struct Stage {
  const char* name;
  std::int64_t size;
  double point_weight;
  Net& net;
};

mtcnn::SamplingOptions sampling(const Settings& s, const LabelledPhoto& photo, std::int64_t size, std::uint64_t seed) {
  mtcnn::SamplingOptions o;
  o.seed = seed;
  o.smallest_face = static_cast<float>(s.smallest_face);
  const bool five_points = !photo.faces.empty() && photo.faces[0].points.has_value();
  if (size == 12) {
    o.negatives_per_photo = photo.faces.empty() ? 250 : 100;
    o.negatives_per_face = five_points ? 3 : 10;
    o.tries_per_face = five_points ? 10 : 40;
  } else {
    o.negatives_per_photo = photo.faces.empty() ? 40 : 20;
    o.negatives_per_face = five_points ? 3 : 5;
    o.tries_per_face = size == 24 ? (five_points ? 8 : 30) : (five_points ? 8 : 24);
    o.landmarks_per_face = size == 48 && five_points ? 6 : 0;
    o.max_negatives = size == 24 ? 120 : 80;
  }
  return o;
}

// Crops of all photographs and their mirror images. `propose` gives the squares of the stage before; empty for P-Net.
mtcnn::SampleSet collect(const std::vector<LabelledPhoto>& photos, std::int64_t size, std::uint64_t seed, const Settings& s, const std::string& what,
                         const std::function<std::vector<mtcnn::Box>(const Image&)>& propose, example::Progress& progress) {
  const NoGrad guard;
  mtcnn::SampleSet set(size);
  std::uint64_t stream = 0;
  int unreadable = 0;
  for (std::size_t i = 0; i < photos.size() && !example::signal_received(); ++i) {
    progress.update(static_cast<std::int64_t>(i), static_cast<std::int64_t>(photos.size()), what);
    const auto options = sampling(s, photos[i], size, seed);
    try {
      const mtcnn::Scene scene = mtcnn::read_scene(photos[i]);
      for (const auto& view : {scene, mtcnn::mirrored(scene)}) {
        mtcnn::add_random_crops(set, view, stream++, options);
        if (propose) mtcnn::add_proposals(set, view, propose(view.image), options);
      }
    } catch (const IoError& e) {  // one broken picture must not end a training; too many mean a wrong folder
      progress.line(e.what());
      if (++unreadable * 100 > static_cast<int>(photos.size())) throw;
    }
  }
  char text[200];
  std::snprintf(text, sizeof text, "%s: %ld photographs, %ld crops: %ld positive, %ld part, %ld negative, %ld with points", what.c_str(), static_cast<long>(photos.size()),
                static_cast<long>(set.count()), static_cast<long>(set.count(mtcnn::positive)), static_cast<long>(set.count(mtcnn::part)),
                static_cast<long>(set.count(mtcnn::negative)), static_cast<long>(set.count(mtcnn::landmark)));
  progress.line(text);
  return set;
}

// Share of positives and negatives that the net tells apart, and what always answering with the larger class would reach.
struct ClassCount {
  std::int64_t right = 0, faces = 0, all = 0;
  void add(const Tensor& logits_there, const Tensor& labels_there) {
    const Tensor logits = on_cpu(logits_there), labels = on_cpu(labels_there);
    for (std::int64_t i = 0; i < labels.numel(); ++i) {
      const std::int64_t label = labels.data<std::int64_t>()[i];
      if (label < 0) continue;
      const bool face = logits.at<float>({i, 1}) > logits.at<float>({i, 0});
      right += face == (label == 1);
      faces += label == 1;
      ++all;
    }
  }
  double accuracy() const { return all ? static_cast<double>(right) / static_cast<double>(all) : 0; }
  double majority() const { return all ? static_cast<double>(std::max(faces, all - faces)) / static_cast<double>(all) : 0; }
};

template <class Net>
example::TrainResult train_stage(const Stage<Net>& stage, const mtcnn::SampleSet& train, const mtcnn::SampleSet& held_out, const Settings& s,
                                 example::TrainOptions options, std::int64_t epochs) {
  options.out += std::string("/") + stage.name;
  if (epochs > 0) options.epochs = epochs;
  options.best_metric = "held_out_accuracy";
  for (auto& p : stage.net.parameters())
    if (p.value.rank() >= 2) init::kaiming_normal(p.value, .25);
    else if (p.name.find("bias") != std::string::npos) init::constant(p.value, 0);
  stage.net.require_grad();
  stage.net.to(options.device);
  Loader loader({.size = train.count(), .batch = s.batch, .seed = options.seed, .workers = s.workers},
                [&](std::span<const std::int64_t> rows, std::uint64_t epoch) { return mtcnn::make_batch(train, rows, epoch, options.seed, true); });
  Sgd optimizer({.lr = s.lr, .momentum = .9, .weight_decay = s.weight_decay});
  optimizer.add_group(stage.net.parameters());
  const auto scaler = example::make_scaler(options.autocast);
  const auto parameters = stage.net.parameters();
  const auto losses_of = [&](const Batch& b) {
    auto out = stage.net.forward(b[0]);
    for (Tensor* t : {&out.logits, &out.boxes, &out.points})
      if (t->defined()) *t = cast(*t, DType::f32);  // losses are f32 also where the net computes in 16 bits
    return std::pair{out, mtcnn::three_task_loss(out.logits, out.boxes, out.points, b[1], b[2], b[3], {.points = stage.point_weight})};
  };
  const auto step = [&](const Batch& b) -> example::Metrics {
    const auto [out, losses] = losses_of(b);
    ClassCount count;
    count.add(out.logits.detach(), b[1]);
    example::Metrics m{{"loss", losses.total.item()}, {"class_loss", losses.cls.item()}, {"box_loss", losses.box.item()}};
    if (losses.points.defined()) m.emplace_back("point_loss", losses.points.item());
    m.emplace_back("accuracy", count.accuracy());
    example::learn(losses.total, optimizer, parameters, 0, scaler.get());
    return m;
  };
  const auto evaluate = [&]() -> example::Metrics {
    ClassCount count;
    double loss = 0, batches = 0;
    std::vector<std::int64_t> rows;
    for (std::int64_t begin = 0; begin < held_out.count(); begin += 512, ++batches) {
      rows.clear();
      for (std::int64_t i = begin; i < std::min(begin + 512, held_out.count()); ++i) rows.push_back(i);
      const Batch b = example::on_device(mtcnn::make_batch(held_out, rows, 0, 0, false), options.device);
      const auto [out, losses] = losses_of(b);
      count.add(out.logits, b[1]);
      loss += losses.total.item();
    }
    return {{"held_out_loss", batches > 0 ? loss / batches : 0}, {"held_out_accuracy", count.accuracy()}, {"held_out_majority", count.majority()}};
  };
  const std::int64_t total = options.epochs * loader.batches();
  // Half a cosine after a short warm-up: nothing to tune but the first rate.
  const auto lr = [&, total](std::int64_t, std::int64_t step_number) {
    const double warm = std::min(1.0, static_cast<double>(step_number + 1) / 200.0), share = static_cast<double>(step_number) / static_cast<double>(total);
    return s.lr * warm * (.5 * (1 + std::cos(3.14159265358979 * std::min(share, 1.0))) + .002);
  };
  const auto result = example::run_training({stage.net, optimizer, loader, lr, step, evaluate, nullptr, scaler.get()}, options);
  stage.net.require_grad(false);
  stage.net.to(Device::cpu());
  return result;
}

void save_all(Mtcnn& nets, const std::string& path, const std::string& recipe) {
  TensorFile file = nets.to_file();
  file.metadata["mien.recipe"] = recipe;
  save_safetensors(path, file);
}

std::uint32_t checksum(Module& net, std::uint32_t before) {
  for (const auto& t : net.state_dict()) {
    const auto values = t.value.to_vector();  // whatever their order in memory
    before = crc32c(std::as_bytes(std::span(values)), before);
  }
  return before;
}

// Prints a stage's last figures. True when its held-out accuracy is above the rate of the larger class.
bool report(const std::string& stage, const example::TrainResult& result) {
  std::map<std::string, double> last;
  if (!result.history.empty()) {
    for (const auto& [name, value] : result.history.back().second) std::printf("%s %s %.5f\n", stage.c_str(), name.c_str(), last[name] = value);
    std::printf("%s seconds %.1f\n", stage.c_str(), result.seconds);
    std::fflush(stdout);
  }
  return last["held_out_accuracy"] > last["held_out_majority"];
}

int run(int argc, char** argv) {
  CLI::App app{"Trains MTCNN's P-, R- and O-Net from photographs with VOC boxes and five-point files."};
  Settings s;
  example::TrainOptions options{.out = "runs/mtcnn", .epochs = 6};
  app.add_option("--voc", s.voc, "Folder with images/ and annotations/ (VOC XML)")->required();
  app.add_option("--exclude", s.exclude, "File with picture names that must not be used");
  app.add_option("--landmarks", s.landmarks, "Folder with pictures and a five-point file; O-Net's landmarks need it");
  app.add_option("--landmark-labels", s.landmark_labels, "Its label file: path x1..x5 y1..y5")->capture_default_str();
  app.add_option("--landmark-boxes", s.landmark_boxes, "Boxes of the same pictures: path x1 y1 x2 y2");
  app.add_option("--negatives", s.negatives, "Picture, folder or @LIST of pictures without any face");
  app.add_option("--stages", s.stages, "Which stages, in this order: p, r, o")->capture_default_str()->check([](const std::string& v) {
    return v.empty() || std::string("pro").find(v) == std::string::npos ? std::string("expected a run of p, r, o, e.g. pro or p") : std::string();
  });
  app.add_option("--batch", s.batch, "Crops per step")->capture_default_str()->check(cli::whole_number(1, 65536));
  app.add_option("--hold-out", s.hold_out, "Every N-th photograph is held out (0: none)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--lr", s.lr, "First learning rate")->capture_default_str()->check(cli::above_zero());
  app.add_option("--weight-decay", s.weight_decay, "L2 penalty")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--smallest-face", s.smallest_face, "Smaller faces give no positive crops (pixels)")->capture_default_str()->check(cli::above_zero());
  app.add_option("--p-epochs", s.p_epochs, "Epochs of P-Net (0: --epochs)")->check(cli::zero_or_more());
  app.add_option("--r-epochs", s.r_epochs, "Epochs of R-Net (0: --epochs)")->check(cli::zero_or_more());
  app.add_option("--o-epochs", s.o_epochs, "Epochs of O-Net (0: --epochs)")->check(cli::zero_or_more());
  example::add_workers(app, s.workers);
  app.add_flag("--check-majority", s.check_majority, "Exit 1 unless the held-out accuracy of each stage trained here is above the rate of the larger class");
  example::add_train_options(app, options);
  if (const int code = example::parse(app, argc, argv); code >= 0) return code;
  if (s.smallest_face < 12 && s.stages != "p")  // P-Net's window: the stages after it learn from what the detector proposes
    throw ValueError("--smallest-face", "must be at least 12 pixels for the stages r and o, got " + std::to_string(s.smallest_face));
  example::make_out("train_mtcnn", options.out);

  example::Progress progress(example::Progress::parse(options.progress));
  const Photos photos = load_photos(s);
  options.settings = example::settings_of(app, {"--voc", "--exclude", "--landmarks", "--landmark-labels", "--landmark-boxes", "--negatives", "--stages", "--p-epochs",
                                                "--r-epochs", "--o-epochs", "--check-majority"});
  options.settings["training photographs"] = fingerprint(photos.train);
  options.settings["held-out photographs"] = fingerprint(photos.held_out);
  const std::string weights = options.out + "/mtcnn.safetensors";
  manual_seed(options.seed);
  Mtcnn nets;
  // A run goes on at the last stage that has begun: that one has learnt from what those before it propose, so they are finished.
  std::size_t first = 0;
  std::int64_t steps = 0, steps_of_first = 0;
  for (std::size_t i = 0; options.resume && i < s.stages.size(); ++i)
    if (const auto taken = example::steps_taken(options.out + "/" + s.stages[i])) {
      first = i;
      steps += std::exchange(steps_of_first, *taken);
    }
  if (s.stages[first] != 'p' || (options.resume && fs::exists(weights))) nets.load(load_safetensors(weights));  // stages before the first asked for
  double seconds = 0;
  bool above = true;
  for (std::size_t i = first; i < s.stages.size(); ++i) {
    const char stage = s.stages[i];
    const std::int64_t size = stage == 'p' ? 12 : stage == 'r' ? 24 : 48;
    std::function<std::vector<mtcnn::Box>(const Image&)> propose;
    DetectorOptions loose{.min_face = s.smallest_face, .thresholds = {.4f, .3f, .5f}};
    std::unique_ptr<Detector> detector;
    if (stage != 'p') {
      detector = std::make_unique<Detector>(nets, loose);
      propose = [&detector, stage](const Image& image) { return stage == 'r' ? detector->propose(image, 1) : detector->propose(image, 2); };
    }
    const std::string name(1, stage);
    const auto train = collect(photos.train, size, options.seed, s, name + " training crops", propose, progress);
    const auto held_out = collect(photos.held_out, size, options.seed + 1, s, name + " held-out crops", propose, progress);
    if (example::signal_received()) return 128 + example::signal_received();
    example::TrainOptions now = options;
    now.resume = options.resume && i == first;
    std::uint32_t before = 0;
    if (stage != 'p') before = checksum(nets.pnet, before);
    if (stage == 'o') before = checksum(nets.rnet, before);
    now.settings["nets of the stages before"] = std::to_string(before);
    // Limits count over all stages. (A stage that is resumed has taken a step already: with 1 it ends at once.)
    if (options.max_steps > 0) now.max_steps = std::max<std::int64_t>(1, options.max_steps - steps);
    if (options.seconds > 0) now.seconds = options.seconds - seconds;
    example::TrainResult result;
    if (stage == 'p') result = train_stage<PNet>({"p", 12, .5, nets.pnet}, train, held_out, s, now, s.p_epochs);
    if (stage == 'r') result = train_stage<RNet>({"r", 24, .5, nets.rnet}, train, held_out, s, now, s.r_epochs);
    if (stage == 'o') result = train_stage<ONet>({"o", 48, 1, nets.onet}, train, held_out, s, now, s.o_epochs);
    save_all(nets, weights, "train_mtcnn seed " + std::to_string(options.seed));
    above = report(name, result) && above;
    if (result.end == example::TrainEnd::interrupted) return 128 + example::signal_received();
    steps += result.steps;
    seconds += result.seconds;
    if (result.end == example::TrainEnd::time_up || (options.seconds > 0 && seconds >= options.seconds)) break;
  }
  std::printf("saved %s\n", weights.c_str());
  if (s.check_majority && !above) {
    std::fprintf(stderr, "train_mtcnn: the held-out accuracy is not above the majority-class rate. Train longer or look at the data.\n");
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return example::guarded_main("train_mtcnn", [&] { return run(argc, argv); }); }
