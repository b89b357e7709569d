#include <unistd.h>

#include <algorithm>
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
  for (const Level l : {Level::base, Level::avx2, Level::avx512})
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

std::string find_weights(const std::string& given, const std::string& leaf) {
  if (!given.empty()) {
    if (!fs::exists(given)) throw IoError(IoKind::missing, "weights", given, "there is no such file");
    return given;
  }
  if (const char* env = std::getenv("MIEN_WEIGHTS"); env && *env) {
    if (!fs::exists(env)) throw IoError(IoKind::missing, "weights", env, "there is no such file (named by MIEN_WEIGHTS)");
    return env;
  }
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "share/mien/weights" / leaf;
  if (fs::exists(beside)) return beside.string();
  throw IoError(IoKind::missing, "weights", beside.string(), "there is no such file, and neither --weights nor MIEN_WEIGHTS names one", "Make one with `mien convert --model mtcnn`.");
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

void make_folder(const std::string& command, const std::string& path) {
  std::error_code error;
  if (!path.empty() && !fs::create_directories(path, error) && error) throw IoError(IoKind::cannot_create, command, path, "can't be made: " + error.message());
}

std::string csv_field(const std::string& s) {
  if (s.find_first_of(",\"\n\r") == std::string::npos) return s;
  std::string out = "\"";
  for (const char c : s) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

MaxBad parse_max_bad(const std::string& text) {
  char* end = nullptr;
  MaxBad m;
  m.value = std::strtod(text.c_str(), &end);
  m.percent = *end == '%';
  if (end == text.c_str() || m.value < 0 || (*end && !(m.percent && end[1] == 0)) || (m.percent && m.value > 100))
    throw ValueError("--max-bad", "expected a number such as 3 or a share such as 2%, got '" + text + "'");
  return m;
}

}  // namespace mien::cli
