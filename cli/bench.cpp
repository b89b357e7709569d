// mien bench: how fast is it here, beside what this machine can do at most?
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <memory>

#include "checks.h"
#include "commands.h"
#include "exit_codes.h"
#include "measure.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/error.h"
#include "peak.h"
#include "work.h"

namespace mien::cli {
namespace {

struct Settings {
  bench::ModelOptions model;
  std::string photo, weights, dtype = "f32", pyramid, device = "cpu";
  DetectorOptions detector;
  bool train = false, update = false, profile = false;
  int threads = 0, runs = 0;
};

// Four digits are more than a measurement holds.
double rounded(double v) {
  if (!(std::abs(v) > 0) || !std::isfinite(v)) return v;
  const double unit = std::pow(10, std::floor(std::log10(std::abs(v))) - 3);
  return unit >= 1 ? std::round(v / unit) * unit : std::round(v * std::round(1 / unit)) / std::round(1 / unit);
}
Json spread_json(const bench::Spread& s) { return {{"median", rounded(s.median)}, {"p10", rounded(s.p10)}, {"p90", rounded(s.p90)}}; }

Json sizes(const std::vector<Shape>& shapes) {
  Json all = Json::array();
  for (const Shape& s : shapes) {
    Json one = Json::array();
    for (int d = 0; d < s.rank(); ++d) one.push_back(s[d]);
    all.push_back(one);
  }
  return all;
}

bool optimised() {
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  return true;
#else
  return false;
#endif
}

void print_table(const Json& j) {
  const auto row = [](const char* what, const char* format, auto... values) {
    std::fprintf(stderr, "%-10s ", what);
    std::fprintf(stderr, format, values...);
    std::fprintf(stderr, "\n");
  };
  const auto value = [](const Json& v) { return v.get<double>(); };
  const Json &wall = j["wall_ms"], &cpu = j["cpu_ms"];
  row("work", "%s, %s, batch %ld, %d thread%s, %s", j["net"].get<std::string>().c_str(), j["mode"].get<std::string>().c_str(), j["items"].get<long>(), j["threads"].get<int>(),
      j["threads"] == 1 ? "" : "s", j["level"].get<std::string>().c_str());
  row("wall", "%.4g ms (p10 %.4g, p90 %.4g), %d runs", value(wall["median"]), value(wall["p10"]), value(wall["p90"]), j["runs"].get<int>());
  row("cpu", "%.4g ms (p10 %.4g, p90 %.4g)", value(cpu["median"]), value(cpu["p10"]), value(cpu["p90"]));
  row("speed", "%.4g items/s by %s", value(j["items_per_s"]), j["rated_by"] == "cpu_ms" ? "CPU time" : "the clock");
  if (!j["gflops"].is_null())
    row("arithmetic", "%.4g GFLOP an item, %.4g GFLOP/s = %.1f %% of %.4g", value(j["gflop_per_item"]), value(j["gflops"]), 100 * value(j["share_of_peak"]), value(j["peak"]["f32_gflops"]));
  row("memory", "%.4g MiB resident, %.4g MiB of tensors at once", value(j["memory"]["resident_peak_MiB"]), value(j["memory"]["tensors_peak_MiB"]));
  row("machine", "%s, %d CPUs", j["machine"]["model"].get<std::string>().c_str(), j["machine"]["cpus"].get<int>());
  if (j.contains("ops")) {
    double all = 0;
    for (const Json& t : j["ops"]) all += value(t["cpu_ms"]);
    for (std::size_t i = 0; i < std::min<std::size_t>(j["ops"].size(), 40); ++i) {
      const Json& t = j["ops"][i];
      const std::string speed = t["gflops"].is_null() ? "" : std::to_string(std::lround(value(t["gflops"]))) + " GFLOP/s";
      row("op", "%8.3f ms %5.1f %% %4d x %-12s %s %s", value(t["cpu_ms"]), 100 * value(t["cpu_ms"]) / all, t["calls"].get<int>(), speed.c_str(), t["op"].get<std::string>().c_str(),
          t["operands"].get<std::string>().c_str());
    }
  }
  if (value(j["foreign_cpus"]) > .2) row("NOTE", "other processes kept %.2f CPUs busy meanwhile", value(j["foreign_cpus"]));
}

int report(const Settings& s, const char* command, const bench::Work& work) {
  const int threads = num_threads();
  const bench::Peak before = bench::f32_peak(max_cpu_level(), threads);
  const bench::Figures f = bench::measure(work.run, s.runs);
  const std::int64_t resident = bench::peak_resident_bytes(), tensors = cpu_allocator()->stats().peak;
  const double flop = 2.0 * static_cast<double>(bench::count_macs(work.eager));
  const bench::Peak after = bench::f32_peak(max_cpu_level(), threads), tiles = bench::bf16_tile_peak(threads);
  const double peak = std::max(before.gflops, after.gflops);
  const bool one = threads == 1 && work.device.is_cpu();
  const double ms = one ? f.cpu_ms.median : f.wall_ms.median, gflops = flop / ms / 1e6;
  const bench::Machine machine = bench::machine();
  const auto or_null = [](bool there, double v) { return there ? Json(rounded(v)) : Json(nullptr); };
  const auto MiB = [](std::int64_t bytes) { return rounded(static_cast<double>(bytes) / (1 << 20)); };
  Json j{{"schema", "mien.bench/1"}, {"command", command}, {"net", work.net}, {"mode", name(s.model.mode)}, {"dtype", name(work.dtype)}, {"inputs", sizes(work.inputs)},
         {"items", work.items}, {"parameters", work.parameters > 0 ? Json(work.parameters) : Json(nullptr)}, {"device", work.device.is_cpu() ? "cpu" : describe(work.device)}, {"threads", threads}, {"level", name(max_cpu_level())}, {"runs", f.runs},
         {"wall_ms", spread_json(f.wall_ms)}, {"cpu_ms", spread_json(f.cpu_ms)}, {"rated_by", one ? "cpu_ms" : "wall_ms"},
         {"items_per_s", rounded(1e3 * static_cast<double>(work.items) / ms)}, {"gflop_per_item", or_null(flop > 0, flop / static_cast<double>(work.items) / 1e9)},
         {"gflops", or_null(flop > 0, gflops)}, {"share_of_peak", or_null(flop > 0, gflops / peak)},
         {"loss", work.loss ? number(static_cast<float>(work.loss())) : Json(nullptr)},
         {"peak", {{"f32_gflops", rounded(peak)}, {"f32_gflops_one_thread", rounded(std::max(before.gflops_one, after.gflops_one))}, {"bf16_tiles_gflops", or_null(tiles.gflops > 0, tiles.gflops)}}},
         {"memory", {{"resident_peak_MiB", MiB(resident)}, {"tensors_peak_MiB", MiB(tensors)}}},
         {"foreign_cpus", rounded(f.foreign_cpus)},
         {"machine", {{"model", machine.model}, {"cpus", machine.cpus}, {"features", machine.features}}},
         {"mien", {{"version", MIEN_VERSION}, {"optimised", optimised()}}}};
  if (s.profile) {
    Json& ops = j["ops"] = Json::array();
    for (const bench::OpTime& t : bench::profile(work.eager))
      ops.push_back({{"op", t.op}, {"operands", t.operands}, {"calls", t.calls}, {"cpu_ms", rounded(t.ms)}, {"gflops", or_null(t.gflop > 0, 1e3 * t.gflop / t.ms)}});
  }
  if (s.model.dtype != work.dtype) std::fprintf(stderr, "mien: bench: this machine has no units for bf16 (level amx); the plan computed in f32\n");
  print_line(j);
  if (isatty(STDERR_FILENO)) print_table(j);
  return 0;
}

int model(Settings& s) {
  if (s.threads > 0) set_num_threads(s.threads);
  s.model.mode = s.train ? bench::Mode::train : s.update ? bench::Mode::update : bench::Mode::inference;
  s.model.dtype = s.dtype == "bf16" ? DType::bf16 : DType::f32;
  const bool normalised = s.model.model != "pnet" && s.model.model != "rnet" && s.model.model != "onet" && s.model.model != "lenet";
  if (s.train && normalised && s.model.batch < 2) throw ValueError("--batch", "a training step of this net needs 2 pictures or more, for the statistics of batch norm", "Give --batch 32.");
  if (!s.pyramid.empty()) {
    long width = 0, height = 0;
    char rest = 0;
    if (std::sscanf(s.pyramid.c_str(), "%ldx%ld%c", &width, &height, &rest) != 2 || width < 1 || height < 1 || std::max(width, height) > 16384)
      throw ValueError("--pyramid", "expected a size such as 640x480, got '" + s.pyramid + "'");
    s.model.pyramid_width = width;
    s.model.pyramid_height = height;
  }
  s.model.min_face = s.detector.min_face;
  s.model.device = Device::parse(s.device);
  return report(s, "model", bench::model_work(s.model));
}

int detect(Settings& s) {
  if (s.threads > 0) set_num_threads(s.threads);
  const Image image = read_image(s.photo);
  s.detector.device = Device::parse(s.device);
  const Detector detector = Detector::load(find_weights(s.weights, "mtcnn.safetensors"), s.detector);
  return report(s, "detect", bench::detect_work(detector, image));
}

}  // namespace

Run add_bench(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  const auto common = [&](CLI::App& c) {
    c.add_option("--min-face", s->detector.min_face, "Smallest face in pixels")->check(CLI::Range(12., 16384.))->capture_default_str();
    c.add_flag("--profile", s->profile, "Also the CPU time of every op on operands of the same shapes, in one eager run");
    c.add_option("--device", s->device, "cpu, cuda[:n] or auto")->capture_default_str();
    c.add_option("--threads", s->threads, "Threads (default: all CPUs)")->check(at_least_one());
    c.add_option("--runs", s->runs, "Measured runs, after two of warm-up (default: as many as fit into 3 seconds, at least 3)")->check(whole_number(1, 1000000));
  };
  CLI::App* m = app.add_subcommand("model", "A net on random pictures: inference, or a training step with --train");
  CLI::App* d = app.add_subcommand("detect", "The detector on a picture, decoding left out");
  app.require_subcommand(1);
  std::string names;
  for (const auto& n : bench::model_names()) names += n + ", ";
  m->add_option("MODEL", s->model.model, names + "or a model file of an embedding net")->required();
  m->add_option("--batch", s->model.batch, "Pictures a run")->check(whole_number(1, 65536))->capture_default_str();
  auto* train = m->add_flag("--train", s->train, "Forward, loss, backward and a step of SGD with momentum; an embedding's loss is a softmax over 10,575 people");
  m->add_flag("--update", s->update, "The step of SGD with momentum alone")->excludes(train);
  m->add_option("--dtype", s->dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}))->capture_default_str();
  m->add_option("--pyramid", s->pyramid, "WIDTHxHEIGHT: P-Net over every scale of a picture of this size");
  m->add_option("--dump", s->model.dump, "Folder for weights.safetensors, input-N.npy, target-N.npy and output-N.npy, for other programs to do the same work");
  common(*m);
  d->add_option("PHOTO", s->photo, "A picture")->required();
  d->add_option("--weights", s->weights, "Weights (default: $MIEN_WEIGHTS, then ../share/mien/weights/mtcnn.safetensors)");
  common(*d);
  return [s, d] { return d->parsed() ? detect(*s) : model(*s); };
}

}  // namespace mien::cli
