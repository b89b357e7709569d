// Activation checkpointing: training in less memory for one more forward pass (Chen et al., "Training deep nets with sublinear memory cost", 2016).
//
//   h = checkpoint([&](const Tensor& x) { return block(x); }, h);
//
// f runs as usual, but what its ops would save for the backward pass is not kept; the first derivative inside f runs f again from x and keeps it then. The
// result and every gradient have the same bits as without (f must be a function of x, of the parameters and of default_generator() alone). Regions may
// not be nested (ValueError). Works with backward() and gradients(), not for derivatives of derivatives.
// Thread safety: as the graph, one thread.
#pragma once

#include <functional>

#include "mien/tensor/tensor.h"

namespace mien {

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

// True while a region runs for the second time: what changes state beside the result (running statistics) is left out then.
bool recomputing() noexcept;

}  // namespace mien
