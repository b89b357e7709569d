#include "mien/infer/passes_impl.h"

namespace mien::infer {
namespace {

constexpr Pass passes[] = {
    {"separate_outputs", [](Graph& g, const Options&) { separate_outputs(g); }},
    {"remove_dead", [](Graph& g, const Options&) { remove_dead(g); }},
};

}  // namespace

std::span<const Pass> all_passes() { return passes; }

}  // namespace mien::infer
