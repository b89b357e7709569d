#include "mien/io/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien {
namespace {

FileCalls real_calls;
FileCalls* calls = &real_calls;
std::atomic<unsigned> counter{0};

constexpr const char* marker = ".mien-tmp-";

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }
std::string temporary_beside(const fs::path& file) {
  std::string leaf = ".";
  leaf += file.filename().string() + marker + std::to_string(getpid()) + "-" + std::to_string(counter.fetch_add(1));
  return (folder_of(file) / leaf).string();
}

// Left behind by a process that was killed while it saved.
void remove_stale(const fs::path& folder, const std::string& leaf) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string(), prefix = "." + leaf + marker;
    if (name.rfind(prefix, 0) != 0) continue;
    const int pid = std::atoi(name.c_str() + prefix.size());
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) fs::remove(entry.path(), ignored);
  }
}

// A file descriptor and the name of an unfinished file: both go when writing fails.
class Temporary {
 public:
  explicit Temporary(std::string path) : path_(std::move(path)), fd_(calls->open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {}
  ~Temporary() {
    if (fd_ >= 0) calls->close(fd_);
    if (!done_ && created_) calls->unlink(path_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  bool open() noexcept { return created_ = fd_ >= 0; }
  int fd() const noexcept { return fd_; }
  int close() noexcept { return calls->close(std::exchange(fd_, -1)); }
  void keep() noexcept { done_ = true; }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
  int fd_;
  bool created_ = false, done_ = false;
};

[[noreturn]] void fail(IoKind kind, const std::string& path, const char* what, std::size_t bytes) {
  const int error = errno;
  throw IoError(kind, "write", path, std::string(what) + " failed: " + std::strerror(error) + " (" + std::to_string(bytes) + " bytes needed)",
                error == ENOSPC || error == EDQUOT ? "Free some space; the file from before is untouched." : "The file from before is untouched.");
}

// False: errno says why.
bool write_all(int fd, std::span<const std::byte> bytes) {
  std::size_t done = 0;
  for (int interrupted = 0; done < bytes.size();) {
    const long put = calls->write(fd, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR && ++interrupted < 1000) continue;  // a signal; not for ever
    if (put < 0) return false;
    done += static_cast<std::size_t>(put);
  }
  return true;
}

// Where a path ends.
struct Place {
  fs::path file;        // behind all links; need not be there
  int descriptor = -1;  // /dev/stdout, /dev/fd/3: one of this process
  bool device = false;  // a device, FIFO or socket: it has no old content to keep, and a rename would put a file in its place
};
Place place_of(const std::string& path) {
  Place p{path};
  std::error_code error;
  const fs::path own = fs::canonical("/proc/self/fd", error);
  for (int links = 0; fs::is_symlink(fs::symlink_status(p.file, error)); ++links) {
    const fs::path folder = folder_of(p.file);
    if (!own.empty() && fs::canonical(folder, error) == own) {  // opening it again would need permission, and begin at the start of a file
      p.descriptor = std::atoi(p.file.filename().c_str());
      return p;
    }
    const fs::path to = fs::read_symlink(p.file, error);
    if (error || links >= 40) {
      errno = error ? error.value() : ELOOP;
      fail(IoKind::cannot_create, path, "following its links", 0);
    }
    p.file = folder / to;  // an absolute `to` stands alone
  }
  struct stat info {};
  if (::stat(p.file.c_str(), &info) != 0) return p;
  if (S_ISDIR(info.st_mode)) throw IoError(IoKind::cannot_create, "write", path, "is a folder", "Name a file.");
  p.device = !S_ISREG(info.st_mode);
  return p;
}

void write_into(const Place& place, const std::string& path, std::span<const std::byte> bytes) {
  const auto fail_here = [&](IoKind kind, const char* what) {
    const int error = errno;
    throw IoError(kind, "write", path, std::string(what) + " failed: " + std::strerror(error) + " (" + std::to_string(bytes.size()) + " bytes needed)");
  };
  if (place.descriptor == STDOUT_FILENO) std::fflush(stdout);  // what was printed before comes before
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) calls->close(fd);
    }
  } d{place.descriptor >= 0 ? ::fcntl(place.descriptor, F_DUPFD_CLOEXEC, 0) : calls->open(place.file.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY, 0)};
  if (d.fd < 0) fail_here(IoKind::cannot_create, "opening");
  if (!write_all(d.fd, bytes)) fail_here(IoKind::write_failed, "writing");
  if (calls->close(std::exchange(d.fd, -1)) != 0) fail_here(IoKind::write_failed, "closing");
}

}  // namespace

int FileCalls::open(const char* path, int flags, unsigned mode) { return ::open(path, flags, mode); }
long FileCalls::write(int fd, const void* data, std::size_t bytes) { return ::write(fd, data, bytes); }
int FileCalls::fsync(int fd) { return ::fsync(fd); }
int FileCalls::close(int fd) { return ::close(fd); }
int FileCalls::rename(const char* from, const char* to) { return ::rename(from, to); }
int FileCalls::unlink(const char* path) { return ::unlink(path); }
FileCalls* set_file_calls(FileCalls* other) noexcept { return std::exchange(calls, other ? other : &real_calls); }

InputFile::InputFile(const std::string& path, std::int64_t max_bytes) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ < 0) throw IoError(errno == ENOENT || errno == ENOTDIR || errno == EACCES ? IoKind::missing : IoKind::bad_data, "read", path, std::strerror(errno));
  try {
    struct stat info {};
    if (fstat(fd_, &info) != 0) throw IoError(IoKind::bad_data, "read", path, std::strerror(errno));
    if (!S_ISREG(info.st_mode)) throw IoError(IoKind::bad_data, "read", path, "is not a regular file", "Give the path of a file.");
    if (info.st_size > max_bytes)
      throw IoError(IoKind::bad_data, "read", path, "has " + std::to_string(info.st_size) + " bytes, more than the limit of " + std::to_string(max_bytes));
    size_ = static_cast<std::uint64_t>(info.st_size);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}
InputFile::~InputFile() { ::close(fd_); }

void InputFile::read(std::uint64_t begin, std::span<std::byte> to) const {
  for (std::size_t done = 0; done < to.size();) {
    const long got = ::pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw IoError(IoKind::bad_data, "read", path_, std::strerror(errno));
    if (got == 0) throw IoError(IoKind::bad_data, "read", path_, "became shorter while it was read");
    done += static_cast<std::size_t>(got);
  }
}

std::vector<std::byte> read_file(const std::string& path, std::int64_t max_bytes) {
  const InputFile file(path, max_bytes);
  std::vector<std::byte> bytes(file.size());
  file.read(0, bytes);
  return bytes;
}

void write_file_atomic(const std::string& path, std::span<const std::byte> bytes, bool durable) {
  const Place place = place_of(path);
  if (place.descriptor >= 0 || place.device) return write_into(place, path, bytes);
  const fs::path& target = place.file;
  const fs::path folder = folder_of(target);
  if (durable) remove_stale(folder, target.filename().string());
  Temporary temp(temporary_beside(target));
  if (!temp.open()) fail(IoKind::cannot_create, path, "creating a temporary file beside it", bytes.size());
  if (!write_all(temp.fd(), bytes)) fail(IoKind::write_failed, path, "writing", bytes.size());
  if (durable && calls->fsync(temp.fd()) != 0) fail(IoKind::write_failed, path, "fsync", bytes.size());
  if (temp.close() != 0) fail(IoKind::write_failed, path, "closing", bytes.size());
  if (calls->rename(temp.path().c_str(), target.c_str()) != 0) fail(IoKind::write_failed, path, "renaming", bytes.size());
  temp.keep();
  if (!durable) return;
  const int dir = calls->open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (dir < 0) fail(IoKind::write_failed, path, "opening its folder", bytes.size());
  const int synced = calls->fsync(dir);
  calls->close(dir);
  if (synced != 0) fail(IoKind::write_failed, path, "fsync of its folder", bytes.size());
}

void check_can_write(const std::string& path) {
  const Place place = place_of(path);
  if (place.descriptor >= 0) return;
  const auto refuse = [&] { throw IoError(IoKind::cannot_create, "write", path, std::string("can't be written: ") + std::strerror(errno), "Give a place in a folder that is there and may be written."); };
  if (place.device) {
    if (::access(place.file.c_str(), W_OK) != 0) refuse();  // opening a FIFO would wait
    return;
  }
  Temporary temp(temporary_beside(place.file));  // more certain than to ask for permissions
  if (!temp.open()) refuse();
}

}  // namespace mien
