// One function per command: adds its options to the parser and gives back what runs after parsing (the exit code).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace mien::cli {

using Run = std::function<int()>;
Run add_detect(CLI::App& app);
Run add_convert(CLI::App& app);
Run add_inspect(CLI::App& app);
Run add_doctor(CLI::App& app);
Run add_eval(CLI::App& app);

std::string version_text();
// --weights, then $MIEN_WEIGHTS, then ../share/mien/weights/LEAF beside the program; IoError missing names what was tried.
std::string find_weights(const std::string& given, const std::string& leaf);
// The known word with the fewest edits, or "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

// With its parents; nothing for "". IoError cannot_create.
void make_folder(const std::string& command, const std::string& path);
// In quotes where a comma, quote or line end demands it.
std::string csv_field(const std::string& s);

// "3" or "2%": how many of `total` may be bad.
struct MaxBad {
  double value = 0;
  bool percent = false;
  bool allows(std::size_t bad, std::size_t total) const { return static_cast<double>(bad) <= (percent ? value / 100 * static_cast<double>(total) : value); }
};
MaxBad parse_max_bad(const std::string& text);  // ValueError

}  // namespace mien::cli
