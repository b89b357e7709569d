// CRC-32C (Castagnoli, polynomial 0x82F63B78 reflected): the checksum of files. crc32c("123456789") = e3069283.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mien {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;  // `before`: of what came earlier
std::string sha256(std::span<const std::byte> bytes);                                       // 64 hexadecimal digits (FIPS 180-4)

}  // namespace mien
