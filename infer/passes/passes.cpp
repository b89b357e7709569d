#include "mien/infer/passes_impl.h"

namespace mien::infer {
namespace {

// Without fuse and layout nothing may change a bit: only what costs memory goes.
constexpr Pass passes[] = {
    {"separate_outputs", [](Graph& g, const Options&) { separate_outputs(g); }},
    {"remove_dead", [](Graph& g, const Options&) { remove_dead(g); }},
    {"expand_blocks",
     [](Graph& g, const Options& o) {
       if (o.layout) expand_blocks(g);
     }},
    {"drop_indices", [](Graph& g, const Options&) { drop_indices(g); }},
    {"fold_scale",
     [](Graph& g, const Options& o) {
       if (o.fuse) fold_scale(g);
     }},
    {"use_channels_last",
     [](Graph& g, const Options& o) {
       if (o.layout) use_channels_last(g, o.any_size);
     }},
    {"linear_to_conv",
     [](Graph& g, const Options& o) {
       if (o.layout) linear_to_conv(g);
     }},
    {"pack_convs",
     [](Graph& g, const Options& o) {
       if (o.layout) pack_convs(g, o);
     }},
    {"fuse_epilogue",
     [](Graph& g, const Options& o) {
       if (o.fuse && o.layout) fuse_epilogue(g);
     }},
    {"merge_siblings",
     [](Graph& g, const Options& o) {
       if (o.fuse && o.layout) merge_siblings(g);
     }},
    {"narrow",
     [](Graph& g, const Options& o) {
       if (o.dtype == DType::bf16) narrow(g);
     }},
    {"concat_in_place",
     [](Graph& g, const Options& o) {
       if (o.layout) concat_in_place(g);
     }},
    {"spread_pixels",
     [](Graph& g, const Options& o) {
       if (o.layout && o.device.is_cpu()) spread_pixels(g);
     }},
};

}  // namespace

std::span<const Pass> all_passes() { return passes; }

void refresh(Graph& g) {
  std::vector<Shape> shapes;
  for (const int v : g.inputs) shapes.push_back(g.value(v).shape);
  const Sizes sizes = size_graph(g, shapes);
  for (std::size_t v = 0; v < g.values.size(); ++v)
    if (const SizedValue& s = sizes.values[v]; s.root >= 0) {
      g.values[v].shape = s.shape;
      g.values[v].strides = s.strides;
    }
}

}  // namespace mien::infer
