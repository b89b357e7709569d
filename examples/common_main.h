// What every training program's command line shares.
#pragma once

#include <set>

#include <CLI/CLI.hpp>

#include "checks.h"
#include "common_train.h"

namespace mien::example {

// --out --epochs --seed --resume --force --seconds --max-steps --save-every --progress --device --autocast --threads
void add_train_options(CLI::App& app, TrainOptions& options);
void add_workers(CLI::App& app, int& workers);  // --workers
// The options of a program with their values, for TrainOptions::settings: without `others`, which the bits of a run don't depend on or which name files, and
// without those of add_train_options and add_workers.
Settings settings_of(const CLI::App& app, const std::set<std::string>& others);
// Of training data, for the same: "120 (1a2b3c4d)".
std::string fingerprint(std::size_t count, std::uint32_t checksum);
// Makes the folder of a run before any work is done for it. IoError cannot_create.
void make_out(const std::string& program, const std::string& out);
// One line on stderr about the names of a list that match nothing; none without such names.
void tell_unknown(const std::string& program, const std::string& file, const std::vector<std::string>& names, const char* what);
// Parses; -1: go on, otherwise the exit code to end with (0 for --help, 2 for a mistake, which is explained on stderr).
int parse(CLI::App& app, int argc, char** argv);

}  // namespace mien::example
