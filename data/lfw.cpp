#include "mien/data/lfw.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>

#include "mien/io/file.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien {
namespace {

struct Line {
  std::int64_t number;
  std::vector<std::string> fields;
};

[[noreturn]] void refuse(const std::string& file, std::int64_t line, const std::string& why) {
  throw IoError(IoKind::bad_data, "read_lfw_pairs", file, "line " + std::to_string(line) + ": " + why, "Expected the pairs.txt format of LFW.");
}

std::vector<Line> split_lines(const std::string& path) {
  const auto bytes = read_file(path, std::int64_t{64} << 20);
  std::istringstream in(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  std::vector<Line> lines;
  std::string text;
  for (std::int64_t number = 1; std::getline(in, text); ++number) {
    std::istringstream words(text);
    Line line{number, {}};
    for (std::string w; words >> w;) line.fields.push_back(w);
    if (!line.fields.empty()) lines.push_back(line);
  }
  return lines;
}

std::optional<int> whole_number(const std::string& text, int low, int high) {
  int v = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (error != std::errc() || end != text.data() + text.size() || v < low || v > high) return std::nullopt;
  return v;
}

std::string picture(const std::string& file, const Line& line, const std::string& name, const std::string& number) {
  if (name == "." || name == ".." || name.find('/') != std::string::npos) refuse(file, line.number, "'" + name + "' is no name of a person");
  const auto v = whole_number(number, 1, 9999999);
  if (!v) refuse(file, line.number, "expected the number of a picture, got '" + number + "'");
  char leaf[16];
  std::snprintf(leaf, sizeof leaf, "_%04d.jpg", *v);
  return name + "/" + name + leaf;
}

}  // namespace

LfwPairs read_lfw_pairs(const std::string& path) {
  const auto lines = split_lines(path);
  if (lines.empty()) throw IoError(IoKind::bad_data, "read_lfw_pairs", path, "is empty", "Expected the pairs.txt format of LFW.");
  const auto& head = lines[0].fields;
  const auto folds = head.size() == 2 ? whole_number(head[0], 1, 1000) : std::optional<int>(1), per_kind = whole_number(head.back(), 1, 1'000'000);
  if (head.size() > 2 || !folds || !per_kind) refuse(path, lines[0].number, "expected a header of two counts (folds and pairs of each kind) or one");
  LfwPairs out;
  out.folds = *folds;
  out.per_kind = *per_kind;
  const auto per_fold = 2 * static_cast<std::size_t>(*per_kind), expected = per_fold * static_cast<std::size_t>(*folds);
  if (lines.size() - 1 != expected)
    throw IoError(IoKind::bad_data, "read_lfw_pairs", path,
                  "its header promises " + std::to_string(expected) + " pairs (" + std::to_string(*folds) + " x 2 x " + std::to_string(*per_kind) + "), it holds " + std::to_string(lines.size() - 1));
  std::vector<std::array<std::string, 2>> named;
  std::map<std::string, std::int64_t> index;
  std::int64_t same_in_fold = 0;
  for (std::size_t k = 0; k < expected; ++k) {
    const Line& l = lines[k + 1];
    const auto& f = l.fields;
    if (f.size() != 3 && f.size() != 4) refuse(path, l.number, "expected 3 fields (one person) or 4 (two people), got " + std::to_string(f.size()));
    const bool same = f.size() == 3;
    named.push_back(same ? std::array{picture(path, l, f[0], f[1]), picture(path, l, f[0], f[2])} : std::array{picture(path, l, f[0], f[1]), picture(path, l, f[2], f[3])});
    for (const auto& p : named.back()) index.emplace(p, 0);
    out.same.push_back(same);
    out.fold.push_back(static_cast<int>(k / per_fold));
    same_in_fold = (k % per_fold == 0 ? 0 : same_in_fold) + same;
    if ((k + 1) % per_fold == 0 && same_in_fold != *per_kind)
      refuse(path, l.number, "fold " + std::to_string(out.fold.back() + 1) + " ends here with " + std::to_string(same_in_fold) + " pairs of one person, expected " + std::to_string(*per_kind));
  }
  for (auto& [name, at] : index) {
    at = static_cast<std::int64_t>(out.pictures.size());
    out.pictures.push_back(name);
  }
  for (const auto& [a, b] : named) out.pairs.push_back({index.at(a), index.at(b)});
  return out;
}

void check_lfw_pictures(const LfwPairs& pairs, const std::string& folder) {
  if (!fs::is_directory(folder)) throw IoError(IoKind::missing, "lfw", folder, "is no folder", "Expected a folder with Name/Name_0001.jpg in it.");
  std::vector<std::string> missing;
  for (const auto& p : pairs.pictures)
    if (!fs::exists(fs::path(folder) / p)) missing.push_back(p);
  if (missing.empty()) return;
  std::string names;
  for (std::size_t i = 0; i < std::min<std::size_t>(missing.size(), 3); ++i) names += (i ? ", " : "") + missing[i];
  throw IoError(IoKind::missing, "lfw", folder,
                "lacks " + std::to_string(missing.size()) + " of the " + std::to_string(pairs.pictures.size()) + " pictures of the pairs: " + names + (missing.size() > 3 ? " and more" : ""),
                "Expected a folder with Name/Name_0001.jpg in it.");
}

}  // namespace mien
