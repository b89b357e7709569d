// What every training program's command line shares.
#pragma once

#include <CLI/CLI.hpp>

#include "common_train.h"

namespace mien::example {

// --out --epochs --seed --resume --seconds --max-steps --save-every --progress --device --autocast --threads
void add_train_options(CLI::App& app, TrainOptions& options);
void add_workers(CLI::App& app, int& workers);  // --workers
// Checks of numbers: finite and above 0, of 0 or more, in [0, 1).
CLI::Validator above_zero();
CLI::Validator zero_or_more();
CLI::Validator below_one();
// Makes the folder of a run before any work is done for it. IoError cannot_create.
void make_out(const std::string& program, const std::string& out);
// One line on stderr about the names of a list that match nothing; none without such names.
void tell_unknown(const std::string& program, const std::string& file, const std::vector<std::string>& names, const char* what);
// Parses; -1: go on, otherwise the exit code to end with (0 for --help, 2 for a mistake, which is explained on stderr).
int parse(CLI::App& app, int argc, char** argv);

}  // namespace mien::example
