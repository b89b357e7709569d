#include "exit_codes.h"

#include <filesystem>
#include <new>

#include "mien/tensor/error.h"

namespace mien {

Exit exit_code(const std::exception& e) noexcept {
  if (const auto* io = dynamic_cast<const IoError*>(&e)) {
    switch (io->kind()) {
      case IoKind::bad_data: return Exit::bad_data;
      case IoKind::missing: return Exit::missing;
      case IoKind::cannot_create: return Exit::cannot_create;
      case IoKind::write_failed: return Exit::io;
      case IoKind::locked: return Exit::locked;
    }
  }
  if (const auto* fs = dynamic_cast<const std::filesystem::filesystem_error*>(&e))
    return fs->code() == std::errc::permission_denied || fs->code() == std::errc::no_such_file_or_directory ? Exit::missing : Exit::io;
  if (dynamic_cast<const Diverged*>(&e)) return Exit::diverged;
  if (dynamic_cast<const OutOfMemory*>(&e) || dynamic_cast<const std::bad_alloc*>(&e)) return Exit::out_of_memory;
  if (dynamic_cast<const DeviceError*>(&e)) return Exit::no_device;
  if (dynamic_cast<const ValueError*>(&e)) return Exit::usage;
  return Exit::internal;
}

}  // namespace mien
