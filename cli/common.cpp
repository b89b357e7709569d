#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "commands.h"
#include "mien/data/image.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/tensor/device.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien::cli {

std::string version_text() {
  std::string levels;
  for (const Level l : {Level::base, Level::avx2, Level::avx512, Level::amx})
    if (l <= machine_cpu_level()) levels += std::string(levels.empty() ? "" : " ") + name(l);
  return std::string("mien " MIEN_VERSION "\ncompiler: ") +
#if defined(__clang__)
         "clang " __clang_version__
#else
         "g++ " __VERSION__
#endif
         + "\ncpu levels: " + levels + " (used: " + name(max_cpu_level()) + ")\nthreads: " + std::to_string(num_threads()) + "\ncuda: " + (built_with_cuda() ? "yes" : "no") +
         "\ndecoders: " + image_decoders();
}

namespace {
// What the user named, what the environment names, what lies in ../share/mien/weights beside the program.
std::string find_file(const std::string& given, const char* variable, const std::string& leaf, const std::string& hint) {
  if (!given.empty()) {
    if (!fs::exists(given)) throw IoError(IoKind::missing, "weights", given, "there is no such file");
    return given;
  }
  if (const char* env = std::getenv(variable); env && *env) {
    if (!fs::exists(env)) throw IoError(IoKind::missing, "weights", env, std::string("there is no such file (named by ") + variable + ")");
    return env;
  }
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "share/mien/weights" / leaf;
  if (fs::exists(beside)) return beside.string();
  throw IoError(IoKind::missing, "weights", beside.string(), std::string("there is no such file, and neither an option nor ") + variable + " names one", hint);
}
}  // namespace

std::string find_weights(const std::string& given, const std::string& leaf) { return find_file(given, "MIEN_WEIGHTS", leaf, "Make one with `mien convert --model mtcnn`."); }
std::string find_model(const std::string& given) {
  return find_file(given, "MIEN_MODEL", "mobilefacenet.safetensors", "Make one with `mien convert --model mobilefacenet` or with train_facenet.");
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t fewest = word.size() / 2 + 1;
  for (const auto& k : known) {
    std::vector<std::size_t> row(k.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= k.size(); ++j) {
        const std::size_t change = diagonal + (word[i - 1] == k[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < fewest) {
      fewest = row.back();
      best = k;
    }
  }
  return best;
}

std::string unique_leaf(const std::string& file, std::set<std::string>& used, const std::string& end, const std::string& folder) {
  const std::string stem = folder + fs::path(file).stem().string();
  std::string leaf = stem + end;
  for (int k = 2; !used.insert(leaf).second; ++k) leaf = stem + "-" + std::to_string(k) + end;
  return leaf;
}

void make_folder(const std::string& command, const std::string& path) {
  std::error_code error;
  if (!path.empty() && !fs::create_directories(path, error) && error) throw IoError(IoKind::cannot_create, command, path, "can't be made: " + error.message());
  if (!path.empty() && ::access(path.c_str(), W_OK | X_OK) != 0) throw IoError(IoKind::cannot_create, command, path, std::string("can't be written: ") + std::strerror(errno));
}

std::set<std::string> stems_of(const std::vector<std::string>& files) {
  std::set<std::string> stems;
  for (const auto& f : files) stems.insert(fs::path(f).stem().string());
  return stems;
}

void keep_inputs(const std::string& option, const std::vector<std::string>& files, const std::string& folder, const std::set<std::string>& stems, const std::string& end) {
  std::set<std::pair<dev_t, ino_t>> inputs;  // whatever name or link leads to them
  struct stat info {};
  for (const auto& f : files)
    if (::stat(f.c_str(), &info) == 0) inputs.emplace(info.st_dev, info.st_ino);
  std::error_code none;  // a folder that is not there yet holds no input
  for (fs::directory_iterator it(folder, none), last; !none && it != last; it.increment(none)) {
    std::string stem = it->path().filename().string();
    if (!stem.ends_with(end)) continue;
    stem.resize(stem.size() - end.size());
    const auto dash = stem.rfind('-');
    const bool numbered = dash != std::string::npos && dash + 1 < stem.size() && stem.find_first_not_of("0123456789", dash + 1) == std::string::npos;
    if (!stems.contains(stem) && !(numbered && stems.contains(stem.substr(0, dash)))) continue;
    if (::stat(it->path().c_str(), &info) == 0 && inputs.contains({info.st_dev, info.st_ino}))
      throw ValueError(option, it->path().string() + " is one of the pictures to read and would be overwritten", "Name another folder.");
  }
}

namespace {
// The pictures of a folder and of those below. A link that leads nowhere counts as a picture that can't be read.
void walk(const fs::path& folder, std::vector<std::string>& files, std::vector<std::string>& locked) {
  std::error_code error, none;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const fs::path& path = it->path();
    const auto kind = fs::symlink_status(path, none).type(), behind = fs::status(path, none).type();
    if (kind == fs::file_type::directory) walk(path, files, locked);
    else if (has_image_extension(path.string()) && (behind == fs::file_type::regular || (kind == fs::file_type::symlink && behind != fs::file_type::directory))) files.push_back(path.string());
  }
  if (error) locked.push_back(folder.string() + ": can't be listed: " + error.message());
}
}  // namespace

std::vector<std::string> pictures_of(const std::vector<std::string>& paths, const char* command, std::size_t& locked) {
  std::vector<std::string> files, unlisted;
  for (const auto& p : paths) {
    std::error_code error;
    std::vector<std::string> found, refused;
    if (const auto status = fs::status(p, error); fs::is_directory(status)) {
      walk(p, found, refused);
      std::sort(found.begin(), found.end());
    } else if (p[0] != '@' && status.type() == fs::file_type::none) {
      throw IoError(IoKind::missing, command, p, "can't be read: " + error.message());
    } else {
      found = list_images(p);
    }
    if (found.empty() && !refused.empty()) throw IoError(IoKind::missing, command, refused[0], "no picture can be read below " + p);
    if (found.empty()) throw IoError(IoKind::missing, command, p, "holds no picture (.jpg .jpeg .png .bmp)");
    files.insert(files.end(), found.begin(), found.end());
    unlisted.insert(unlisted.end(), refused.begin(), refused.end());
  }
  for (const auto& text : unlisted) std::fprintf(stderr, "mien: %s\n", text.c_str());
  locked = unlisted.size();
  return files;
}

Json number(float v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(v));
  return Json::parse(text);
}

Json face_json(const Face& f) {
  Json face;
  face["box"] = Json::array();
  for (const float v : f.box) face["box"].push_back(number(v));
  face["score"] = number(f.score);
  face["points"] = Json::array();
  for (const auto& p : f.points) face["points"].push_back(Json::array({number(p[0]), number(p[1])}));
  return face;
}

void print_line(const Json& line) { std::printf("%s\n", line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str()); }

std::string csv_field(const std::string& s) {
  if (s.find_first_of(",\"\n\r") == std::string::npos) return s;
  std::string out = "\"";
  for (const char c : s) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

Counter::Counter(const std::string& mode, std::size_t total) : shown_(mode == "on" || (mode == "auto" && isatty(STDERR_FILENO) && total > 1)), total_(total) {}
Counter::~Counter() {
  if (shown_) std::fprintf(stderr, "\r\x1b[K");
}
void Counter::at(std::size_t i) {
  if (shown_) std::fprintf(stderr, "\r%zu/%zu\x1b[K", i, total_);
}
void Counter::say(const std::string& text) { std::fprintf(stderr, "%smien: %s\n", shown_ ? "\r\x1b[K" : "", text.c_str()); }

MaxBad parse_max_bad(const std::string& text) {
  char* end = nullptr;
  MaxBad m;
  m.value = std::strtod(text.c_str(), &end);
  m.percent = *end == '%';
  if (end == text.c_str() || !(m.value >= 0) || std::isinf(m.value) || (*end && !(m.percent && end[1] == 0)) || (m.percent && m.value > 100))
    throw ValueError("--max-bad", "expected a number such as 3 or a share such as 2%, got '" + text + "'");
  return m;
}

}  // namespace mien::cli
