#include "common_train.h"

#include <csignal>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common_retry.h"
#include "exit_codes.h"
#include "mien/autograd/autograd.h"
#include "mien/data/plot.h"
#include "mien/data/prefetch.h"
#include "mien/io/checkpoint.h"
#include "mien/ops/copy.h"
#include "mien/tensor/device_backend.h"
#include "mien/tensor/generator.h"

namespace fs = std::filesystem;

namespace mien::example {
namespace {

volatile std::sig_atomic_t received = 0;
void on_signal(int number) {
  if (received) _exit(128 + number);
  received = number;
}

// Doubles as text that reads back to the same bits.
std::string exact(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", v);
  return text;
}

TensorFile to_file(const std::vector<NamedTensor>& tensors) {
  TensorFile file;
  for (const auto& t : tensors) file.tensors.emplace_back(t.name, on_cpu(t.value));
  return file;
}
std::vector<NamedTensor> from_file(const TensorFile& file) {
  std::vector<NamedTensor> out;
  for (const auto& [name, value] : file.tensors) out.push_back({name, value});
  return out;
}

std::string join(const Metrics& m) {
  std::string text;
  for (const auto& [name, value] : m) text += (text.empty() ? "" : ";") + name + "=" + exact(value);
  return text;
}
Metrics split(const std::string& text) {
  Metrics m;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ';');)
    if (const auto eq = part.find('='); eq != std::string::npos) m.emplace_back(part.substr(0, eq), std::strtod(part.c_str() + eq + 1, nullptr));
  return m;
}

const std::string& text(const Checkpoint& c, const char* key) {
  const auto it = c.state.find(key);
  if (it == c.state.end()) throw IoError(IoKind::bad_data, "resume", "checkpoint", std::string("has no ") + key, "Was it written by a training program?");
  return it->second;
}
std::int64_t number(const Checkpoint& c, const char* key) { return std::atoll(text(c, key).c_str()); }

// Everything of a run that a checkpoint must bring back.
class Run {
 public:
  Run(const TrainTask& task, const TrainOptions& options) : task_(task), options_(options), folder_(options.out + "/checkpoint") {}

  void resume(Progress& progress) {
    std::string note;
    const Checkpoint c = folder_.load_last(&note);
    if (!note.empty()) std::fprintf(stderr, "resume: the last checkpoint can't be read, the one before is used: %s\n", note.c_str());  // also with --progress off
    compare_settings(c);
    task_.model.load_state_dict(from_file(c.model));
    std::vector<NamedTensor> optimizer, averages;
    for (auto& t : from_file(c.optimizer)) (t.name.rfind("ema.", 0) == 0 ? averages : optimizer).push_back(std::move(t));
    task_.optimizer.load_state_dict(optimizer, c.state.contains("optimizer_steps") ? number(c, "optimizer_steps") : number(c, "step"));
    if (task_.ema) task_.ema->load_state_dict(averages, number(c, "ema_updates"));
    else if (!averages.empty()) throw ValueError("resume", "the run keeps moving averages, now they are switched off", "Give the same --ema.");
    if (task_.scaler && c.state.contains("loss_scale")) task_.scaler->restore(std::strtod(text(c, "loss_scale").c_str(), nullptr), number(c, "loss_scale_good_steps"));
    epoch = number(c, "epoch");
    step = saved = number(c, "step");
    default_generator().restore(options_.seed, static_cast<std::uint64_t>(number(c, "generator")));
    if (number(c, "batches") == task_.loader.batches()) {  // with --force: an epoch that is dealt out otherwise begins anew
      batch = number(c, "batch");
      sums = split(c.state.at("sums"));
    }
    best = std::strtod(c.state.at("best").c_str(), nullptr);
    std::istringstream rows(c.state.at("history"));
    for (std::string row; std::getline(rows, row);)
      if (const auto colon = row.find(':'); colon != std::string::npos) history.emplace_back(std::atoll(row.c_str()), split(row.substr(colon + 1)));
    progress.line("resumed " + options_.out + " at epoch " + std::to_string(epoch) + ", step " + std::to_string(step));
  }

  void save(bool is_best) {
    Checkpoint c;
    c.model = to_file(task_.model.state_dict());
    check_weights(c.model);
    c.optimizer = to_file(task_.optimizer.state_dict());
    if (task_.ema)
      for (const auto& t : task_.ema->state_dict()) c.optimizer.tensors.emplace_back(t.name, t.value);
    std::string rows;
    for (const auto& [e, m] : history) rows += std::to_string(e) + ":" + join(m) + "\n";
    c.state = settings();
    c.state.merge(std::map<std::string, std::string>{{"epoch", std::to_string(epoch)}, {"batch", std::to_string(batch)}, {"step", std::to_string(step)},
                                                     {"optimizer_steps", std::to_string(task_.optimizer.steps())}, {"generator", std::to_string(default_generator().position())},
                                                     {"sums", join(sums)}, {"best", exact(best)}, {"history", rows}});
    if (task_.scaler) {
      c.state["loss_scale"] = exact(task_.scaler->factor());
      c.state["loss_scale_good_steps"] = std::to_string(task_.scaler->good_steps());
    }
    if (task_.ema) c.state["ema_updates"] = std::to_string(task_.ema->updates());
    folder_.save(c, is_best);
    saved = step;
  }
  // A step with a finite loss can still make weights that are not: they must replace neither a checkpoint nor the finished net.
  void check_weights() const { check_weights(to_file(task_.model.state_dict())); }
  // For messages: what is left of a run that ends here.
  std::string remains() const {
    return saved < 0 ? "nothing had been saved yet" : "the checkpoint of step " + std::to_string(saved) + " in " + options_.out + "/checkpoint is intact: --resume goes on from there";
  }

  const char* lower_rate() const { return saved < 0 ? "Lower --lr." : "Lower --lr, which --resume takes with --force."; }

  bool has_checkpoint() const { return folder_.exists(); }

  std::int64_t epoch = 0, batch = 0, step = 0;
  std::int64_t saved = -1;  // step of the last checkpoint, -1: there is none
  Metrics sums;  // over the epoch so far
  double best = -INFINITY;
  std::vector<std::pair<std::int64_t, Metrics>> history;

 private:
  // As a checkpoint names them.
  Settings settings() const {
    // Checkpoints had these three before they had the others.
    Settings all{{"seed", std::to_string(options_.seed)}, {"autocast", name(options_.autocast)}, {"batches", std::to_string(task_.loader.batches())}};
    for (const auto& [setting, value] : options_.settings) all["setting." + setting] = value;
    return all;
  }
  void compare_settings(const Checkpoint& c) const {
    const auto in_words = [](const std::string& value) { return value.empty() ? "not given" : value; };
    std::string differences;
    for (const auto& [key, now] : settings()) {
      const auto then = c.state.find(key);
      if (then == c.state.end() || then->second == now) continue;
      const std::string shown = key.starts_with("setting.") ? key.substr(8) : key == "batches" ? "batches an epoch" : "--" + key;
      differences += (differences.empty() ? "" : "; ") + shown + " " + in_words(then->second) + ", now " + in_words(now);
    }
    if (differences.empty()) return;
    const std::string text = options_.out + " was begun with other settings: " + differences;
    if (!options_.force) throw ValueError("resume", text, "Give the same ones, choose another --out for a new run, or add --force to go on with these.");
    std::fprintf(stderr, "resume: %s\n", text.c_str());
  }
  void check_weights(const TensorFile& model) const {
    try {
      check_finite(model, "model");
    } catch (const IoError& e) {
      throw Diverged("train", words_of(e) + " after step " + std::to_string(step) + "; " + remains(), lower_rate());
    }
  }
  const TrainTask& task_;
  const TrainOptions& options_;
  CheckpointFolder folder_;
};

void write_history(const std::string& out, const std::vector<std::pair<std::int64_t, Metrics>>& history) {
  if (history.empty()) return;
  std::vector<Curve> curves;  // of the columns of all rows: a resume may add some or leave some out
  for (const auto& [epoch, m] : history)
    for (const auto& column : m)
      if (std::none_of(curves.begin(), curves.end(), [&](const Curve& c) { return c.name == column.first; })) curves.push_back({column.first, {}, {}});
  std::ofstream csv(out + "/metrics.csv.tmp");
  csv << "epoch";
  for (const auto& curve : curves) csv << "," << curve.name;
  csv << "\n";
  for (const auto& [epoch, m] : history) {
    csv << epoch;
    for (auto& curve : curves) {
      csv << ",";
      for (const auto& [name, value] : m) {
        if (name != curve.name) continue;
        csv << exact(value);
        curve.x.push_back(static_cast<double>(epoch));
        curve.y.push_back(value);
      }
    }
    csv << "\n";
  }
  csv.close();
  if (!csv) throw IoError(IoKind::write_failed, "train", out + "/metrics.csv", "could not be written", "Is the disk full?");
  fs::rename(out + "/metrics.csv.tmp", out + "/metrics.csv");
  std::vector<Curve> losses, rates;
  for (auto& curve : curves)
    if (curve.name != "lr") (curve.name.find("loss") != std::string::npos ? losses : rates).push_back(std::move(curve));
  if (!losses.empty()) write_chart(out + "/loss", {.title = "Loss", .x_label = "epoch", .y_label = "loss", .curves = losses});
  if (!rates.empty()) write_chart(out + "/rates", {.title = "Rates", .x_label = "epoch", .y_label = "share", .curves = rates});
}

void add(Metrics& sums, const Metrics& m) {
  if (sums.empty()) {
    sums = m;
    return;
  }
  for (std::size_t i = 0; i < m.size(); ++i) sums[i].second += m[i].second;
}

std::string show(const Metrics& m) {
  std::string text;
  for (const auto& [name, value] : m) {
    char part[80];
    std::snprintf(part, sizeof part, "%s%s %.4g", text.empty() ? "" : "  ", name.c_str(), value);
    text += part;
  }
  return text;
}

// The loader's next one. Where memory was short for it, once more without what is kept for reuse.
std::optional<StagedBatch> next_batch(DevicePrefetcher& batches, const Run& run) {
  try {
    return batches.next();
  } catch (const OutOfMemory&) {
  }
  cpu_allocator()->release_cached();
  batches.start(static_cast<std::uint64_t>(run.epoch), run.batch);
  return batches.next();
}

TrainResult run_to_the_end(const TrainTask& task, const TrainOptions& options, Run& run) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  Progress progress(Progress::parse(options.progress));
  if (options.resume) {
    run.resume(progress);
  } else {
    if (run.has_checkpoint())
      throw IoError(IoKind::cannot_create, "train", options.out, "already holds a run", "Add --resume to go on with it, or choose another --out.");
    default_generator().restore(options.seed, std::uint64_t{1} << 32);  // streams below belong to the initial weights
  }
  TrainResult result;
  task.model.train();
  Stepper stepper(task, options);
  DevicePrefetcher batches(task.loader, options.device);
  int bad_in_a_row = 0;
  std::string last_bad;  // the loss that was not finite, and where its batch comes from
  const auto diverged = [&] {
    return Diverged("train", last_bad + "; " + run.remains(), run.lower_rate());
  };
  const auto enough = [&] { return options.max_steps > 0 && run.step >= options.max_steps; };
  if (enough()) {  // a finished run that is resumed
    result.end = TrainEnd::time_up;
    result.history = run.history;
    result.steps = run.step;
    return result;
  }
  for (; run.epoch < options.epochs; ++run.epoch, run.batch = 0, run.sums.clear()) {
    batches.start(static_cast<std::uint64_t>(run.epoch), run.batch);
    while (auto batch = next_batch(batches, run)) {
      const double lr = task.lr(run.epoch, run.step);
      task.optimizer.set_lr(lr);
      const Metrics m = stepper.step(*batch);
      ++run.step;
      ++run.batch;
      if (!std::isfinite(m[0].second)) {
        ++bad_in_a_row;
        last_bad = m[0].first + " was not finite in " + (bad_in_a_row == 1 ? "the last step" : std::to_string(bad_in_a_row) + " steps in a row") + " (step " +
                   std::to_string(run.step) + ")" + (task.origin ? "; the last batch was " + task.origin(batch->host) : "");
        if (bad_in_a_row >= 10) throw diverged();
      } else {
        bad_in_a_row = 0;
        if (task.ema) task.ema->update();
      }
      add(run.sums, m);
      progress.update(run.batch, task.loader.batches(), "epoch " + std::to_string(run.epoch + 1) + "/" + std::to_string(options.epochs) + "  " + show(m));
      const bool late = options.seconds > 0 && elapsed() > options.seconds;
      if (signal_received() || late || enough()) {
        result.end = signal_received() ? TrainEnd::interrupted : TrainEnd::time_up;
        break;
      }
      if (options.save_every > 0 && run.step % options.save_every == 0 && bad_in_a_row == 0) run.save(false);
    }
    const bool whole = run.batch >= task.loader.batches();
    // A run that ends in bad steps has no weights worth keeping, and whoever reads its last lines must learn that.
    if (bad_in_a_row > 0 && (result.end != TrainEnd::finished || run.epoch + 1 >= options.epochs)) throw diverged();
    if (bad_in_a_row == 0) run.check_weights();
    if (whole || result.end == TrainEnd::time_up) {
      Metrics row;
      for (const auto& [name, value] : run.sums) row.emplace_back(name, value / static_cast<double>(run.batch));
      row.emplace_back("lr", task.lr(run.epoch, run.step - 1));  // not the optimizer's: after a resume at the epoch's end it has not got one yet
      if (task.evaluate) {
        task.model.eval();
        const NoGrad guard;
        if (task.ema) task.ema->swap();
        for (const auto& e : task.evaluate()) row.push_back(e);
        if (task.ema) task.ema->swap();
        task.model.train();
      }
      progress.line("epoch " + std::to_string(run.epoch + 1) + "  " + show(row));
      result.history = run.history;
      result.history.emplace_back(run.epoch + 1, row);
      if (whole) run.history = result.history;
      write_history(options.out, result.history);
      double value = static_cast<double>(run.epoch);
      for (const auto& [name, v] : row)
        if (name == options.best_metric) value = v;
      const bool is_best = value > run.best;
      if (is_best) run.best = value;
      if (whole && bad_in_a_row == 0) {  // saved as the beginning of the next epoch
        const Metrics sums = std::move(run.sums);
        run.sums.clear();
        ++run.epoch;
        run.batch = 0;
        run.save(is_best);
        --run.epoch;
        run.batch = task.loader.batches();
      }
    }
    if (result.end != TrainEnd::finished) {
      if (!whole) run.save(false);
      progress.line((result.end == TrainEnd::interrupted ? "stopped by a signal; " : "stopped at the limit; ") + std::string("saved at step ") + std::to_string(run.step) +
                    ". Go on with --resume.");
      break;
    }
  }
  if (result.history.empty()) result.history = run.history;
  result.seconds = elapsed();
  result.steps = run.step;
  return result;
}

}  // namespace

TrainResult run_training(const TrainTask& task, const TrainOptions& options) {
  fs::create_directories(options.out);
  Run run(task, options);
  try {
    return run_to_the_end(task, options, run);
  } catch (const OutOfMemory& e) {
    throw OutOfMemory(e.op(), words_of(e) + "; " + run.remains(), e.hint());
  } catch (const DeviceLost& e) {
    throw DeviceLost(e.op(), words_of(e) + " (in step " + std::to_string(run.step + 1) + "); " + run.remains(), e.hint());
  }
}

std::optional<std::int64_t> steps_taken(const std::string& out) {
  if (!fs::exists(out + "/checkpoint")) return {};
  const CheckpointFolder folder(out + "/checkpoint");
  return folder.exists() ? std::optional(number(folder.load_last(), "step")) : std::nullopt;
}

Batch on_device(const Batch& batch, Device device) {
  Batch out;
  for (const auto& t : batch) {
    if (device.is_cpu() || !(t.is_contiguous() || t.is_channels_last())) {
      out.push_back(to(t, device));
      continue;
    }
    out.push_back(Tensor::empty(t.shape(), t.dtype(), t.is_contiguous() ? Layout::contiguous : Layout::channels_last, device));
    copy_memory(out.back().raw_data(), device, t.raw_data(), Device::cpu(), t.numel() * item_size(t.dtype()));
  }
  return out;
}

void learn(const Tensor& loss, Optimizer& optimizer, const std::vector<NamedTensor>& parameters, double clip, LossScaler* scaler) {
  if (!std::isfinite(loss.item())) return;
  backward(scaler ? scaler->scale(loss) : loss);
  if (!scaler || scaler->unscale(parameters)) {
    if (clip > 0) clip_grad_norm(parameters, clip);
    optimizer.step();
  }
  optimizer.zero_grad();
}

std::unique_ptr<LossScaler> make_scaler(DType autocast) { return autocast == DType::f16 ? std::make_unique<LossScaler>() : nullptr; }

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int signal_received() noexcept { return received; }

int guarded_main(const char* program, const std::function<int()>& body) {
  try {
    const int result = body();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {  // the second: what an earlier flush could not write
      std::fprintf(stderr, "%s: writing to stdout failed. Is the disk full?\n", program);
      return code(Exit::io);
    }
    return result;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", program, e.what());
    return code(exit_code(e));
  }
}

}  // namespace mien::example
