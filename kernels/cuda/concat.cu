// Tensors laid one after the other along a dimension: one move for each.
#include "mien/kernels/cuda/moves.cuh"

namespace mien::cuda {
namespace {

void run_concat(const KernelArgs& args) {
  const int dim = args.get<DimParams>().dim;
  const View& y = args.out[0];
  const std::int64_t item = item_size(y.dtype);
  std::int64_t start = 0;
  for (const View& x : args.in) {
    move_bits(args, "concat", item, x.shape, x.data, x.strides, y.ptr<std::byte>() + start * y.stride(dim) * item, y.strides);
    start += x.size(dim);
  }
}

}  // namespace

const KernelEntry concat_entry = {run_concat};

}  // namespace mien::cuda
