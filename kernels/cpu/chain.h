// What the two ways of conv_chain share: lanes as pictures (conv_chain.cpp), tiles (amx/conv_chain.cpp).
#pragma once

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {

inline constexpr std::int64_t largest_chain_kernel = 8;

// Why a chain can't be done, or null.
inline const char* decline_chain(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  if (args.in[0].numel() == 0) return "no pictures";
  if (!args.in[0].is_contiguous() || !args.out[0].is_contiguous()) return "not contiguous";
  for (const auto& v : args.in)
    if (v.rank() == 3 && !v.is_contiguous()) return "packed weights are not contiguous";
  const auto& p = args.get<ConvChainParams>();
  for (const ChainLayer& l : std::span(p.layer).first(static_cast<std::size_t>(p.layers)))
    if (l.pool > 3 || l.kernel > largest_chain_kernel) return "a larger pool or kernel";
  return nullptr;
}

}  // namespace mien::MIEN_LEVEL
