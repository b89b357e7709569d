// Kernels that run other kernels: convolutions inside fused ops.
#pragma once

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

// The library's entry when it takes the call, else the own one.
inline const KernelEntry& best(const KernelEntry* library, const KernelEntry& own, const KernelArgs& args) {
  return library && !(library->decline && library->decline(args)) ? *library : own;
}
// Why neither takes the call, or null. The own one is asked first: its answer takes less time.
inline const char* decline_best(const KernelEntry* library, const KernelEntry& own, const KernelArgs& args) {
  const char* reason = own.decline ? own.decline(args) : nullptr;
  return reason && &best(library, own, args) == &own ? reason : nullptr;
}
inline void run_best(const KernelEntry* library, const KernelEntry& own, const KernelArgs& args) { best(library, own, args).run(args); }
// Enough for either, whichever runs.
inline std::int64_t workspace_best(const KernelEntry* library, const KernelEntry& own, const KernelArgs& args) {
  const auto of = [&](const KernelEntry& e) { return e.workspace ? e.workspace(args) : 0; };
  std::int64_t bytes = of(own);
  if (library && !(library->decline && library->decline(args))) bytes = std::max(bytes, of(*library));
  return (bytes + 255) / 256 * 256;
}
// The same call with other operands, parameters and workspace.
inline KernelArgs with(const KernelArgs& args, std::span<const View> in, std::span<const View> out, const void* params, void* workspace) {
  KernelArgs other = args;
  other.in = in;
  other.out = out;
  other.params = params;
  other.workspace = workspace;
  return other;
}
// A map in the workspace that lies as `like` does: channels_last or contiguous.
inline View map_in(void* at, const View& like, const Shape& shape) {
  const bool channels_last = like.is_channels_last() && !like.is_contiguous();
  return {at, like.dtype, shape, channels_last ? channels_last_strides(shape) : contiguous_strides(shape), like.device};
}
inline std::int64_t bytes_of(const View& v) { return v.numel() * item_size(v.dtype); }

}  // namespace mien::cuda
