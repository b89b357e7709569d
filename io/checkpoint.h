// The state of a training run on disk: `last`, `last-1` and `best`, each one checksummed file, each replaced atomically.
#pragma once

#include <map>
#include <string>

#include "mien/io/safetensors.h"

namespace mien {

struct Checkpoint {
  TensorFile model, optimizer;
  std::map<std::string, std::string> state;  // counters, seeds, history: whatever the loop needs, as text
};

// One process per folder: the second gets an IoError of kind locked. Made when absent. A save that a kill cut short after its file was written is brought
// to its end here.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(const std::string& folder);
  ~CheckpointFolder();
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;

  // When it returns, the checkpoint survives a kill or a power cut; when it throws, the one before is untouched.
  void save(const Checkpoint& checkpoint, bool is_best = false);
  // `last`, or `last-1` when that one can't be read (then `note` says why). IoError missing: there is none.
  Checkpoint load_last(std::string* note = nullptr) const;
  bool exists() const;

 private:
  void take_names();  // `last` becomes `last-1`, the file that was just written `last`

  std::string folder_;
  int lock_ = -1;
};

Checkpoint load_checkpoint(const std::string& path);

}  // namespace mien
