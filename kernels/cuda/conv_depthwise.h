// Depthwise convolutions (one input and one output channel a group), which conv.cu hands on.
#pragma once

#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"

namespace mien::cuda {

// Of the weight's view (or its gradient's): as many groups as output channels, one input channel each.
inline bool is_depthwise(const View& weight, const ConvParams& p) { return weight.size(1) == 1 && weight.size(0) == p.groups; }

// Whether neighbours in memory are neighbours along c rather than along w.
inline bool channels_inner(const View& v) {
  const auto size_of = [](std::int64_t s) { return s < 0 ? -s : s; };
  if (v.size(1) == 1) return false;
  if (v.size(2) * v.size(3) == 1) return true;
  return size_of(v.stride(1)) <= size_of(v.size(3) > 1 ? v.stride(3) : v.stride(2));
}

// Operands as params.h says for conv2d, conv2d_grad_input and conv2d_grad_weight.
void depthwise_forward(const KernelArgs& args);
void depthwise_grad_input(const KernelArgs& args);
void depthwise_grad_weight(const KernelArgs& args);
std::int64_t depthwise_grad_weight_workspace(const KernelArgs& args);

}  // namespace mien::cuda
