#include "mien/ops/pnet.h"

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

void infer(Inputs in, const void*, Outputs& out) {
  const Tensor& image = in[0];
  const Tensor sizes = to(in[1], Device::cpu());
  check_rank(op, "the picture", image, 3);
  if (image.dtype() != DType::u8) throw DTypeError(op, "the picture must be u8, got " + describe(image));
  if (image.size(0) != 3 || image.size(1) < 1 || image.size(2) < 1) throw ShapeError(op, "the picture must be [3, H, W] with pixels, got " + describe(image));
  if (sizes.dtype() != DType::i64 || sizes.rank() != 2 || sizes.size(1) != 2) throw ShapeError(op, "sizes must be i64[S, 2], got " + describe(sizes));
  const Shape expected[13] = {{10, 3, 3, 3}, {10}, {10}, {16, 10, 3, 3}, {16}, {16}, {32, 16, 3, 3}, {32}, {32}, {2, 32, 1, 1}, {2}, {4, 32, 1, 1}, {4}};
  for (std::size_t k = 0; k < 13; ++k)
    if (in[k + 2].shape() != expected[k] || in[k + 2].dtype() != DType::f32)
      throw ShapeError(op, "parameter " + std::to_string(k) + " must be f32" + to_string(expected[k]) + ", got " + describe(in[k + 2]));
  std::int64_t cells = 0;
  for (std::int64_t s = 0; s < sizes.size(0); ++s) {
    const auto side = [&](std::int64_t i) { return sizes.data<std::int64_t>()[s * sizes.strides()[0] + i * sizes.strides()[1]]; };
    if (side(0) < 11 || side(1) < 11 || side(0) > 32767 || side(1) > 32767)
      throw ValueError(op, "scale " + std::to_string(s) + " must be 11 to 32767 pixels high and wide, got " + std::to_string(side(0)) + "x" + std::to_string(side(1)));
    cells += cells_along(side(0)) * cells_along(side(1));
  }
  out.push_back({{cells}, DType::i64, Layout::contiguous});
  out.push_back({{cells, 5}, DType::f32, Layout::contiguous});
  out.push_back({{sizes.size(0)}, DType::i64, Layout::contiguous});
}

}  // namespace

constinit const Op op_pnet_candidates{.name = op, .infer = infer, .kernels = {&ref::pnet_candidates_entry, &KernelTable::pnet_candidates}, .reads = bit(1)};

PnetCandidates pnet_candidates(const Tensor& image, const Tensor& sizes, const PnetWeights& weights, float threshold) {
  std::array<Tensor, 15> in{image, sizes};
  std::copy(weights.begin(), weights.end(), in.begin() + 2);
  PnetPyramidParams p;
  p.threshold = threshold;
  if (sizes.rank() == 2 && sizes.size(1) == 2 && sizes.dtype() == DType::i64 && sizes.size(0) <= max_pnet_scales) {  // anything else is the op's to refuse
    const Tensor here = to(sizes, Device::cpu());
    p.scales = static_cast<std::int16_t>(here.size(0));
    for (std::int64_t s = 0; s < here.size(0); ++s)
      for (std::int64_t i = 0; i < 2; ++i)
        p.size[static_cast<std::size_t>(s)][static_cast<std::size_t>(i)] = static_cast<std::int16_t>(here.at<std::int64_t>({s, i}));  // infer refuses what does not fit
  }
  auto out = apply_all(op_pnet_candidates, in, p);
  return {out[0], out[1], out[2]};
}

}  // namespace mien
