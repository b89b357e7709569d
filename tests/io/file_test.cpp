// Saving: whole or not at all, whatever call fails.
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catch.h"
#include "mien/io/checkpoint.h"
#include "mien/io/file.h"

namespace fs = std::filesystem;

namespace mien::test {
namespace {

std::vector<std::byte> text(const std::string& s) {
  std::vector<std::byte> out(s.size());
  std::memcpy(out.data(), s.data(), s.size());
  return out;
}
std::string read(const fs::path& path) {
  const auto b = read_file(path.string());
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}
std::size_t entries(const fs::path& folder) { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {})); }

// Fails the n-th call (once, or from then on) with an error, or makes a write short.
struct Failing : FileCalls {
  int left, error;
  bool for_ever;
  Failing(int n, int e, bool f) : left(n), error(e), for_ever(f) {}
  bool fails() {
    if (left > 1 || (left < 1 && !for_ever)) {
      --left;
      return false;
    }
    if (left == 1) --left;
    errno = error;
    return true;
  }
  int open(const char* p, int f, unsigned m) override { return fails() ? -1 : FileCalls::open(p, f, m); }
  long write(int fd, const void* d, std::size_t n) override { return fails() ? -1 : FileCalls::write(fd, d, n > 5 ? 5 : n); }  // always short
  int fsync(int fd) override { return fails() ? -1 : FileCalls::fsync(fd); }
  int close(int fd) override {
    const bool f = fails();
    const int r = FileCalls::close(fd);  // a close that reports an error has closed all the same
    if (f) errno = error;
    return f ? -1 : r;
  }
  int rename(const char* a, const char* b) override { return fails() ? -1 : FileCalls::rename(a, b); }
};
struct Hook {
  FileCalls* before;
  explicit Hook(FileCalls* c) : before(set_file_calls(c)) {}
  ~Hook() { set_file_calls(before); }
};

Checkpoint checkpoint(double v) {
  Checkpoint c;
  c.model.tensors.emplace_back("w", Tensor::from(std::vector<double>{v}, {1}));
  c.optimizer.tensors.emplace_back("w.momentum", Tensor::from(std::vector<double>{-v}, {1}));
  c.state["step"] = std::to_string(v);
  return c;
}
double value(const Checkpoint& c) { return c.model.tensors.at(0).second.item(); }

}  // namespace

TEST_CASE("a save that fails at any call leaves the old file or the new one, and no litter", "[io][fault]") {
  for (const int error : {EIO, ENOSPC, EDQUOT, EINTR})
    for (const bool for_ever : {false, true}) {
      int n = 1;
      for (bool failed = true; failed; ++n) {
        REQUIRE(n < 100);
        const fs::path dir = temp_dir("fault"), path = dir / "a.bin";
        write_file_atomic(path.string(), text("the old one"));
        Failing calls(n, error, for_ever);
        bool threw = false;
        {
          const Hook hook(&calls);
          try {
            write_file_atomic(path.string(), text("the new text"));
          } catch (const IoError& e) {
            threw = true;
            CHECK(std::string(e.what()).find(path.string()) != std::string::npos);
          }
        }
        INFO("call " << n << ", " << std::strerror(error) << (for_ever ? ", for ever" : ", once"));
        const std::string now = read(path);
        if (!threw) CHECK(now == "the new text");
        else CHECK((now == "the old one" || now == "the new text"));  // new: only the last fsync or close was refused
        CHECK(entries(dir) == 1);
        failed = calls.left < 1;
        fs::remove_all(dir);
      }
      CHECK(n > 6);
    }
}

TEST_CASE("only regular files are read", "[io]") {
  const fs::path dir = temp_dir("kinds");
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  for (const std::string& p : {(dir / "pipe").string(), dir.string(), std::string("/dev/zero")}) {
    INFO(p);
    CHECK_THROWS_AS(read_file(p), IoError);
  }
  try {
    read_file((dir / "absent").string());
    FAIL("read a file that is not there");
  } catch (const IoError& e) {
    CHECK(e.kind() == IoKind::missing);
  }
  write_file_atomic((dir / "ten").string(), text("0123456789"));
  CHECK_THROWS_AS(read_file((dir / "ten").string(), 9), IoError);
  fs::remove_all(dir);
}

TEST_CASE("a link stays and its file is replaced; devices and FIFOs are written into", "[io]") {
  const fs::path dir = temp_dir("places");
  fs::create_directories(dir / "far");
  write_file_atomic((dir / "far" / "file").string(), text("old"));
  fs::create_symlink("far/file", dir / "one");
  fs::create_symlink("one", dir / "two");
  write_file_atomic((dir / "two").string(), text("new"));
  CHECK(fs::is_symlink(dir / "one"));
  CHECK(fs::is_symlink(dir / "two"));
  CHECK(read(dir / "far" / "file") == "new");
  fs::create_symlink("far/later", dir / "dangling");
  write_file_atomic((dir / "dangling").string(), text("made"));
  CHECK(fs::is_symlink(dir / "dangling"));
  CHECK(read(dir / "far" / "later") == "made");
  CHECK(entries(dir / "far") == 2);
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  const int end = ::open((dir / "pipe").c_str(), O_RDWR);  // so that opening it to write does not wait
  REQUIRE(end >= 0);
  for (const std::string& p : {(dir / "pipe").string(), "/dev/fd/" + std::to_string(end)}) {
    INFO(p);
    write_file_atomic(p, text("12345"));
    char got[9] = {};
    CHECK(::read(end, got, sizeof got) == 5);
    CHECK(std::string(got) == "12345");
  }
  ::close(end);
  CHECK(fs::is_fifo(dir / "pipe"));
  write_file_atomic("/dev/null", text("nothing"));
  CHECK(fs::is_character_file("/dev/null"));
  fs::create_symlink("loop", dir / "loop");
  const auto kind = [](const std::string& p) {
    try {
      write_file_atomic(p, text("x"));
    } catch (const IoError& e) {
      return e.kind();
    }
    return IoKind::locked;
  };
  CHECK(kind((dir / "loop").string()) == IoKind::cannot_create);
  CHECK(kind(dir.string()) == IoKind::cannot_create);
  if (fs::exists("/dev/full")) {
    CHECK(kind("/dev/full") == IoKind::write_failed);
    CHECK(fs::is_character_file("/dev/full"));
  }
  fs::remove_all(dir);
}

TEST_CASE("a full disk: the message says what was needed and the last checkpoint stays", "[io][fault]") {
  const fs::path dir = temp_dir("full");
  if (mount("tmpfs", dir.c_str(), "tmpfs", 0, "size=1m") != 0) {
    fs::remove_all(dir);
    MIEN_SKIP(std::string("no tmpfs can be mounted here: ") + std::strerror(errno));
  }
  {
    CheckpointFolder folder(dir.string() + "/run");
    folder.save(checkpoint(1));
    Checkpoint large = checkpoint(2);
    large.model.tensors.emplace_back("large", Tensor::empty({1 << 20}));
    try {
      folder.save(large);
      FAIL("4 MB went into 1 MB");
    } catch (const IoError& e) {
      CHECK(e.kind() == IoKind::write_failed);
      CHECK(std::string(e.what()).find(dir.string()) != std::string::npos);
      CHECK(std::string(e.what()).find("No space left") != std::string::npos);
    }
    CHECK(value(folder.load_last()) == 1);
    folder.save(checkpoint(3));
    CHECK(value(folder.load_last()) == 3);
  }
  umount(dir.c_str());
  fs::remove_all(dir);
}

TEST_CASE("checkpoints: last, last-1 and best; a damaged last is replaced by the one before", "[io]") {
  const fs::path dir = temp_dir("checkpoint");
  {
    CheckpointFolder folder(dir.string());
    CHECK_FALSE(folder.exists());
    CHECK_THROWS_AS(folder.load_last(), IoError);
    folder.save(checkpoint(1), true);
    folder.save(checkpoint(2));
    CHECK(value(folder.load_last()) == 2);
    CHECK(value(load_checkpoint((dir / "last-1.safetensors").string())) == 1);
    CHECK(value(load_checkpoint((dir / "best.safetensors").string())) == 1);
    CHECK(folder.load_last().state.at("step") == checkpoint(2).state.at("step"));
    CHECK(folder.load_last().optimizer.tensors.at(0).second.item() == -2);
    try {
      CheckpointFolder second(dir.string());
      FAIL("two runs share a folder");
    } catch (const IoError& e) {
      CHECK(e.kind() == IoKind::locked);
    }
    fs::resize_file(dir / "last.safetensors", fs::file_size(dir / "last.safetensors") - 3);
    std::string note;
    CHECK(value(folder.load_last(&note)) == 1);
    CHECK(note.find("last.safetensors") != std::string::npos);
  }
  CheckpointFolder again(dir.string());  // the lock went with the first
  fs::remove_all(dir);
}

TEST_CASE("a save that was cut short when its file was complete is brought to its end", "[io]") {
  const fs::path dir = temp_dir("checkpoint-cut");
  const fs::path last = dir / "last.safetensors", before = dir / "last-1.safetensors", next = dir / "next.safetensors";
  CheckpointFolder(dir.string()).save(checkpoint(1), true);
  fs::rename(last, next);  // a kill in the first save of all, before the file got its name
  {
    CheckpointFolder folder(dir.string());
    CHECK(folder.exists());
    CHECK(value(folder.load_last()) == 1);
    folder.save(checkpoint(2));
    folder.save(checkpoint(3));
  }
  fs::rename(last, next);  // before the renames of a later save
  fs::rename(before, last);
  {
    CheckpointFolder folder(dir.string());
    CHECK(value(folder.load_last()) == 3);
    CHECK(value(load_checkpoint(before.string())) == 2);
  }
  fs::rename(last, next);  // between the two
  CHECK(value(CheckpointFolder(dir.string()).load_last()) == 3);
  CHECK(value(load_checkpoint(before.string())) == 2);
  CHECK_FALSE(fs::exists(next));
  fs::remove_all(dir);
}

}  // namespace mien::test
