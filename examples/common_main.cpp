#include "common_main.h"

#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"

namespace mien::example {

namespace {
constexpr const char* after_help =
    "A run that ends with an error leaves its last checkpoint as it was. Out of memory (exit code 71): the message says which --batch fits.\n"
    "Environment: MIEN_MEMORY_LIMIT and MIEN_CUDA_MEMORY_LIMIT bound the memory of tensors on the CPU and on a GPU, e.g. 8GiB.";
}  // namespace

void add_train_options(CLI::App& app, TrainOptions& options) {
  app.footer(after_help);
  app.add_option("--out", options.out, "Folder of this run: checkpoint, metrics.csv, curves, weights")->capture_default_str();
  app.add_option("--epochs", options.epochs, "Passes over the training data")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "Decides the initial weights, the order and the augmentation")->capture_default_str();
  app.add_flag("--resume", options.resume, "Go on with the run in --out, bit for bit");
  app.add_option("--seconds", options.seconds, "Stop after this time, with everything saved (0: no limit)")->capture_default_str();
  app.add_option("--max-steps", options.max_steps, "Stop after this many steps in all (0: no limit)")->capture_default_str();
  app.add_option("--save-every", options.save_every, "Save every this many steps as well (0: at the end of each epoch)")->capture_default_str();
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
  app.add_option_function<int>("--threads", [](int n) { set_num_threads(n); }, "Threads for the kernels (default: all CPUs)")->check(CLI::PositiveNumber);
}

void add_workers(CLI::App& app, int& workers) {
  app.add_option("--workers", workers, "Threads that make batches ahead (0: none)")->capture_default_str()->check(CLI::Range(0, 256));
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
