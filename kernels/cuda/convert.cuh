// Value conversion of copy, fill and pad, by the rules of kernels/ref/iterate_impl.h: into floating types to nearest even; into integers towards zero,
// saturating, NaN gives 0; integers wrap into narrower integers; bool is "not zero".
#pragma once

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

template <class To, class From>
__host__ __device__ __forceinline__ To convert(From v) {
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (is_half<From>) {
    return convert<To>(load(v));
  } else if constexpr (is_half<To>) {
    return store<To>(static_cast<float>(v));
  } else if constexpr (std::is_same_v<To, bool>) {
    return v != From{};
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    constexpr To lowest = std::numeric_limits<To>::min(), highest = std::numeric_limits<To>::max();
    const From low = static_cast<From>(lowest), end = From(2) * static_cast<From>(static_cast<To>(To(1) << (std::numeric_limits<To>::digits - 1)));
    if (v != v) return To(0);
    if (v <= low) return lowest;
    if (v >= end) return highest;
    return static_cast<To>(v);
  } else {
    return static_cast<To>(v);
  }
}

}  // namespace mien::cuda
