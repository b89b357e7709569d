// Packed 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): winograd.h.
#include "mien/kernels/cpu/packed_panels.h"
#include "mien/kernels/cpu/winograd.h"

namespace mien::MIEN_LEVEL {
namespace {

WinogradSizes sizes(const KernelArgs& a) {
  const PackedSizes s = packed_sizes(a);
  return {s.n, s.h, s.w, s.c, s.oh, s.ow, s.top, s.left, a.in[1].size(0)};
}

void run(const KernelArgs& a) {
  run_winograd<WinogradFour>(sizes(a), a.in[0].ptr<float>(), pixel_step(a.in[0]), a.in[1].ptr<float>(), [&](std::int64_t panel) { return panel_out(a, panel, 0); },
               static_cast<float*>(a.workspace));
}
std::int64_t workspace(const KernelArgs& a) { return 4 * winograd_floats<WinogradFour>(sizes(a)); }

const char* decline(const KernelArgs& a) {
  if (const char* reason = decline_packed(a)) return reason;
  if (!pixel_step(a.in[0])) return "x is not channels_last";
  return a.in[0].size(1) % 16 == 0 ? nullptr : "Winograd with channels that are no multiple of 16";
}

}  // namespace

extern const KernelEntry packed_winograd{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
