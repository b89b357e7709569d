// Checks of the numbers on a command line, each with a message that says what was expected and what came.
#pragma once

#include <CLI/CLI.hpp>

namespace mien::cli {

CLI::Validator whole_number(long long low, long long high);
CLI::Validator at_least_one();  // a whole number
// Finite and above 0, of 0 or more, in [0, 1).
CLI::Validator above_zero();
CLI::Validator zero_or_more();
CLI::Validator below_one();

}  // namespace mien::cli
