// One function per command: adds its options to the parser and gives back what runs after parsing (the exit code).
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "mien/face/detector.h"

namespace mien::cli {

using Run = std::function<int()>;
Run add_detect(CLI::App& app);
Run add_embed(CLI::App& app);
Run add_verify(CLI::App& app);
Run add_align(CLI::App& app);
Run add_convert(CLI::App& app);
Run add_inspect(CLI::App& app);
Run add_doctor(CLI::App& app);
Run add_eval(CLI::App& app);
Run add_bench(CLI::App& app);

std::string version_text();
// --weights, then $MIEN_WEIGHTS, then ../share/mien/weights/LEAF beside the program; IoError missing names what was tried.
std::string find_weights(const std::string& given, const std::string& leaf);
// --model, then $MIEN_MODEL, then ../share/mien/weights/mobilefacenet.safetensors.
std::string find_model(const std::string& given);
// The known word with the fewest edits, or "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

// A name for OUT/... that two pictures of different folders don't share.
std::string unique_leaf(const std::string& file, std::set<std::string>& used, const std::string& end, const std::string& folder = {});
// Before any work: ValueError when a picture that would be written as FOLDER/STEM + `end` (or STEM-2...) would replace one of the pictures to read.
void keep_inputs(const std::string& option, const std::vector<std::string>& files, const std::string& folder, const std::set<std::string>& stems, const std::string& end);
// With its parents, and files can be made in it; nothing for "". IoError cannot_create.
void make_folder(const std::string& command, const std::string& path);
// The pictures behind the PATHs of a command line, in order; IoError missing when one of them leads to none. Folders below that can't be listed are said on
// stderr and counted in `locked`: they are bad as unreadable pictures are.
std::vector<std::string> pictures_of(const std::vector<std::string>& paths, const char* command, std::size_t& locked);
// The stems of pictures, for keep_inputs.
std::set<std::string> stems_of(const std::vector<std::string>& files);

using Json = nlohmann::ordered_json;
Json number(float v);  // the shortest text that reads back as the same float
Json face_json(const Face& face);
void print_line(const Json& line);
std::string csv_field(const std::string& s);

// "i/n" on a terminal while pictures are read, cleared at the end; messages don't collide with it.
class Counter {
 public:
  Counter(const std::string& mode, std::size_t total);  // mode: auto, on, off
  ~Counter();
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;
  void at(std::size_t i);
  void say(const std::string& text);

 private:
  bool shown_;
  std::size_t total_;
};

// "3" or "2%": how many of `total` may be bad.
struct MaxBad {
  double value = 0;
  bool percent = false;
  bool allows(std::size_t bad, std::size_t total) const { return static_cast<double>(bad) <= (percent ? value / 100 * static_cast<double>(total) : value); }
};
MaxBad parse_max_bad(const std::string& text);  // ValueError

}  // namespace mien::cli
