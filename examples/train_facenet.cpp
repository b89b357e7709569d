// A face-embedding net from pictures of people: detect and align once, then learn to tell the people apart.
//
//   train_facenet --data PEOPLE --out runs/facenet                                   one folder a person; MobileFaceNet with CosFace
//   train_facenet --data PEOPLE --init mobilefacenet.safetensors --lr .01            goes on from a trained net
//   train_facenet --data PEOPLE --loss none --triplets semi-hard --pk 15x6           FaceNet's way
//   train_facenet --data PEOPLE --dry-run                                            what it would take
//
// Sources: Schroff et al., "FaceNet", CVPR 2015 (triplets); Wang et al., "CosFace", CVPR 2018; Deng et al., "ArcFace", CVPR 2019; Chen et al.,
// "MobileFaceNets", 2018.
#include <algorithm>
#include <cmath>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>

#include "common_main.h"
#include "commands.h"
#include "folds.h"
#include "mien/autograd/autograd.h"
#include "mien/data/augment.h"
#include "mien/data/encode.h"
#include "mien/data/lfw.h"
#include "mien/data/sampler.h"
#include "mien/face/aligned_set.h"
#include "mien/face/embedder.h"
#include "mien/io/crc32c.h"
#include "mien/io/file.h"
#include "mien/io/safetensors.h"
#include "mien/metrics/verification.h"
#include "mien/models/facenet/objective.h"
#include "mien/ops/autocast.h"
#include "mien/ops/copy.h"
#include "mien/ops/reduce.h"
#include "mien/tensor/generator.h"

using namespace mien;
namespace fs = std::filesystem;

namespace {

struct Settings {
  std::string data, only, without, detector, net, init, cache, pk, optimizer = "sgd", schedule = "cosine", max_bad = "1%";
  std::string lfw, pairs;
  std::vector<int> lfw_folds;
  std::optional<double> margin;  // without: what suits the loss
  double min_face = 40, lr = .1, weight_decay = 5e-4, momentum = .9, head_lr = 1, ema = 0, augment = 1, clip = 0;
  std::vector<std::int64_t> milestones, size;
  std::int64_t batch = 128, min_pictures = 1, warm_up = 200, embedding = 0, lfw_every = 1;
  int workers = 1, lfw_inner = 0;
  bool dry_run = false, centre = false, singles = false;
  ObjectiveOptions objective;
};

// --- what is trained --------------------------------------------------------------------------------------------------

// The net and what it is trained towards, as one module: what checkpoints keep.
struct Trainee : Module {
  EmbeddingNet& net;
  EmbeddingObjective objective;
  Trainee(EmbeddingNet& n, const ObjectiveOptions& o) : net(n), objective(o) {}
  void visit(Visitor& v) override {
    v("net", net);
    v("objective", objective);
  }
};

EmbeddingSpec new_spec(const Settings& s) {
  EmbeddingSpec spec;
  const bool mobile = s.net != "inception-resnet-v1";
  spec.architecture = mobile ? "mobilefacenet" : "inception-resnet-v1";
  spec.height = s.size.empty() ? (mobile ? 112 : 160) : s.size[0];
  spec.width = s.size.empty() ? (mobile ? 96 : 160) : s.size[1];
  spec.size = s.embedding > 0 ? s.embedding : mobile ? 128 : 512;
  spec.points = five_point_template(spec.height, spec.width);
  return spec;
}

// --- the data ---------------------------------------------------------------------------------------------------------

AlignedSet load_people(const Settings& s, const EmbeddingSpec& spec, const Detector& detector, const std::string& detector_id, const std::string& out, example::Progress& progress) {
  const People people = read_people(s.data, {.only = s.only.empty() ? std::set<std::string>{} : read_names(s.only),
                                             .without = s.without.empty() ? std::set<std::string>{} : read_names(s.without), .min_pictures = s.min_pictures});
  example::tell_unknown("train_facenet", s.without, people.unknown, "person");
  AlignOptions o;
  o.cache = s.cache.empty() ? out + "/aligned.safetensors" : s.cache;
  o.detector_id = detector_id;
  o.progress = [&](std::size_t i, std::size_t n) { progress.update(static_cast<std::int64_t>(i), static_cast<std::int64_t>(n), "detecting and aligning"); };
  o.stop = [] { return example::signal_received() != 0; };
  AlignedSet set = align_people(people, detector, spec, o);
  if (example::signal_received()) {
    progress.line("stopped; " + std::to_string(set.pictures()) + " of " + std::to_string(people.pictures.size()) + " pictures are aligned in " + o.cache +
                  ": the same command goes on from there");
    return set;
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(set.unreadable.size(), 10); ++i) progress.line(set.unreadable[i]);
  if (!cli::parse_max_bad(s.max_bad).allows(set.unreadable.size(), people.pictures.size()))
    throw IoError(IoKind::bad_data, "train_facenet", s.data, std::to_string(set.unreadable.size()) + " of " + std::to_string(people.pictures.size()) + " pictures can't be read, e.g. " + set.unreadable[0],
                  "Mend or remove them, or raise --max-bad.");
  if (set.names.size() < 2)
    throw IoError(IoKind::bad_data, "train_facenet", s.data, "has a face of " + std::to_string(set.names.size()) + " people; telling people apart needs two or more");
  char text[240];
  std::snprintf(text, sizeof text, "%ld crops of %zu people; of %zu pictures %ld had no face, %ld several, %zu were unreadable", static_cast<long>(set.count()), set.names.size(),
                people.pictures.size(), static_cast<long>(set.without_face), static_cast<long>(set.several_faces), set.unreadable.size());
  progress.line(text);
  return set;
}

// {crops f32 [N, 3, h, w], people i64 [N], rows i64 [N]}
Batch make_batch(const AlignedSet& set, const EmbeddingSpec& spec, std::span<const std::int64_t> rows, const Augmentation& augmentation, std::uint64_t seed, std::uint64_t epoch) {
  const auto n = static_cast<std::int64_t>(rows.size());
  const Tensor x = Tensor::empty({n, 3, spec.height, spec.width}), y = Tensor::empty({n}, DType::i64), index = Tensor::empty({n}, DType::i64);
  const Shape one{3, spec.height, spec.width};
  std::map<std::int64_t, std::uint64_t> seen;  // a row that comes twice in a batch looks different each time
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t row = rows[static_cast<std::size_t>(k)];
    const View to{x.data<float>() + k * numel(one), DType::f32, one, contiguous_strides(one)};
    const std::uint64_t stream = (std::uint64_t{1} << 62) + (epoch << 32) + static_cast<std::uint64_t>(row) * 64 + seen[row]++;
    augment_crop(set.crop(row), to, augmentation, seed, stream, static_cast<float>(spec.mean), static_cast<float>(spec.scale));
    y.data<std::int64_t>()[k] = set.person[static_cast<std::size_t>(row)];
    index.data<std::int64_t>()[k] = row;
  }
  return {x, y, index};
}

// The first batch as pictures: what the net really sees.
void write_samples(const std::string& path, const Batch& batch, const EmbeddingSpec& spec) {
  const std::int64_t n = std::min<std::int64_t>(batch[0].size(0), 48), columns = 8, h = spec.height, w = spec.width;
  Image sheet{columns * w, (n + columns - 1) / columns * h, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width * sheet.height * 3), 255);
  for (std::int64_t k = 0; k < n; ++k)
    for (std::int64_t y = 0; y < h; ++y)
      for (std::int64_t x = 0; x < w; ++x)
        for (std::int64_t c = 0; c < 3; ++c) {
          const double v = static_cast<double>(batch[0].at<float>({k, c, y, x})) / spec.scale + spec.mean;
          sheet.pixels[static_cast<std::size_t>((((k / columns) * h + y) * sheet.width + (k % columns) * w + x) * 3 + c)] = static_cast<std::uint8_t>(std::clamp(std::lround(v), 0l, 255l));
        }
  write_png(path, sheet);
}

// --- the yardstick ----------------------------------------------------------------------------------------------------

// Pairs of LFW, aligned once.
struct LfwJudge {
  LfwPairs pairs;
  FoldOptions options;
  std::vector<Image> crops;              // empty where no face was found
  std::vector<std::int64_t> crop_of;     // of each picture, -1 without

  LfwJudge(const Settings& s, LfwPairs read, const FoldOptions& o, const EmbeddingSpec& spec, const Detector& detector, example::Progress& progress) : pairs(std::move(read)), options(o) {
    std::vector<bool> needed(pairs.pictures.size(), options.folds.empty());
    for (std::size_t i = 0; i < pairs.pairs.size(); ++i)
      if (options.inner == 0 || std::find(options.folds.begin(), options.folds.end(), pairs.fold[i]) != options.folds.end())
        for (const auto p : pairs.pairs[i]) needed[static_cast<std::size_t>(p)] = true;
    for (std::size_t i = 0; i < pairs.pictures.size() && !example::signal_received(); ++i) {
      progress.update(static_cast<std::int64_t>(i), static_cast<std::int64_t>(pairs.pictures.size()), "aligning LFW");
      auto faces = needed[i] ? aligned_faces(read_image(s.lfw + "/" + pairs.pictures[i]), &detector, spec) : std::vector<AlignedFace>{};
      crop_of.push_back(faces.empty() ? -1 : static_cast<std::int64_t>(crops.size()));
      if (!faces.empty()) crops.push_back(std::move(faces[0].crop));
    }
  }
  double accuracy(EmbeddingNet& net, const EmbeddingSpec& spec) const {
    const Embedder embedder(net, spec);
    std::vector<float> rows(pairs.pictures.size() * static_cast<std::size_t>(spec.size), std::nanf(""));
    std::vector<float> found;
    for (std::size_t begin = 0; begin < crops.size(); begin += 64) {
      const Tensor e = embedder.embed(std::span(crops).subspan(begin, std::min<std::size_t>(64, crops.size() - begin)), true);
      found.insert(found.end(), e.data<float>(), e.data<float>() + e.numel());
    }
    for (std::size_t i = 0; i < crop_of.size(); ++i)
      if (crop_of[i] >= 0) std::copy_n(found.begin() + crop_of[i] * spec.size, spec.size, rows.begin() + static_cast<std::ptrdiff_t>(i) * spec.size);
    return fold_accuracy(squared_distances(rows, spec.size, pairs.pairs), pairs.same, pairs.fold, options).mean;
  }
};

// --- the training -----------------------------------------------------------------------------------------------------

std::unique_ptr<Optimizer> make_optimizer(const Settings& s, Trainee& t) {
  std::unique_ptr<Optimizer> optimizer;
  if (s.optimizer == "sgd") optimizer = std::make_unique<Sgd>(SgdOptions{.lr = s.lr, .momentum = s.momentum, .weight_decay = s.weight_decay, .nesterov = s.momentum > 0});
  else if (s.optimizer == "adagrad") optimizer = std::make_unique<Adagrad>(AdagradOptions{.lr = s.lr, .weight_decay = s.weight_decay});
  else optimizer = std::make_unique<Adam>(AdamOptions{.lr = s.lr, .weight_decay = s.weight_decay, .decoupled = s.optimizer == "adamw"});
  // Weight decay pulls on matrices and kernels alone: on slopes, scales and shifts it does harm (Goyal et al., 2017).
  std::vector<NamedTensor> matrices, vectors, head;
  for (auto& p : t.parameters()) (p.name.rfind("objective.", 0) == 0 ? head : p.value.rank() >= 2 ? matrices : vectors).push_back(p);
  optimizer->add_group(matrices);
  optimizer->add_group(vectors, {.weight_decay = 0});
  optimizer->add_group(head, {.lr_scale = s.head_lr});
  return optimizer;
}

double rate_at(const Settings& s, std::int64_t epoch, std::int64_t step, std::int64_t total) {
  const double lr = s.schedule == "multi-step" ? multi_step_lr(s.lr, epoch, s.milestones) : s.schedule == "poly" ? poly_lr(s.lr, step, total, 2) : s.schedule == "constant" ? s.lr : cosine_lr(s.lr, step, total, s.lr * .001);
  return s.warm_up > 0 ? warm_up_lr(lr, step, s.warm_up) : lr;
}

// What a run would take, from three real steps.
int dry_run(Trainee& trainee, Loader& loader, const std::function<example::Metrics(const Batch&)>& step, const example::TrainOptions& options,
            std::int64_t cache_bytes) {
  const Autocast guard(options.autocast);
  loader.start(0);
  double seconds = 0;
  example::Metrics m;
  constexpr int steps = 3;
  for (int k = 0; k < steps; ++k) {
    const auto batch = loader.next();
    if (!batch) break;
    const auto t = std::chrono::steady_clock::now();
    m = step(example::on_device(*batch, options.device));
    if (k > 0) seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count() / (steps - 1);  // the first one warms up
  }
  const std::int64_t values = trainee.parameter_count(), disk = 3 * 4 * (values * 2) + cache_bytes;
  std::error_code error;
  const auto space = fs::space(options.out, error);
  std::printf("parameters %ld\nbatches_an_epoch %ld\nfirst_loss %.4f\nseconds_a_step %.3f\nestimated_minutes %.1f\npeak_memory_MiB %ld\ndisk_needed_MiB %ld\ndisk_free_MiB %ld\n", static_cast<long>(values),
              static_cast<long>(loader.batches()), m.empty() ? NAN : m[0].second, seconds, seconds * static_cast<double>(loader.batches() * options.epochs) / 60,
              static_cast<long>(cpu_allocator()->stats().peak >> 20), static_cast<long>(disk >> 20), static_cast<long>(error ? 0 : space.available >> 20));
  if (!error && static_cast<std::int64_t>(space.available) < disk) throw IoError(IoKind::write_failed, "train_facenet", options.out, "too little space is free for this run");
  return 0;
}

// Moves the embeddings so that those of the training crops have the mean 0: a softmax leaves a common part in all of them, which makes every cosine larger.
void centre(EmbeddingNet& net, const AlignedSet& people, const EmbeddingSpec& spec) {
  const NoGrad guard;
  std::vector<double> total(static_cast<std::size_t>(spec.size));
  std::vector<std::int64_t> rows;
  for (std::int64_t begin = 0; begin < people.count(); begin += 64) {
    rows.resize(static_cast<std::size_t>(std::min<std::int64_t>(64, people.count() - begin)));
    std::iota(rows.begin(), rows.end(), begin);
    const auto sums = sum(net.forward(make_batch(people, spec, rows, Augmentation::none(), 0, 0)[0]), {0}).to_vector();
    for (std::size_t i = 0; i < sums.size(); ++i) total[i] += sums[i];
  }
  for (std::size_t i = 0; i < total.size(); ++i) net.shift().data<float>()[i] -= static_cast<float>(total[i] / static_cast<double>(people.count()));
}

// What the command line alone can get wrong, before any picture is read. Fills in the margin.
PkOptions check(Settings& s) {
  if (s.lfw.empty() != s.pairs.empty()) throw ValueError("--lfw", "needs --pairs, and the other way round");
  cli::parse_max_bad(s.max_bad);
  PkOptions pk{.people = 30, .pictures = 4};
  int read = 0;
  if (!s.pk.empty() && (std::sscanf(s.pk.c_str(), "%ldx%ld%n", &pk.people, &pk.pictures, &read) != 2 || read != static_cast<int>(s.pk.size()) || pk.people < 1 || pk.pictures < 1))
    throw ValueError("--pk", "expected PEOPLExPICTURES such as 30x4, got '" + s.pk + "'");
  pk.singles = s.singles;
  ObjectiveOptions& o = s.objective;
  if (o.people == PeopleLoss::none && o.triplets == TripletRule::none) throw ValueError("--loss", "is none, and so is --triplets: there is nothing to learn");
  if (o.people == PeopleLoss::none && o.center_weight > 0) throw ValueError("--center-weight", "needs a --loss over the people beside it");
  const bool sphere = o.people == PeopleLoss::sphereface;  // its margin is a factor of the angle, not a summand
  o.margin = s.margin.value_or(sphere ? 1.35 : .2);
  if (sphere && o.margin < 1) throw ValueError("--margin", "must be at least 1 for --loss sphereface, got " + std::to_string(o.margin));
  if (o.people == PeopleLoss::arcface && o.margin >= 3.14159) throw ValueError("--margin", "must be below pi for --loss arcface, got " + std::to_string(o.margin));
  return pk;
}

// What --resume compares besides the options that were given: the net, what it starts from and sees, and the pictures, wherever they lie.
example::Settings facts(const Settings& s, const EmbeddingSpec& spec, const std::string& detector_id, const AlignedSet& people) {
  std::string pictures;
  std::error_code gone;
  for (std::size_t i = 0; i < people.files.size(); ++i)
    pictures += people.names[static_cast<std::size_t>(people.person[i])] + "/" + fs::path(people.files[i]).filename().string() + " " +
                std::to_string(fs::file_size(people.files[i], gone)) + "\n";
  return {{"--net", spec.architecture},
          {"--size", std::to_string(spec.height) + "," + std::to_string(spec.width)},
          {"--embedding", std::to_string(spec.size)},
          {"--init", s.init.empty() ? "" : sha256(read_file(s.init)).substr(0, 8)},
          {"--detector", detector_id.substr(0, 8)},
          {"people", std::to_string(people.names.size())},
          {"training pictures", example::fingerprint(people.files.size(), crc32c(std::as_bytes(std::span(pictures))))}};
}

int train(Settings& s, example::TrainOptions& options) {
  example::Progress progress(example::Progress::parse(options.progress));
  const PkOptions pk = check(s);
  std::optional<LfwPairs> pairs;
  FoldOptions folds;
  if (!s.lfw.empty()) {
    pairs = read_lfw_pairs(s.pairs);
    folds = cli::chosen_folds(s.lfw_folds, s.lfw_inner, *pairs, s.pairs, "--lfw-folds", "--lfw-inner");
    check_lfw_pictures(*pairs, s.lfw);
  }
  const std::string detector_file = cli::find_weights(s.detector, "mtcnn.safetensors");
  const Detector detector = Detector::load(detector_file, {.min_face = s.min_face, .device = options.device});
  const std::string detector_id = sha256(read_file(detector_file)) + " min_face " + std::to_string(s.min_face);

  manual_seed(options.seed);
  EmbeddingSpec spec = new_spec(s);
  std::unique_ptr<EmbeddingNet> net;
  if (s.init.empty()) {
    net = make_embedding_net(spec);
  } else {
    net = load_embedding_net(load_safetensors(s.init), s.init, &spec);
    spec.threshold.reset();  // it was found for the weights that change now
    if (!s.net.empty() && s.net != spec.architecture) throw ValueError("--net", "is " + s.net + ", but " + s.init + " is a " + spec.architecture);
    if (!s.size.empty() && s.size != std::vector{spec.height, spec.width})
      throw ValueError("--size", "is " + std::to_string(s.size[0]) + "," + std::to_string(s.size[1]) + ", but " + s.init + " takes crops of " + std::to_string(spec.height) +
                                     "," + std::to_string(spec.width));
    if (s.embedding > 0 && s.embedding != spec.size) throw ValueError("--embedding", "is " + std::to_string(s.embedding) + ", but " + s.init + " has embeddings of " + std::to_string(spec.size));
  }
  example::make_out("train_facenet", options.out);
  const AlignedSet people = load_people(s, spec, detector, detector_id, options.out, progress);
  if (example::signal_received()) return 128 + example::signal_received();

  options.settings.merge(facts(s, spec, detector_id, people));
  s.objective.size = spec.size;
  s.objective.classes = static_cast<std::int64_t>(people.names.size());
  Trainee trainee(*net, s.objective);
  trainee.require_grad();
  trainee.to(options.device);
  const auto optimizer = make_optimizer(s, trainee);
  std::unique_ptr<Ema> ema;
  if (s.ema > 0) ema = std::make_unique<Ema>(net->state_dict(), EmaOptions{.decay = s.ema, .warm_up = true});

  LoaderOptions order{.size = people.count(), .batch = std::min(s.batch, people.count()), .seed = options.seed, .workers = s.workers};
  if (s.objective.triplets != TripletRule::none || !s.pk.empty()) {
    PkOptions of_people = pk;
    of_people.batches = std::max<std::int64_t>(1, people.count() / std::max<std::int64_t>(1, pk.people * pk.pictures));
    const PkSampler sampler(people.person, of_people);
    order.size = sampler.size();
    order.batch = sampler.batch();
    order.sampler = sampler;
  }
  const Augmentation augmentation = Augmentation{}.scaled(s.augment);
  Loader loader(order, [&](std::span<const std::int64_t> rows, std::uint64_t epoch) { return make_batch(people, spec, rows, augmentation, options.seed, epoch); });

  const auto parameters = trainee.parameters();
  const auto scaler = example::make_scaler(options.autocast);
  const auto step = [&](const Batch& b) -> example::Metrics {
    const auto r = trainee.objective(cast(net->forward(b[0]), DType::f32), b[1], options.seed + static_cast<std::uint64_t>(optimizer->steps()));
    if (r.total.defined()) example::learn(r.total, *optimizer, parameters, s.clip, scaler.get());
    return r.parts;
  };
  trainee.train();
  const std::int64_t total = options.epochs * loader.batches();
  if (s.dry_run) return dry_run(trainee, loader, step, options, people.crops.numel());

  std::unique_ptr<LfwJudge> judge;
  if (!s.lfw.empty()) judge = std::make_unique<LfwJudge>(s, *pairs, folds, spec, detector, progress);
  if (example::signal_received()) return 128 + example::signal_received();
  {
    std::vector<std::int64_t> first(static_cast<std::size_t>(std::min<std::int64_t>(48, people.count())));
    std::iota(first.begin(), first.end(), std::int64_t{0});
    write_samples(options.out + "/samples.png", make_batch(people, spec, first, augmentation, options.seed, 0), spec);
  }
  std::int64_t epochs_seen = 0;
  double last_accuracy = NAN;
  const auto evaluate = [&]() -> example::Metrics {
    ++epochs_seen;
    if (judge && (epochs_seen % s.lfw_every == 0 || std::isnan(last_accuracy))) last_accuracy = judge->accuracy(*net, spec);
    return judge ? example::Metrics{{"lfw_accuracy", last_accuracy}} : example::Metrics{};
  };
  if (judge && !options.resume) {
    net->eval();
    const NoGrad guard;
    std::printf("untrained lfw_accuracy %.4f\n", judge->accuracy(*net, spec));
    std::fflush(stdout);
  }
  const auto lr = [&](std::int64_t epoch, std::int64_t number) { return rate_at(s, epoch, number, total); };
  const auto origin = [&](const Batch& b) {
    std::string files;
    for (std::int64_t i = 0; i < b[2].numel(); ++i) files += (i ? ", " : "") + people.files[static_cast<std::size_t>(b[2].data<std::int64_t>()[i])];
    return files;
  };
  const example::TrainResult result = example::run_training({trainee, *optimizer, loader, lr, step, evaluate, ema.get(), scaler.get(), origin}, options);
  if (ema) ema->swap();
  net->eval();
  trainee.to(Device::cpu());
  if (s.centre) centre(*net, people, spec);
  TensorFile file = to_model_file(*net, spec);
  file.metadata["mien.recipe"] = "train_facenet seed " + std::to_string(options.seed) + ", " + std::to_string(people.count()) + " crops of " + std::to_string(people.names.size()) + " people";
  const std::string model = options.out + "/" + spec.architecture + ".safetensors";
  save_safetensors(model, file);
  if (!result.history.empty())
    for (const auto& [name, value] : result.history.back().second) std::printf("%s %.5f\n", name.c_str(), value);
  if (judge) {
    const NoGrad guard;
    std::printf("final lfw_accuracy %.4f\n", judge->accuracy(*net, spec));
  }
  std::printf("seconds %.1f\nsaved %s\n", result.seconds, model.c_str());
  return result.end == example::TrainEnd::interrupted ? 128 + example::signal_received() : 0;
}

int run(int argc, char** argv) {
  CLI::App app{"Trains a face-embedding net (MobileFaceNet or Inception-ResNet-v1) from pictures of people."};
  Settings s;
  example::TrainOptions options{.out = "runs/facenet", .epochs = 30};
  const std::map<std::string, PeopleLoss> losses{{"none", PeopleLoss::none}, {"softmax", PeopleLoss::softmax}, {"arcface", PeopleLoss::arcface}, {"cosface", PeopleLoss::cosface}, {"sphereface", PeopleLoss::sphereface}};
  const std::map<std::string, TripletRule> rules{{"none", TripletRule::none}, {"batch-all", TripletRule::batch_all}, {"batch-hard", TripletRule::batch_hard}, {"semi-hard", TripletRule::semi_hard}, {"violating", TripletRule::violating}, {"hard", TripletRule::hard}};
  const auto names_of = [](const auto& table) {
    std::vector<std::string> names;
    for (const auto& [name, value] : table) names.push_back(name);
    return names;
  };
  app.add_option("--data", s.data, "Folder with one folder a person, or @LIST with 'path<TAB>name' lines")->required();
  app.add_option("--only", s.only, "File with the names of the people to use, one a line (default: all)");
  app.add_option("--without", s.without, "File with names that must not be used");
  app.add_option("--min-pictures", s.min_pictures, "People with fewer pictures are left out")->capture_default_str()->check(cli::at_least_one());
  app.add_option("--detector", s.detector, "Weights of the detector (default: as `mien detect`)");
  app.add_option("--min-face", s.min_face, "Smallest face in pixels")->capture_default_str();
  app.add_option("--cache", s.cache, "File that keeps the aligned crops (default: OUT/aligned.safetensors)");
  app.add_option("--max-bad", s.max_bad, "How many pictures may be unreadable, N or P%")->capture_default_str();
  app.add_option("--net", s.net, "The net")->default_str("mobilefacenet")->check(CLI::IsMember({"mobilefacenet", "inception-resnet-v1"}));
  app.add_option("--size", s.size, "Height and width of a crop, e.g. 112,96")->delimiter(',')->expected(2);
  app.add_option("--embedding", s.embedding, "Size of the embedding (default: 128, 512 for Inception-ResNet-v1)")->check(cli::whole_number(1, 65536));
  app.add_option("--init", s.init, "Start from this model file (fine-tuning); it decides net, crop and embedding");
  app.add_option_function<std::string>("--loss", [&](const std::string& name) { s.objective.people = losses.at(name); }, "Loss over the people")->default_str("cosface")->check(CLI::IsMember(names_of(losses)));
  app.add_option("--scale", s.objective.scale, "Scale of the cosines")->capture_default_str()->check(cli::above_zero());
  app.add_option("--margin", s.margin, "Margin of the loss (default: .2, a factor of 1.35 for sphereface)")->check(cli::zero_or_more());
  app.add_option("--label-smoothing", s.objective.label_smoothing, "Share of the target that is spread over all people")->capture_default_str()->check(cli::below_one());
  app.add_option("--center-weight", s.objective.center_weight, "Weight of a center loss beside it (0: none)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option_function<std::string>("--triplets", [&](const std::string& name) { s.objective.triplets = rules.at(name); }, "Triplet loss")->default_str("none")->check(CLI::IsMember(names_of(rules)));
  app.add_option("--triplet-weight", s.objective.triplet_weight, "Weight of the triplet loss")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--alpha", s.objective.alpha, "Margin of the triplets (squared distances)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--pk", s.pk, "Batches of P people with K pictures, e.g. 30x4 (the default with triplets)");
  app.add_flag("--singles", s.singles, "People with one picture take part in such batches: the picture is repeated, changed differently each time");
  app.add_option("--batch", s.batch, "Crops a step")->capture_default_str()->check(cli::whole_number(2, 65536));
  app.add_option("--optimizer", s.optimizer, "sgd (with Nesterov's momentum), adam, adamw or adagrad")->capture_default_str()->check(CLI::IsMember({"sgd", "adam", "adamw", "adagrad"}));
  app.add_option("--lr", s.lr, "Highest learning rate")->capture_default_str()->check(cli::above_zero());
  app.add_option("--head-lr", s.head_lr, "Times that rate for the head (fine-tuning: larger than 1)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--schedule", s.schedule, "cosine, multi-step, poly or constant")->capture_default_str()->check(CLI::IsMember({"cosine", "multi-step", "poly", "constant"}));
  app.add_option("--milestones", s.milestones, "Epochs after which the rate falls to a tenth (multi-step)")->delimiter(',');
  app.add_option("--warm-up", s.warm_up, "Steps until the full rate")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--weight-decay", s.weight_decay, "L2 penalty of matrices and kernels")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--momentum", s.momentum, "Of sgd")->capture_default_str()->check(cli::below_one());
  app.add_option("--clip", s.clip, "Largest norm of the gradient (0: no limit)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--ema", s.ema, "Keep a moving average of the net with this decay, e.g. .999 (0: none)")->capture_default_str()->check(cli::below_one());
  app.add_option("--augment", s.augment, "Strength of the random changes (0: mirroring alone)")->capture_default_str()->check(CLI::Range(0.0, 3.0));
  app.add_flag("--centre", s.centre, "Give the finished net's embeddings the mean 0 over the training crops");
  example::add_workers(app, s.workers);
  app.add_option("--lfw", s.lfw, "Folder of LFW: accuracy on its pairs after an epoch");
  app.add_option("--pairs", s.pairs, "Its pairs file");
  app.add_option("--lfw-folds", s.lfw_folds, "Folds to judge, from 1, e.g. 4,5 (default: all)")->delimiter(',');
  app.add_option("--lfw-inner", s.lfw_inner, "Thresholds from K parts of the judged folds themselves (0: from the other folds)")->capture_default_str()->check(cli::whole_number(0, 1000));
  app.add_option("--lfw-every", s.lfw_every, "Judge every this many epochs")->capture_default_str()->check(cli::at_least_one());
  app.add_flag("--dry-run", s.dry_run, "Check data, shapes, memory and disk, estimate the time, train nothing");
  example::add_train_options(app, options);
  if (const int code = example::parse(app, argc, argv); code >= 0) return code;
  options.settings = example::settings_of(app, {"--net", "--size", "--embedding", "--init", "--detector", "--data", "--only", "--without", "--min-pictures", "--cache",
                                                "--max-bad", "--centre", "--lfw", "--pairs", "--lfw-folds", "--lfw-inner", "--lfw-every", "--dry-run"});
  return train(s, options);
}

}  // namespace

int main(int argc, char** argv) { return example::guarded_main("train_facenet", [&] { return run(argc, argv); }); }
