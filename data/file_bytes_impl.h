// A whole regular file. data/ does not see io/, so the few lines live here.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "mien/tensor/error.h"

namespace mien {

inline std::vector<std::byte> file_bytes(const std::string& path, std::int64_t max_bytes) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) throw IoError(errno == ENOENT || errno == ENOTDIR || errno == EACCES ? IoKind::missing : IoKind::bad_data, "read", path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) throw IoError(IoKind::bad_data, "read", path, "is not a regular file", "Give the path of a picture.");
  if (info.st_size > max_bytes) throw IoError(IoKind::bad_data, "read", path, "has " + std::to_string(info.st_size) + " bytes, more than the limit of " + std::to_string(max_bytes));
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> f(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!f) throw IoError(errno == EACCES ? IoKind::missing : IoKind::bad_data, "read", path, std::strerror(errno));
  std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
  if (std::fread(bytes.data(), 1, bytes.size(), f.get()) != bytes.size()) throw IoError(IoKind::bad_data, "read", path, "could not be read to its end");
  return bytes;
}

}  // namespace mien
