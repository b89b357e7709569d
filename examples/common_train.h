// The loop that the training programs share: epochs, checkpoints, resume bit for bit, Ctrl-C, metrics.csv and curves.
//
// What makes a resumed run equal the one that was not stopped: the order of the samples follows from (seed, epoch), augmentation from
// (seed, epoch, sample), the rate from the step, and the checkpoint holds weights, optimizer buffers, the generator's position and the sums of the epoch so far.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common_progress.h"
#include "mien/data/loader.h"
#include "mien/layers/module.h"
#include "mien/optim/ema.h"
#include "mien/optim/loss_scaler.h"
#include "mien/optim/optimizer.h"

namespace mien::example {

using Settings = std::map<std::string, std::string>;  // what the bits of a run depend on, by the name of the option or in words
using Metrics = std::vector<std::pair<std::string, double>>;  // in the order of the columns

struct TrainOptions {
  std::string out = "runs/train";
  std::int64_t epochs = 10;
  std::uint64_t seed = 0;
  bool resume = false;
  Settings settings = {};        // besides seed and autocast: checkpoints keep them, and `resume` with others is refused (ValueError)
  bool force = false;            // ... unless this is set
  double seconds = 0;            // stop after this time with everything saved; 0: no limit. Limits change no bit of the steps that are taken
  std::int64_t max_steps = 0;    // stop after this many steps in all; 0: no limit
  std::int64_t save_every = 0;   // also save every this many steps; 0: at the end of each epoch only
  std::string progress = "auto";
  Device device = {};                 // where the steps run: the caller puts the model there; batches are brought there
  DType autocast = DType::f32;        // of the steps' convolutions and products (ops/autocast.h); evaluate() runs in f32
  std::string best_metric = {};  // a column of evaluate(); the highest is kept as `best`; empty: the last
};
struct TrainTask {
  Module& model;
  Optimizer& optimizer;
  Loader& loader;
  std::function<double(std::int64_t epoch, std::int64_t step)> lr;
  std::function<Metrics(const Batch&)> step;      // forward, backward, optimizer last, on options.device; returns what to average over the epoch
  std::function<Metrics()> evaluate;              // after each epoch; may be empty
  Ema* ema = nullptr;                             // updated after each step; evaluate() sees the averages
  LossScaler* scaler = nullptr;                   // that learn() uses: its factor belongs to the state of the run
  std::function<std::string(const Batch&)> origin = {};  // where a batch comes from, for the message when its loss is not finite
};
enum class TrainEnd { finished, time_up, interrupted };
struct TrainResult {
  TrainEnd end = TrainEnd::finished;
  std::vector<std::pair<std::int64_t, Metrics>> history;  // epoch, training means and evaluation
  double seconds = 0;
  std::int64_t steps = 0;  // in all, also those from before a resume
};
// A step whose first metric is not finite must leave the weights alone. Throws Diverged after 10 losses in a row that are not finite, when the run ends with one
// (by a limit or a signal too), and when weights are not finite at the moment of saving: the caller must not write the net then. OutOfMemory when a step
// does not fit in two tries (common_retry.h), DeviceLost when the GPU fails: what is saved then is the last good state, and the message says of which step.
TrainResult run_training(const TrainTask& task, const TrainOptions& options);
// Steps by the last checkpoint of the run in a folder; none: it has no checkpoint.
std::optional<std::int64_t> steps_taken(const std::string& out);

// The batch on a device.
Batch on_device(const Batch& batch, Device device);
// Backward and one optimizer step, unless the loss (with a scaler: a gradient) is not finite: then the weights stay as they are. `parameters`: all, for `clip`, the
// largest norm of their gradients together (0: no limit), and for the scaler.
void learn(const Tensor& loss, Optimizer& optimizer, const std::vector<NamedTensor>& parameters = {}, double clip = 0, LossScaler* scaler = nullptr);
// For steps in f16; null for f32 and bf16, which need none.
std::unique_ptr<LossScaler> make_scaler(DType autocast);

// Ctrl-C and SIGTERM once: finish the step, save, end. Twice: at once.
void catch_signals();
int signal_received() noexcept;  // 0 or the number

// Runs main's body: errors become one line on stderr and the exit code of the table in `mien help exit-codes`.
int guarded_main(const char* program, const std::function<int()>& body);

}  // namespace mien::example
