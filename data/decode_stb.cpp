// BMP (and JPEG, PNG where their libraries are absent) by stb_image, fenced in: only these three formats, no files, and a budget of memory per
// picture that refuses a small file that unpacks into gigabytes.
#include <cstdlib>
#include <cstring>

#include "mien/data/decode_impl.h"

namespace {
thread_local std::int64_t budget = 0;

// Each block remembers its size in front of it.
void* budget_alloc(std::size_t bytes) {
  if (budget < static_cast<std::int64_t>(bytes)) return nullptr;
  auto* p = static_cast<std::size_t*>(std::malloc(bytes + 16));
  if (!p) return nullptr;
  budget -= static_cast<std::int64_t>(bytes);
  *p = bytes;
  return reinterpret_cast<char*>(p) + 16;
}
void budget_free(void* block) {
  if (!block) return;
  auto* p = reinterpret_cast<std::size_t*>(static_cast<char*>(block) - 16);
  budget += static_cast<std::int64_t>(*p);
  std::free(p);
}
void* budget_realloc(void* block, std::size_t bytes) {
  if (!block) return budget_alloc(bytes);
  const std::size_t before = *reinterpret_cast<std::size_t*>(static_cast<char*>(block) - 16);
  void* fresh = budget_alloc(bytes);
  if (!fresh) return nullptr;
  std::memcpy(fresh, block, before < bytes ? before : bytes);
  budget_free(block);
  return fresh;
}
}  // namespace

#define STBI_MALLOC(n) budget_alloc(n)
#define STBI_REALLOC(p, n) budget_realloc(p, n)
#define STBI_FREE(p) budget_free(p)
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS 16384
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace mien::decode {

Image stb(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) {
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  const int size = static_cast<int>(std::min<std::size_t>(bytes.size(), 0x7fffffff));
  int w = 0, h = 0, channels = 0;
  budget = std::int64_t{1} << 20;
  if (!stbi_info_from_memory(data, size, &w, &h, &channels)) refuse(name, std::string("is damaged: ") + stbi_failure_reason());
  check_size(w, h, name, limits);
  const std::int64_t pixels = std::int64_t{w} * h;
  // An uncompressed bitmap can't be smaller than one bit a pixel; stb would fill the rest with what it finds.
  if (bytes[0] == std::byte{'B'} && !limits.lenient) {
    std::uint32_t offset = 0;
    std::uint16_t depth = 0;
    if (bytes.size() < 30) refuse(name, "is a BMP that ends in its header");
    std::memcpy(&offset, data + 10, 4);
    std::memcpy(&depth, data + 28, 2);
    const std::int64_t row = (std::int64_t{w} * depth + 31) / 32 * 4;
    if (depth == 0 || offset + row * h > static_cast<std::int64_t>(bytes.size())) refuse(name, "is a BMP that ends early");
  }
  if (bytes[0] == std::byte{0xff} && !limits.lenient && !(bytes[bytes.size() - 2] == std::byte{0xff} && bytes.back() == std::byte{0xd9})) refuse(name, "is a JPEG that ends early");
  budget = 16 * pixels + 2 * static_cast<std::int64_t>(bytes.size()) + (std::int64_t{1} << 20);
  stbi_uc* decoded = stbi_load_from_memory(data, size, &w, &h, &channels, 3);
  if (!decoded) refuse(name, std::string("is damaged: ") + stbi_failure_reason());
  Image image{w, h, {}};
  try {
    image.pixels.assign(decoded, decoded + pixels * 3);
  } catch (...) {
    stbi_image_free(decoded);
    throw;
  }
  stbi_image_free(decoded);
  return image;
}

}  // namespace mien::decode
