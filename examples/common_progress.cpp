#include "common_progress.h"

#include <unistd.h>

#include <cstdio>

#include "mien/tensor/error.h"

namespace mien::example {

Progress::Mode Progress::parse(const std::string& text) {
  if (text == "auto") return Mode::automatic;
  if (text == "on") return Mode::on;
  if (text == "off") return Mode::off;
  throw ValueError("progress", "expected auto, on or off, got '" + text + "'");
}

Progress::Progress(Mode mode) : rewrite_(mode == Mode::on || (mode == Mode::automatic && isatty(STDERR_FILENO))), quiet_(mode == Mode::off), start_(Clock::now()), last_(start_) {}

void Progress::update(std::int64_t done, std::int64_t total, const std::string& text) {
  if (quiet_) return;
  const auto now = Clock::now();
  if (first_ < 0 || done < first_) {
    first_ = done;
    start_ = now;
  }
  const double since = std::chrono::duration<double>(now - last_).count();
  if (since < (rewrite_ ? .1 : 30.0)) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const std::int64_t made = done - first_;
  char left[32] = "";
  if (made > 0) {
    const auto seconds = static_cast<long>(elapsed / static_cast<double>(made) * static_cast<double>(total - done));
    std::snprintf(left, sizeof left, "  %ld:%02ld left", seconds / 60, seconds % 60);
  }
  std::fprintf(stderr, rewrite_ ? "\r%ld/%ld  %s%s\x1b[K" : "%ld/%ld  %s%s\n", static_cast<long>(done), static_cast<long>(total), text.c_str(), left);
  open_ = rewrite_;
}

void Progress::line(const std::string& text) {
  if (quiet_) return;
  std::fprintf(stderr, open_ ? "\r%s\x1b[K\n" : "%s\n", text.c_str());
  open_ = false;
  first_ = -1;  // what comes next is timed on its own
}

}  // namespace mien::example
