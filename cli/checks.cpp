#include "checks.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <string>

namespace mien::cli {

CLI::Validator whole_number(long long low, long long high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        char* end = nullptr;
        errno = 0;
        const long long v = std::strtoll(text.c_str(), &end, 10);
        if (end != text.c_str() && *end == 0 && errno == 0 && v >= low && v <= high) return std::string();
        return "expected a whole number from " + std::to_string(low) + " to " + std::to_string(high) + ", got '" + text + "'";
      },
      "");
}
CLI::Validator at_least_one() {
  return CLI::Validator(
      [](std::string& text) { return whole_number(1, 2147483647)(text).empty() ? std::string() : "expected a whole number of at least 1, got '" + text + "'"; }, "");
}

namespace {
// CLI's own ranges let NaN pass.
CLI::Validator number(bool (*good)(double), const char* expected) {
  return CLI::Validator(
      [=](std::string& text) {
        char* end = nullptr;
        const double v = std::strtod(text.c_str(), &end);
        return end != text.c_str() && *end == 0 && std::isfinite(v) && good(v) ? std::string() : std::string("expected ") + expected + ", got '" + text + "'";
      },
      "");
}
}  // namespace

CLI::Validator above_zero() { return number([](double v) { return v > 0; }, "a number above 0"); }
CLI::Validator zero_or_more() { return number([](double v) { return v >= 0; }, "a number of 0 or more"); }
CLI::Validator below_one() { return number([](double v) { return v >= 0 && v < 1; }, "a number from 0 to below 1"); }

}  // namespace mien::cli
