// Constant padding (negative amounts crop), and the way back of a slice.
#include <cstring>

#include "mien/kernels/cuda/convert.cuh"
#include "mien/kernels/cuda/moves.cuh"

namespace mien::cuda {
namespace {

std::uint64_t bits_of(double value, DType dtype) {
  std::uint64_t bits = 0;
  dispatch_every(dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T v = convert<T>(value);
    std::memcpy(&bits, &v, sizeof(T));
  });
  return bits;
}

void run_pad(const KernelArgs& args) {
  const auto& p = args.get<PadParams>();
  const View &x = args.in[0], &y = args.out[0];
  set_bits(args, "pad", y, bits_of(p.value, y.dtype));
  // What is left of x after cropping, and where it lands.
  Shape kept = x.shape;
  std::int64_t from = 0, to = 0;
  for (int d = 0; d < kept.rank(); ++d) {
    const std::int64_t begin = std::max<std::int64_t>(0, -p.low[d]), end = std::min(x.size(d), x.size(d) + p.high[d]);
    kept[d] = std::max<std::int64_t>(0, end - begin);
    from += begin * x.stride(d);
    to += (begin + p.low[d]) * y.stride(d);
  }
  const std::int64_t item = item_size(y.dtype);
  move_bits(args, "pad", item, kept, x.ptr<std::byte>() + from * item, x.strides, y.ptr<std::byte>() + to * item, y.strides);
}

void run_slice_backward(const KernelArgs& args) {
  const auto& p = args.get<SliceParams>();
  const View &g = args.in[0], &gx = args.out[0];
  if (gx.numel() == 0) return;
  set_bits(args, "slice_backward", gx, 0);  // zero is all bits 0 in every dtype
  Strides steps = gx.strides;
  steps[p.dim] *= p.step;
  const std::int64_t item = item_size(gx.dtype);
  move_bits(args, "slice_backward", item, g.shape, g.data, g.strides, gx.ptr<std::byte>() + p.start * gx.stride(p.dim) * item, steps);
}

}  // namespace

const KernelEntry pad_entry = {run_pad};
const KernelEntry slice_backward_entry = {run_slice_backward};

}  // namespace mien::cuda
