// The passes, in the order in which compile() runs them: one file each in passes/. Each leaves a graph that computes the same. Private to infer/.
#pragma once

#include "mien/infer/graph_impl.h"
#include "mien/infer/infer.h"

namespace mien::infer {

void separate_outputs(Graph& g);   // an output that is an input, or a view of one, becomes a copy
void remove_dead(Graph& g);        // calls whose outputs no one reads

struct Pass {
  const char* name;
  void (*run)(Graph& g, const Options& options);
};
std::span<const Pass> all_passes();

}  // namespace mien::infer
