// What every training program's command line shares.
#pragma once

#include <CLI/CLI.hpp>

#include "common_train.h"

namespace mien::example {

// --out --epochs --seed --resume --seconds --max-steps --save-every --progress --device --autocast --threads
void add_train_options(CLI::App& app, TrainOptions& options);
void add_workers(CLI::App& app, int& workers);  // --workers
// Parses; -1: go on, otherwise the exit code to end with (0 for --help, 2 for a mistake, which is explained on stderr).
int parse(CLI::App& app, int argc, char** argv);

}  // namespace mien::example
