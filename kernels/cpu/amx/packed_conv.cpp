// packed_conv2d on tiles, bf16 activations and weights: packed_product.h.
#include "mien/kernels/cpu/amx/packed_product.h"

namespace mien::MIEN_LEVEL {
namespace {

// The weights of a few channels, from [tap][32 channels] to k without gaps.
std::int64_t flat_values(const ProductPlan& p) { return p.rows.way == Way::patches ? p.panels * p.panel_values() : 0; }
void pack_flat(const ProductPlan& p, const Bf16* weights, Bf16* to) {
  const PackedSizes& s = p.rows.s;
  std::fill_n(to, flat_values(p), Bf16{0});
  for (std::int64_t panel = 0; panel < p.panels; ++panel)
    for (std::int64_t k = 0; k < s.depth(); ++k) {
      const std::int64_t tap = k / s.c, c = k % s.c;
      const Bf16* from = weights + (panel * s.taps() + tap) * tile_values + c / 2 * tile_depth + c % 2;
      Bf16* out = to + panel * p.panel_values() + k / tile_depth * tile_values + k % tile_depth / 2 * tile_depth + k % 2;
      for (std::int64_t col = 0; col < tile_size; ++col) out[2 * col] = from[2 * col];
    }
}

void run(const KernelArgs& a) {
  const ProductPlan p = product_plan(a);
  if (p.rows.way != Way::patches) return run_product<Bf16>(a, p, a.in[1].ptr<Bf16>(), a.workspace);
  auto* flat = static_cast<Bf16*>(a.workspace);
  pack_flat(p, a.in[1].ptr<Bf16>(), flat);
  run_product<Bf16>(a, p, flat, flat + flat_values(p));
}
std::int64_t workspace(const KernelArgs& a) {
  const ProductPlan p = product_plan(a);
  return 2 * flat_values(p) + p.bytes();
}

const char* decline(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1];
  if (x.dtype != DType::bf16 || w.dtype != DType::bf16 || w.rank() != 6) return "not bf16";
  if (!w.is_contiguous()) return "the packed weights are strided";
  for (const std::size_t i : {std::size_t{2}, std::size_t{3}})
    if (i < a.in.size() && a.in[i].rank() == 1 && a.in[i].stride(0) != 1 && a.in[i].size(0) != 1) return "bias or slope is strided";
  if (!pixel_step(x) || (a.get<PackedConvParams>().residual && !pixel_step(a.in.back()))) return "not channels_last";
  for (const View& y : a.out)
    if (!pixel_step(y)) return "not channels_last";
  return x.numel() > 0 && a.out[0].numel() > 0 ? nullptr : "empty";
}

}  // namespace

extern const KernelEntry packed_conv2d_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
