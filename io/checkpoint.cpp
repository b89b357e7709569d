#include "mien/io/checkpoint.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "mien/io/file.h"

namespace fs = std::filesystem;

namespace mien {
namespace {

constexpr const char *last_name = "/last.safetensors", *before_name = "/last-1.safetensors", *next_name = "/next.safetensors";

std::vector<std::byte> pack(const Checkpoint& c) {
  TensorFile all;
  for (const auto& [name, t] : c.model.tensors) all.tensors.emplace_back("model." + name, t);
  for (const auto& [name, t] : c.optimizer.tensors) all.tensors.emplace_back("optimizer." + name, t);
  for (const auto& [k, v] : c.state) all.metadata["state." + k] = v;
  all.metadata["mien.kind"] = "checkpoint";
  return to_safetensors(all);
}

}  // namespace

Checkpoint load_checkpoint(const std::string& path) {
  TensorFile all = load_safetensors(path);
  if (all.metadata["mien.kind"] != "checkpoint") throw IoError(IoKind::bad_data, "checkpoint", path, "is not a checkpoint of a training run");
  Checkpoint c;
  for (auto& [name, t] : all.tensors) {
    const auto dot = name.find('.');
    (name.rfind("model.", 0) == 0 ? c.model : c.optimizer).tensors.emplace_back(name.substr(dot + 1), t);
  }
  for (const auto& [k, v] : all.metadata)
    if (k.rfind("state.", 0) == 0) c.state[k.substr(6)] = v;
  return c;
}

CheckpointFolder::CheckpointFolder(const std::string& folder) : folder_(folder) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw IoError(IoKind::cannot_create, "checkpoint", folder_, "can't be made: " + error.message());
  lock_ = ::open((folder_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) throw IoError(IoKind::cannot_create, "checkpoint", folder_ + "/lock", std::strerror(errno));
  try {
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0)
      throw IoError(IoKind::locked, "checkpoint", folder_, "another training writes here", "Wait for it, stop it, or choose another folder.");
    // A kill in the middle of `save` left a complete file that has not got its name yet.
    if (fs::exists(folder_ + next_name)) take_names();
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

CheckpointFolder::~CheckpointFolder() { ::close(lock_); }

bool CheckpointFolder::exists() const { return fs::exists(folder_ + last_name) || fs::exists(folder_ + before_name); }

void CheckpointFolder::save(const Checkpoint& checkpoint, bool is_best) {
  const std::vector<std::byte> bytes = pack(checkpoint);
  // First the best: a run that is resumed from the checkpoint before writes the same again, one resumed from this checkpoint would never.
  if (is_best) write_file_atomic(folder_ + "/best.safetensors", bytes);
  // The new file is complete on disk before the old one gives up its name.
  write_file_atomic(folder_ + next_name, bytes);
  take_names();
}

void CheckpointFolder::take_names() {
  const std::string last = folder_ + last_name, before = folder_ + before_name;
  std::error_code error;
  if (fs::exists(last)) fs::rename(last, before, error);
  if (!error) fs::rename(folder_ + next_name, last, error);
  if (error) throw IoError(IoKind::write_failed, "checkpoint", last, "renaming failed: " + error.message(), "The checkpoint before is " + before + ".");
  const int dir = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {
    const int synced = ::fsync(dir);
    ::close(dir);
    if (synced != 0) throw IoError(IoKind::write_failed, "checkpoint", folder_, std::string("fsync failed: ") + std::strerror(errno));
  }
}

Checkpoint CheckpointFolder::load_last(std::string* note) const {
  std::string why;
  for (const char* leaf : {last_name, before_name}) {
    if (!fs::exists(folder_ + leaf)) continue;
    try {
      Checkpoint c = load_checkpoint(folder_ + leaf);
      if (note) *note = why;
      return c;
    } catch (const IoError& e) {
      why += std::string(why.empty() ? "" : "; ") + e.what();
    }
  }
  if (why.empty()) throw IoError(IoKind::missing, "checkpoint", folder_, "holds no checkpoint", "Start the training without --resume.");
  throw IoError(IoKind::bad_data, "checkpoint", folder_, "holds no checkpoint that can be read: " + why);
}

}  // namespace mien
