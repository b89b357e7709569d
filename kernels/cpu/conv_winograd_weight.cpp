// Gradient of 3x3 weights with stride 1 by Winograd's F(4x4, 3x3): the transpose of the forward pass (kernels/winograd.h).
//   gW = G^T [ sum over patches of (A gY A^T) * (B^T X B) ] G
// Chunks of patches are transformed, [36][patch][O] and [36][patch][C]; each of the 36 products then adds [O, C] sums over the patches of the chunk.
// Threads share out products, never patches: nothing has to be added up between them, and the bits do not depend on their number.
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/direct_maps.h"
#include "mien/kernels/cpu/row_gemm.h"
#include "mien/kernels/cpu/winograd.h"

namespace mien::MIEN_LEVEL {
namespace {

using namespace winograd_detail;
using F = WinogradFour;

struct Plan {
  ConvSizes s;
  WinogradSizes w;
  std::int64_t chunk;            // patches
  std::int64_t ld;               // of a transformed patch of X: no power of two
  std::int64_t x_step, gy_step;  // from one of the 36 products to the next
  std::int64_t sum_floats() const { return F::products * s.o * s.c; }
  std::int64_t floats() const { return round_up(s.c, 16) + F::products * (x_step + gy_step) + sum_floats(); }
};
Plan plan_of(const KernelArgs& a) {
  Plan p{};
  const ConvSizes& s = p.s = conv_sizes(a.in[1], a.out[0], a.in[0], a.get<ConvParams>());
  p.w = {s.n, s.h, s.w, s.c, s.oh, s.ow, s.ph, s.pw, 0};
  // A chunk's patches take as much memory as the sums: a larger chunk would write more of the one, a smaller one would come to the other more often.
  const std::int64_t wanted = std::max<std::int64_t>(56, s.o * s.c / (s.o + s.c));
  p.chunk = ceil_div(patches<F>(p.w), ceil_div(patches<F>(p.w), wanted));
  p.ld = s.c + 16;
  p.x_step = p.chunk * p.ld + 16;
  p.gy_step = round_up(p.chunk * s.o, 16) + 16;
  return p;
}
std::int64_t workspace(const KernelArgs& a) { return 4 * plan_of(a).floats(); }

// Sums [36][O][C] to gW.
void finish(const Plan& p, const float* sums, const View& gw) {
  const std::int64_t step = p.s.o * p.s.c;
  parallel_for(p.s.o, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o)
      for (std::int64_t c = 0; c < p.s.c; c += lanes) {
        float* to = gw.ptr<float>() + o * gw.stride(0) + c * gw.stride(1);
        both_axes<6, 3>(F::weight_gradient, [&](int i, int j) { return Load(sums + (i * 6 + j) * step + o * p.s.c + c); },
                        [&](int i, int j, Vec v) { store_apart(v, lanes, to + i * gw.stride(2) + j * gw.stride(3), gw.stride(1)); });
      }
  });
}

void run(const KernelArgs& a) {
  const float *gy = a.in[0].ptr<float>(), *x = a.in[1].ptr<float>();
  const Plan p = plan_of(a);
  const ConvSizes& s = p.s;
  auto* zeros = static_cast<float*>(a.workspace);
  float *turned_x = zeros + round_up(s.c, 16), *turned_gy = turned_x + F::products * p.x_step, *sums = turned_gy + F::products * p.gy_step;
  std::fill_n(zeros, s.c, 0.f);
  for (std::int64_t first = 0; first < patches<F>(p.w); first += p.chunk) {
    const std::int64_t count = std::min(p.chunk, patches<F>(p.w) - first);
    parallel_for(count, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const Patch patch = patch_at<F>(p.w, first + t);
        transform_input<F>(p.w, x, s.c, patch, zeros, turned_x + t * p.ld, p.x_step);
        const float* from = gy + ((patch.image * s.oh + patch.y) * s.ow + patch.x) * s.o;
        for (std::int64_t o = 0; o < s.o; o += lanes) {
          const auto transform = s.o - o >= lanes ? transform_gradient<F, false> : transform_gradient<F, true>;
          transform(from + o, s.ow * s.o, s.o, s.oh - patch.y, s.ow - patch.x, s.o - o, turned_gy + t * s.o + o, p.gy_step);
        }
      }
    });
    const std::int64_t zero = 0, tiles = ceil_div(s.o, most_rows);
    parallel_for(F::products, 1, [&](std::int64_t k, std::int64_t) {
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t o = s.o * t / tiles, rows = s.o * (t + 1) / tiles - o;
        for (std::int64_t c = 0; c < s.c; c += 2 * lanes) {
          const Tile tile{sums + (k * s.o + o) * s.c + c, s.c, rows, std::min<std::int64_t>(2 * lanes, s.c - c), first == 0 ? Start::zero : Start::accumulate};
          row_tile<false>({1, count, &zero, &zero}, {turned_gy + k * p.gy_step + o, 1, s.o}, {turned_x + k * p.x_step + c, p.ld, lanes}, tile);
        }
      }
    });
  }
  finish(p, sums, a.out[0]);
}

const char* decline(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  if (a.get<ConvParams>().groups != 1) return "groups";
  if (!a.in[1].is_channels_last() || !a.in[0].is_channels_last()) return "not channels_last";
  if (a.in[0].numel() == 0 || a.in[1].numel() == 0) return "empty";
  return by_winograd(plan_of(a).s) ? nullptr : "Winograd does not pay";
}

}  // namespace

extern const KernelEntry winograd_grad_weight{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
