// Batches of a Loader on a GPU, copied there while the step before runs.
//
//   DevicePrefetcher batches(loader, Device::cuda());
//   batches.start(epoch);
//   while (auto batch = batches.next()) train(batch->there);     // queued behind the copy: nobody waits for it on the CPU
//
// A thread takes the next batch from the loader, puts it into pinned memory and copies it in a queue of its own; one batch waits on the device besides the one
// in use. On the CPU it hands batches on as they are, without a thread. The values are the loader's, bit for bit.
// Thread safety: one thread calls start() and next(); the loader belongs to the prefetcher while it lives.
#pragma once

#include <memory>
#include <optional>

#include "mien/data/loader.h"

namespace mien {

struct StagedBatch {
  Batch host;   // as the loader made it
  Batch there;  // the same on the device; empty where memory was too short to bring it ahead (or a tensor has gaps): bring it with to()
};

class DevicePrefetcher {
 public:
  DevicePrefetcher(Loader& loader, Device device);
  ~DevicePrefetcher();
  DevicePrefetcher(const DevicePrefetcher&) = delete;
  DevicePrefetcher& operator=(const DevicePrefetcher&) = delete;

  // Begins an epoch at batch `first`. Stops the one before.
  void start(std::uint64_t epoch, std::int64_t first = 0);
  // The next batch in order, for work in the calling thread's queue; empty at the end of the epoch. An exception of the loader or the device comes out here.
  std::optional<StagedBatch> next();

 private:
  class Ahead;
  Loader& loader_;
  std::unique_ptr<Ahead> ahead_;  // null on the CPU
};

}  // namespace mien
