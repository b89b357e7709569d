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

#include "mien/tensor/device.h"

namespace mien::test {

// The source folder; $MIEN_SOURCE where the tests run on another machine than built them (tools/gpu-check).
inline std::string source_path(const std::string& relative) {
  const char* set = std::getenv("MIEN_SOURCE");
  return std::string(set ? set : MIEN_SOURCE_DIR) + "/" + relative;
}
// The folder of data sets that a user's clone does not have: $MIEN_DATA, else ../shared/data beside the source folder.
inline std::string data_root() {
  const char* set = std::getenv("MIEN_DATA");
  return set ? set : source_path("../shared/data");
}
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

// Leaves the test where no GPU can be used, telling why; fails instead when MIEN_REQUIRE_CUDA=1.
#define MIEN_NEEDS_CUDA()                                                                    \
  if (const std::string why_not = ::mien::why_no_cuda(); !why_not.empty()) {                 \
    const char* cuda_required = std::getenv("MIEN_REQUIRE_CUDA");                            \
    if (cuda_required && std::string(cuda_required) == "1") FAIL("no GPU: " << why_not);     \
    MIEN_SKIP("no GPU: " + why_not);                                                         \
  }

// `path` becomes the file or folder below the data root; skips when it is absent, fails when MIEN_REQUIRE_DATA=1.
#define MIEN_REQUIRE_DATA(path, relative)                                                                        \
  const std::string path = ::mien::test::data_root() + "/" + (relative);                                         \
  if (!std::filesystem::exists(path)) {                                                                          \
    const char* required = std::getenv("MIEN_REQUIRE_DATA");                                                     \
    if (required && std::string(required) == "1") FAIL("data is required but absent: " << path);                 \
    MIEN_SKIP("no data at " + path + " (set MIEN_DATA to a folder that has it)");                                \
  }
