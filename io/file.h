// Whole files: reading with a limit, writing that is either complete or did not happen.
//
// Note [Atomic files]: bytes go to a temporary file in the same folder (O_EXCL), then write, fsync, rename, fsync of the folder. A kill at any
// moment leaves the old file or the new one. An fsync that failed is never tried again: the kernel may have dropped the pages. A link stays: the file it leads
// to is replaced. A device, FIFO, socket or open descriptor (/dev/stdout) is written into as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mien {

// A file that is read in pieces. Regular files only: a FIFO, device or folder is refused. IoError names the file; its kind is missing or bad_data.
class InputFile {
 public:
  explicit InputFile(const std::string& path, std::int64_t max_bytes = std::int64_t{4} << 30);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  std::uint64_t size() const noexcept { return size_; }
  // The bytes from `begin` on. IoError when the file became shorter.
  void read(std::uint64_t begin, std::span<std::byte> to) const;

 private:
  const std::string path_;
  int fd_;
  std::uint64_t size_ = 0;
};
std::vector<std::byte> read_file(const std::string& path, std::int64_t max_bytes = std::int64_t{4} << 30);

// Replaces `path` (see the note). IoError of kind cannot_create or write_failed says how many bytes were needed; the old file stays. Not `durable`: without fsync
// and without a search for what a killed process left, for many files that can be made again (a power cut may take them).
void write_file_atomic(const std::string& path, std::span<const std::byte> bytes, bool durable = true);

// Before long work: IoError cannot_create when write_file_atomic(path) could not begin. Nothing is left behind.
void check_can_write(const std::string& path);

// The system calls behind write_file_atomic; tests put one here that fails the n-th call. Each returns what the call of that name does.
struct FileCalls {
  virtual ~FileCalls() = default;
  virtual int open(const char* path, int flags, unsigned mode);
  virtual long write(int fd, const void* data, std::size_t bytes);
  virtual int fsync(int fd);
  virtual int close(int fd);
  virtual int rename(const char* from, const char* to);
  virtual int unlink(const char* path);
};
// Null: the real calls. Returns the one before. For tests; not thread-safe.
FileCalls* set_file_calls(FileCalls* calls) noexcept;

}  // namespace mien
