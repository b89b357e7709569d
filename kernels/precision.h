// How exactly products of f32 tensors are formed: an explicit, process-wide permission, as torch.set_float32_matmul_precision.
#pragma once

#include <cstdint>

namespace mien {

// f32     every product in f32: the default.
// bf16x3  operands split in two bf16 parts, hi*hi + hi*lo + lo*hi added in f32: errors of at most 5e-5, typically below 1e-6, of sum |a*b|. An infinite operand gives NaN.
//         (Henry, Tang, Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", 2019.)
// bf16    operands rounded to bf16 (8 bits of mantissa), sums in f32: mixed-precision training whose weights, activations and gradients stay f32.
enum class Precision : std::uint8_t { f32, bf16x3, bf16 };
const char* name(Precision precision) noexcept;

// What conv2d and its two gradients (channels_last, groups 1), matmul and linear may do with f32 tensors from now on, backward passes included.
// It is a permission: only kernels of level amx use it; on other machines and for other layouts the product stays f32. Subnormal operands count
// as zero where it is used. Any thread may call both; an op reads the switch once, when it starts.
void set_matmul_precision(Precision precision) noexcept;
Precision matmul_precision() noexcept;

}  // namespace mien
