#include "common_main.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"

namespace mien::example {

namespace {
constexpr const char* after_help =
    "A run that ends with an error leaves its last checkpoint as it was. Out of memory (exit code 71): the message says which --batch fits.\n"
    "Environment: MIEN_MEMORY_LIMIT and MIEN_CUDA_MEMORY_LIMIT bound the memory of tensors on the CPU and on a GPU, e.g. 8GiB.";
}  // namespace

Settings settings_of(const CLI::App& app, const std::set<std::string>& others) {
  const std::set<std::string> shared{"--help", "--out", "--epochs", "--seed", "--resume", "--force", "--seconds", "--max-steps", "--save-every", "--progress",
                                     "--device", "--autocast", "--threads", "--workers"};
  const auto plain = [](const std::string& text) {  // .10 and 0.1 are the same setting
    char* end = nullptr;
    const double v = std::strtod(text.c_str(), &end);
    if (end == text.c_str() || *end) return text;
    char number[40];
    std::snprintf(number, sizeof number, "%.15g", v);
    return std::string(number);
  };
  Settings settings;
  for (const CLI::Option* o : app.get_options()) {
    const std::string name = o->get_name();
    if (shared.contains(name) || others.contains(name)) continue;
    std::string& value = settings[name];
    if (o->empty()) value = plain(o->get_default_str());
    for (const auto& part : o->results()) value += (value.empty() ? "" : ",") + plain(part);
  }
  return settings;
}

std::string fingerprint(std::size_t count, std::uint32_t checksum) {
  char text[40];
  std::snprintf(text, sizeof text, "%zu (%08x)", count, checksum);
  return text;
}

void make_out(const std::string& program, const std::string& out) {
  const char* hint = "Choose another --out.";
  if (out.empty()) throw IoError(IoKind::cannot_create, program, "--out ''", "names no folder", hint);
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (!error && !std::filesystem::is_directory(out)) error = std::make_error_code(std::errc::not_a_directory);
  if (!error && access(out.c_str(), W_OK | X_OK) != 0) error = {errno, std::generic_category()};
  if (error) throw IoError(IoKind::cannot_create, program, out, "can't be made or written to: " + error.message(), hint);
}

void tell_unknown(const std::string& program, const std::string& file, const std::vector<std::string>& names, const char* what) {
  if (names.empty()) return;
  std::string some;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) some += (i ? ", " : "") + names[i];
  std::fprintf(stderr, "%s: %zu of the names in %s match no %s: %s%s\n", program.c_str(), names.size(), file.c_str(), what, some.c_str(), names.size() > 3 ? " and more" : "");
}

void add_train_options(CLI::App& app, TrainOptions& options) {
  app.footer(after_help);
  app.add_option("--out", options.out, "Folder of this run: checkpoint, metrics.csv, curves, weights")->capture_default_str();
  app.add_option("--epochs", options.epochs, "Passes over the training data")->capture_default_str()->check(cli::at_least_one());
  app.add_option("--seed", options.seed, "Decides the initial weights, the order and the augmentation")->capture_default_str()->check([](const std::string& text) {
    return text.find('-') != std::string::npos ? "expected a whole number of 0 or more, got '" + text + "'" : std::string();  // it would wrap around
  });
  app.add_flag("--resume", options.resume, "Go on with the run in --out, bit for bit");
  app.add_flag("--force", options.force, "With --resume: also with settings or data that are not those of the run");
  app.add_option("--seconds", options.seconds, "Stop after this many seconds of training, with everything saved: --resume goes on (0: no limit)")
      ->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--max-steps", options.max_steps, "Stop after this many steps of the whole run, with everything saved: --resume goes on (0: no limit)")
      ->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--save-every", options.save_every, "Save every this many steps as well (0: at the end of each epoch)")->capture_default_str()->check(cli::zero_or_more());
  app.add_option("--progress", options.progress, "auto, on or off")->capture_default_str();
  app.add_option_function<std::string>("--device", [&](const std::string& name) { options.device = Device::parse(name); }, "auto, cpu or cuda[:n]")->default_str("auto")->run_callback_for_default();
  app.add_option_function<std::string>("--autocast", [&](const std::string& text) { options.autocast = text == "bf16" ? DType::bf16 : text == "f16" ? DType::f16 : DType::f32; },
                                       "Convolutions and products of a training step: f32; on a GPU bf16, or f16 with a scaled loss; on a CPU with AMX bf16 (the weights stay f32)")
      ->default_str("f32")->check(CLI::IsMember({"f32", "bf16", "f16"}));
  app.callback([&] {
    if (options.autocast == DType::f32 || !options.device.is_cpu()) return;
    const std::string asked = std::string(name(options.autocast)) + " was asked for, but the training runs on the CPU, ";
    if (options.autocast != DType::bf16) throw ValueError("--autocast", asked + "where steps are f32 or bf16", "Use --autocast f32 or bf16, or --device cuda.");
    if (max_cpu_level() < Level::amx) throw ValueError("--autocast", asked + "and this one has no AMX tiles: steps are f32", "Use --autocast f32, or --device cuda.");
    set_matmul_precision(Precision::bf16);
  });
  app.add_option_function<int>("--threads", [](int n) { set_num_threads(n); }, "Threads for the kernels (default: all CPUs)")->check(cli::at_least_one());
}

void add_workers(CLI::App& app, int& workers) {
  app.add_option("--workers", workers, "Threads that make batches ahead (0: none)")->capture_default_str()->check(cli::whole_number(0, 256));
}

int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  catch_signals();
  return -1;
}

}  // namespace mien::example
