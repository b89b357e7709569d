// The reference kernels: one per op, the specification of what it computes. `entry` objects live in kernels/ref/FAMILY.cpp.
#pragma once

#include "mien/kernels/table.h"

namespace mien::ref {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
}  // namespace mien::ref
