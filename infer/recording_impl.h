// A session's run on a GPU, recorded and replayed. Private to infer/.
#pragma once

#include <utility>

#include "mien/tensor/device_backend.h"

namespace mien::infer {

// A run on a GPU as one graph. Note [Recorded runs]: the first run of a session goes call by call (libraries make their handles then), the second is recorded
// in a queue of its own, where no other thread's work can get into it, and replayed in the caller's. Where that fails, runs stay calls. Addresses are part of the
// recording, so inputs are copied to one place, and a session keeps the arenas of the last few shapes with their recordings (Note [Recent shapes]).
class Recording {
 public:
  explicit Recording(Device device) : device_(device), queue_(device_backend()->make_stream(device.index())) {}
  ~Recording() {
    if (graph_) device_backend()->drop_graph(graph_);
    device_backend()->drop_stream(device_.index(), queue_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  template <class F>
  void run(const F& calls) {
    if (runs_++ == 0) return calls();
    if (!graph_ && refusals_ < most_refusals) record(calls);
    if (!graph_) return calls();
    device_backend()->launch(device_.index(), graph_, current_stream(device_).handle);
  }

 private:
  template <class F>
  void record(const F& calls) {
    const StreamGuard own({device_, queue_});
    DeviceBackend& backend = *device_backend();
    backend.begin_capture(device_.index(), queue_);
    const bool whole = passes(calls);
    passes([&] { graph_ = backend.end_capture(device_.index(), queue_); });
    if (graph_ && !whole) backend.drop_graph(std::exchange(graph_, nullptr));
    refusals_ += !graph_;
  }
  // What fails in a recording may be the recording's fault alone; the calls one by one, which follow, say what is wrong with them.
  template <class F>
  static bool passes(const F& step) {
    try {
      step();
      return true;
    } catch (const DeviceLost&) {
      throw;
    } catch (...) {
      return false;
    }
  }

  static constexpr int most_refusals = 2;  // the first may be for a library's handle, which the thread has from then on
  Device device_;
  void* queue_;
  void* graph_ = nullptr;
  std::int64_t runs_ = 0;
  int refusals_ = 0;
};

}  // namespace mien::infer
