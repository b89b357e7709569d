// What the decoders share.
#pragma once

#include "mien/data/image.h"
#include "mien/tensor/error.h"

namespace mien::decode {

[[noreturn]] inline void refuse(const std::string& name, const std::string& why, const std::string& hint = {}) {
  throw IoError(IoKind::bad_data, "decode", name, why, hint);
}
// Before anything of this size is allocated.
void check_size(std::int64_t width, std::int64_t height, const std::string& name, const DecodeLimits& limits);

Image jpeg(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits);
Image png(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits);
Image stb(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits);
std::string jpeg_version();
std::string png_version();

}  // namespace mien::decode
