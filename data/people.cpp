#include "mien/data/people.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>

#include "mien/data/image.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien {
namespace {

using Pictures = std::map<std::string, std::vector<std::string>>;  // by name

Pictures from_folders(const std::string& folder) {
  if (!fs::is_directory(folder)) throw IoError(IoKind::missing, "people", folder, "is no folder", "Give a folder with one folder a person, or @LIST.");
  Pictures found;
  std::string loose;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) {
      for (const auto& e : fs::directory_iterator(entry.path()))
        if (e.is_regular_file() && has_image_extension(e.path().string())) found[entry.path().filename().string()].push_back(e.path().string());
    } else if (has_image_extension(entry.path().string())) {
      loose = entry.path().string();
    }
  }
  if (found.empty() && !loose.empty())
    throw IoError(IoKind::bad_data, "people", folder, "holds pictures but no folder of a person with pictures, e.g. " + loose, "Make one folder a person, or give @LIST with path and name.");
  return found;
}

Pictures from_list(const std::string& list) {
  std::ifstream in(list);
  if (!in) throw IoError(IoKind::missing, "people", list, "can't be opened");
  Pictures found;
  std::set<std::string> seen;
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty()) continue;
    const auto tab = line.find('\t');
    if (tab == std::string::npos || tab == 0 || tab + 1 == line.size() || line.size() > 65536)
      throw IoError(IoKind::bad_data, "people", list, "line " + std::to_string(number) + ": expected a path, a tab and a name, got '" + line.substr(0, 80) + "'");
    const fs::path file = line.substr(0, tab);
    const std::string full = file.is_absolute() ? file.string() : (fs::path(list).parent_path() / file).string();
    if (!seen.insert(full).second) throw IoError(IoKind::bad_data, "people", list, "line " + std::to_string(number) + ": " + full + " is listed twice");
    found[line.substr(tab + 1)].push_back(full);
  }
  return found;
}

// "Ann Lee", "ann_lee" and "Ann-Lee" are hardly three people.
std::string simplified(const std::string& name) {
  std::string out;
  for (const char c : name)
    if (!std::ispunct(static_cast<unsigned char>(c)) && !std::isspace(static_cast<unsigned char>(c))) out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

People read_people(const std::string& path, const PeopleOptions& options) {
  const bool list = !path.empty() && path[0] == '@';
  Pictures found = list ? from_list(path.substr(1)) : from_folders(path);
  for (const auto& name : options.only)
    if (!found.contains(name)) throw IoError(IoKind::missing, "people", path, "holds nobody called '" + name + "', who was asked for");
  std::map<std::string, std::string> simple;
  People people;
  for (const auto& name : options.without)
    if (!found.contains(name)) people.unknown.push_back(name);
  for (auto& [name, files] : found) {
    if ((!options.only.empty() && !options.only.contains(name)) || options.without.contains(name) || static_cast<std::int64_t>(files.size()) < options.min_pictures) continue;
    if (const auto [it, fresh] = simple.emplace(simplified(name), name); !fresh && !it->first.empty())
      throw ValueError("people", path + " has '" + it->second + "' and '" + name + "', which look like one person twice", "Join the two, or give them names that differ.");
    std::sort(files.begin(), files.end());
    for (auto& f : files) people.pictures.push_back({std::move(f), static_cast<std::int64_t>(people.names.size())});
    people.names.push_back(name);
  }
  if (people.names.empty())
    throw IoError(IoKind::missing, "people", path, "holds nobody to train on (" + std::to_string(found.size()) + " people before the choice by name and number of pictures)");
  return people;
}

std::vector<std::string> read_name_lines(const std::string& file) {
  if (fs::is_directory(file)) throw IoError(IoKind::bad_data, "names", file, "is a folder", "Give a text file with one name a line.");
  std::ifstream in(file);
  if (!in) throw IoError(IoKind::missing, "names", file, "can't be opened");
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin != std::string::npos) lines.push_back(line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin));
  }
  if (in.bad()) throw IoError(IoKind::bad_data, "names", file, "can't be read");
  if (lines.empty()) throw IoError(IoKind::bad_data, "names", file, "holds no name", "Write one name a line, or leave the option out.");
  return lines;
}

std::set<std::string> read_names(const std::string& file) {
  std::set<std::string> names;
  for (auto line : read_name_lines(file)) {
    line.resize(std::min(line.size(), line.find('\t')));
    line.resize(line.find_last_not_of(' ') + 1);
    names.insert(line);
  }
  return names;
}

}  // namespace mien
