// Catch2 v2 and v3 under one include, and what every test shares.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>

namespace mien::test {

// The folder of data sets that a user's clone does not have: $MIEN_DATA, else ../shared/data beside the source folder.
inline std::string data_root() {
  const char* set = std::getenv("MIEN_DATA");
  return set ? set : MIEN_SOURCE_DIR "/../shared/data";
}
inline std::string source_path(const std::string& relative) { return std::string(MIEN_SOURCE_DIR) + "/" + relative; }
inline std::string fixture(const std::string& leaf) { return source_path("tests/fixtures/" + leaf); }
// A fresh empty folder for one test; it stays when the test fails.
inline std::filesystem::path temp_dir(const std::string& tag) {
  std::string pattern = (std::filesystem::temp_directory_path() / ("mien-" + tag + "-XXXXXX")).string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed for " + pattern);
  return pattern;
}

// The message of what `f` throws as E; "" with a failed check when it throws nothing or something else.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    FAIL_CHECK("another exception: " << e.what());
    return "";
  }
  FAIL_CHECK("nothing was thrown");
  return "";
}

}  // namespace mien::test

// Leaves the test; ctest counts it as skipped and test.sh prints the reason.
#define MIEN_SKIP(reason)                                          \
  do {                                                             \
    std::cout << "MIEN-SKIP: " << (reason) << std::endl;           \
    SUCCEED("skipped");                                            \
    return;                                                        \
  } while (false)

// `path` becomes the file or folder below the data root; skips when it is absent, fails when MIEN_REQUIRE_DATA=1.
#define MIEN_REQUIRE_DATA(path, relative)                                                                        \
  const std::string path = ::mien::test::data_root() + "/" + (relative);                                         \
  if (!std::filesystem::exists(path)) {                                                                          \
    const char* required = std::getenv("MIEN_REQUIRE_DATA");                                                     \
    if (required && std::string(required) == "1") FAIL("data is required but absent: " << path);                 \
    MIEN_SKIP("no data at " + path + " (set MIEN_DATA to a folder that has it)");                                \
  }
