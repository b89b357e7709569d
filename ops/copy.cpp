#include "mien/ops/copy.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"
#include "mien/tensor/device_backend.h"

namespace mien {
namespace {

void infer(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const CopyParams*>(params);
  out.push_back({in[0].shape(), p.dtype, p.layout});
}
void vjp(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = cast(v.grads[0], v.input_specs[0].dtype);
}
struct TransferParams {
  Device device;
};
void infer_transfer(Inputs in, const void* params, Outputs& out) {
  out.push_back({in[0].shape(), in[0].dtype(), layout_like(in[0]), static_cast<const TransferParams*>(params)->device});
}
void vjp_transfer(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = to(v.grads[0], *v.input_specs[0].device);
}
constexpr KernelList copy_kernels{&ref::copy_entry, &KernelTable::copy};
constinit const KernelList fill_kernels{&ref::fill_entry, &KernelTable::fill};

}  // namespace

constinit const Op op_copy{.name = "copy", .infer = infer, .vjp = vjp, .kernels = copy_kernels, .fusion = Fusion::elementwise};

constinit const Op op_transfer{.name = "to", .infer = infer_transfer, .vjp = vjp_transfer, .kernels = {&ref::transfer_entry, &KernelTable::transfer}};

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : apply(op_copy, {x}, CopyParams{x.dtype(), Layout::contiguous}); }
Tensor channels_last(const Tensor& x) {
  check_rank("channels_last", "the tensor", x, 4);
  return x.is_channels_last() ? x : apply(op_copy, {x}, CopyParams{x.dtype(), Layout::channels_last});
}
Tensor clone(const Tensor& x) { return apply(op_copy, {x}, CopyParams{x.dtype(), layout_like(x)}); }
Tensor cast(const Tensor& x, DType dtype) { return x.dtype() == dtype ? x : apply(op_copy, {x}, CopyParams{dtype, layout_like(x)}); }
Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  const Tensor from = x.is_channels_last() ? x : contiguous(x);
  order_after(device, from.device());
  const Tensor there = apply(op_transfer, {from}, TransferParams{device});
  order_after(from.device(), device);  // `from` may be freed now: what takes its memory waits for the copy
  return there;
}

void copy_into(const Tensor& target, const Tensor& source) {
  check_same_shape("copy_into", target, source);
  if (!(target.device() == source.device())) return copy_into(target, to(source.detach(), target.device()));
  apply_in_place("copy_into", copy_kernels, {source}, {target}, Params());
}
void fill(const Tensor& target, double value) { apply_in_place("fill", fill_kernels, {}, {target}, FillParams{value}); }

}  // namespace mien
