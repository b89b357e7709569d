// The passes, in the order in which compile() runs them: one file each in passes/. Each leaves a graph that computes the same. Private to infer/.
#pragma once

#include "mien/infer/graph_impl.h"
#include "mien/infer/infer.h"

namespace mien::infer {

void separate_outputs(Graph& g);  // an output that is an input, or a view of one, becomes a copy
void remove_dead(Graph& g);       // calls whose outputs no one reads
void share_equal(Graph& g);       // equal views and copies are one
void expand_blocks(Graph& g);
void drop_indices(Graph& g);
void fold_scale(Graph& g);
void use_channels_last(Graph& g, bool any_size);
void linear_to_conv(Graph& g);
void pack_convs(Graph& g, const Options& options);
void fuse_epilogue(Graph& g);
void merge_siblings(Graph& g);
void narrow(Graph& g);
void concat_in_place(Graph& g);
void spread_pixels(Graph& g);

struct Pass {
  const char* name;
  void (*run)(Graph& g, const Options& options);
};
std::span<const Pass> all_passes();
// Sizes and strides of all values for the traced inputs, after a pass changed what comes before them.
void refresh(Graph& g);

}  // namespace mien::infer
