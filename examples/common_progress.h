// Progress on stderr: one line that is rewritten on a terminal, one plain line every 30 seconds and at the end otherwise.
#pragma once

#include <chrono>
#include <string>

namespace mien::example {

class Progress {
 public:
  enum class Mode { automatic, on, off };
  explicit Progress(Mode mode = Mode::automatic);
  // `done` of `total`; text: what to show beside it (loss, rate, ...). Cheap to call often.
  void update(std::int64_t done, std::int64_t total, const std::string& text);
  // A line that stays.
  void line(const std::string& text);
  static Mode parse(const std::string& text);  // auto, on, off; ValueError otherwise

 private:
  using Clock = std::chrono::steady_clock;
  bool rewrite_, quiet_;
  bool open_ = false;  // a rewritten line stands unfinished
  Clock::time_point start_, last_;
  std::int64_t first_ = -1;
};

}  // namespace mien::example
