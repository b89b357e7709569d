// PNG by libspng: stops when it has the rows it needs, so that a small file can't inflate without end.
#include "mien/data/decode_impl.h"

#if MIEN_WITH_SPNG
#include <memory>

#include <spng.h>

namespace mien::decode {

Image png(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) {
  const std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> ctx(spng_ctx_new(0), spng_ctx_free);
  if (!ctx) throw OutOfMemory("decode", name + ": no memory for a PNG decoder");
  const auto check = [&](int code) {
    if (code == SPNG_EUSER_WIDTH || code == SPNG_EUSER_HEIGHT)
      refuse(name, "is too large: more than the limit of " + std::to_string(limits.max_side) + " pixels a side", "Scale it down first.");
    if (code != 0) refuse(name, std::string("is a damaged PNG: ") + spng_strerror(code));
  };
  check(spng_set_image_limits(ctx.get(), static_cast<std::uint32_t>(limits.max_side), static_cast<std::uint32_t>(limits.max_side)));
  check(spng_set_chunk_limits(ctx.get(), std::size_t{64} << 20, std::size_t{64} << 20));
  check(spng_set_crc_action(ctx.get(), SPNG_CRC_ERROR, SPNG_CRC_DISCARD));
  check(spng_set_png_buffer(ctx.get(), bytes.data(), bytes.size()));
  spng_ihdr header{};
  check(spng_get_ihdr(ctx.get(), &header));
  check_size(header.width, header.height, name, limits);
  Image image{header.width, header.height, {}};
  std::size_t size = 0;
  check(spng_decoded_image_size(ctx.get(), SPNG_FMT_RGB8, &size));
  if (size != static_cast<std::size_t>(image.width * image.height * 3)) refuse(name, "is a PNG of an unexpected size");
  image.pixels.resize(size);
  check(spng_decode_image(ctx.get(), image.pixels.data(), size, SPNG_FMT_RGB8, 0));
  return image;
}

std::string png_version() { return std::string("libspng ") + spng_version_string(); }

}  // namespace mien::decode
#else
namespace mien::decode {
Image png(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) { return stb(bytes, name, limits); }
std::string png_version() { return "stb_image (PNG)"; }
}  // namespace mien::decode
#endif
