// A map plus a convolution's gradient of the input: the gradient into a map of its own, then a sum.
#include "mien/kernels/cuda/compose.cuh"
#include "mien/kernels/cuda/table.h"
#include "mien/kernels/cuda/workspace.h"

namespace mien::cuda {

extern const KernelEntry conv2d_grad_input_entry, binary_entry;

namespace {

struct Apart {
  Apart(const KernelArgs& args, void* workspace) {
    Workspace work(workspace);
    const View& sum = args.out[0];
    gx = map_in(work.take(bytes_of(sum)), sum, sum.shape);
    rest = work.take(0);
    bytes = work.bytes();
  }
  View gx;
  void* rest;
  std::int64_t bytes;
};

void run(const KernelArgs& args) {
  const Apart a(args, args.workspace);
  run_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, args.in.first(2), {&a.gx, 1}, args.params, a.rest));
  const View both[] = {args.in[2], a.gx};
  const BinaryParams add{BinaryKind::add};
  binary_entry.run(with(args, both, args.out, &add, nullptr));
}
const char* decline(const KernelArgs& args) {
  const Apart a(args, nullptr);
  return decline_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, args.in.first(2), {&a.gx, 1}, args.params, nullptr));
}
std::int64_t workspace(const KernelArgs& args) {
  const Apart a(args, nullptr);
  return a.bytes + workspace_best(mien_cuda_library.conv2d_grad_input, conv2d_grad_input_entry, with(args, args.in.first(2), {&a.gx, 1}, args.params, nullptr));
}

}  // namespace

const KernelEntry conv2d_grad_input_add_entry = {run, decline, workspace};

}  // namespace mien::cuda
