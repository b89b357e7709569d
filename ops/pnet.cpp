#include "mien/ops/pnet.h"

#include <algorithm>

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/pnet_params.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

constexpr const char* op = "pnet_candidates";

std::int64_t cells_along(std::int64_t side) { return (side - 1) / 2 - 4; }

void infer(Inputs in, const void* params, Outputs& out) {
  const Tensor& image = in[0];
  check_rank(op, "the picture", image, 3);
  if (image.dtype() != DType::u8) throw DTypeError(op, "the picture must be u8, got " + describe(image));
  if (image.size(0) != 3 || image.size(1) < 1 || image.size(2) < 1) throw ShapeError(op, "the picture must be [3, H, W] with pixels, got " + describe(image));
  const Shape expected[13] = {{10, 3, 3, 3}, {10}, {10}, {16, 10, 3, 3}, {16}, {16}, {32, 16, 3, 3}, {32}, {32}, {2, 32, 1, 1}, {2}, {4, 32, 1, 1}, {4}};
  for (std::size_t k = 0; k < 13; ++k)
    if (in[k + 2].shape() != expected[k] || in[k + 2].dtype() != DType::f32)
      throw ShapeError(op, "parameter " + std::to_string(k) + " must be f32" + to_string(expected[k]) + ", got " + describe(in[k + 2]));
  const std::int64_t cells = static_cast<const PnetPyramidParams*>(params)->cells;
  out.push_back({{cells}, DType::i64, Layout::contiguous});
  out.push_back({{cells, 5}, DType::f32, Layout::contiguous});
  out.push_back({{in[1].size(0)}, DType::i64, Layout::contiguous});
}

}  // namespace

constinit const Op op_pnet_candidates{.name = op, .infer = infer, .kernels = {&ref::pnet_candidates_entry, &KernelTable::pnet_candidates}, .reads = bit(1)};

PnetCandidates pnet_candidates(const Tensor& image, const Tensor& sizes, const PnetWeights& weights, float threshold) {
  if (sizes.dtype() != DType::i64 || sizes.rank() != 2 || sizes.size(1) != 2) throw ShapeError(op, "sizes must be i64[S, 2], got " + describe(sizes));
  const Tensor here = to(sizes, Device::cpu());
  PnetPyramidParams p;
  p.threshold = threshold;
  if (here.size(0) <= max_pnet_scales) p.scales = static_cast<std::int16_t>(here.size(0));
  for (std::int64_t s = 0; s < here.size(0); ++s) {
    const std::int64_t h = here.at<std::int64_t>({s, 0}), w = here.at<std::int64_t>({s, 1});
    if (h < 11 || w < 11 || h > 32767 || w > 32767)
      throw ValueError(op, "scale " + std::to_string(s) + " must be 11 to 32767 pixels high and wide, got " + std::to_string(h) + "x" + std::to_string(w));
    p.cells += cells_along(h) * cells_along(w);
    if (s < p.scales) p.size[static_cast<std::size_t>(s)] = {static_cast<std::int16_t>(h), static_cast<std::int16_t>(w)};
  }
  std::array<Tensor, 15> in{image, to(sizes, image.device())};
  std::copy(weights.begin(), weights.end(), in.begin() + 2);
  auto out = apply_all(op_pnet_candidates, in, p);
  return {out[0], out[1], out[2]};
}

std::size_t pnet_scales_at_once(std::span<const std::array<std::int64_t, 2>> sizes) {
  std::size_t n = 0;
  for (std::int64_t pixels = 0; n < std::min<std::size_t>(sizes.size(), max_pnet_scales); ++n) {
    pixels += sizes[n][0] * sizes[n][1];
    if (n > 0 && pixels > max_pnet_pixels) break;
  }
  return n;
}

}  // namespace mien
