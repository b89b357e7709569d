#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
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
}

std::vector<std::string> pictures_of(const std::vector<std::string>& paths, const char* command) {
  std::vector<std::string> files;
  for (const auto& p : paths) {
    const auto found = list_images(p);
    if (found.empty()) throw IoError(IoKind::missing, command, p, "holds no picture (.jpg .jpeg .png .bmp)");
    files.insert(files.end(), found.begin(), found.end());
  }
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
