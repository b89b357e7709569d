// Forward passes recorded as graphs. Private to infer/.
#pragma once

#include "mien/infer/graph_impl.h"
#include "mien/infer/infer.h"

namespace mien::infer {

// The inputs of the graph are dense copies of the example's shapes. Every output has memory of its own: what forward returns of its inputs is copied.
Graph trace(const Forward& forward, const std::vector<Tensor>& example);

}  // namespace mien::infer
