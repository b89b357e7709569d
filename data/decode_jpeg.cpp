// JPEG by libjpeg-turbo with its defaults (accurate DCT, smooth chroma), so that pixels equal those of other programs on the same library.
#include "mien/data/decode_impl.h"

#if MIEN_WITH_JPEG
#include <csetjmp>
#include <cstdio>
#include <memory>

#include <jpeglib.h>

namespace mien::decode {
namespace {

struct Errors {
  jpeg_error_mgr base;
  std::jmp_buf back;
  char text[JMSG_LENGTH_MAX];
  bool lenient;
  int max_scans;
};

// libjpeg is C: an error leaves by longjmp, over frames that hold nothing to destroy.
void on_error(j_common_ptr info) {
  auto* e = reinterpret_cast<Errors*>(info->err);
  info->err->format_message(info, e->text);
  std::longjmp(e->back, 1);
}
// A warning means damaged or missing data: a half-grey picture would train badly and say nothing.
void on_message(j_common_ptr info, int level) {
  auto* e = reinterpret_cast<Errors*>(info->err);
  if (level < 0 && !e->lenient) on_error(info);
}
void on_progress(j_common_ptr info) {
  auto* e = reinterpret_cast<Errors*>(info->err);
  if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > e->max_scans) {
    std::snprintf(e->text, sizeof e->text, "has more than %d scans", e->max_scans);
    std::longjmp(e->back, 1);
  }
}

std::uint8_t scaled(unsigned a, unsigned b) { return static_cast<std::uint8_t>((a * b + 127) / 255); }

struct Decoder {
  jpeg_decompress_struct info{};
  Errors errors{};
  jpeg_progress_mgr progress{};
  bool alive = false;
  ~Decoder() {
    if (alive) jpeg_destroy_decompress(&info);
  }
};

bool begin(Decoder& d, std::span<const std::byte> bytes) {
  if (setjmp(d.errors.back)) return false;
  jpeg_create_decompress(&d.info);
  d.alive = true;
  d.progress.progress_monitor = on_progress;
  d.info.progress = &d.progress;
  d.info.mem->max_memory_to_use = 1L << 30;
  jpeg_mem_src(&d.info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&d.info, TRUE);
  return true;
}

bool read_pixels(Decoder& d, std::uint8_t* to, std::uint8_t* row, bool cmyk) {
  if (setjmp(d.errors.back)) return false;
  d.info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&d.info);
  const std::size_t width = d.info.output_width;
  while (d.info.output_scanline < d.info.output_height) {
    std::uint8_t* line = to + std::size_t{d.info.output_scanline} * width * 3;
    JSAMPROW target = cmyk ? row : line;
    jpeg_read_scanlines(&d.info, &target, 1);
    if (cmyk)
      for (std::size_t x = 0; x < width; ++x)
        for (std::size_t c = 0; c < 3; ++c) {
          // Adobe's files hold inverted inks.
          const unsigned ink = d.info.saw_Adobe_marker ? row[4 * x + c] : 255u - row[4 * x + c], black = d.info.saw_Adobe_marker ? row[4 * x + 3] : 255u - row[4 * x + 3];
          line[3 * x + c] = scaled(ink, black);
        }
  }
  jpeg_finish_decompress(&d.info);
  return true;
}

}  // namespace

Image jpeg(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) {
  const auto d = std::make_unique<Decoder>();
  d->info.err = jpeg_std_error(&d->errors.base);
  d->errors.base.error_exit = on_error;
  d->errors.base.emit_message = on_message;
  d->errors.base.output_message = [](j_common_ptr) {};
  d->errors.lenient = limits.lenient;
  d->errors.max_scans = limits.max_scans;
  if (!begin(*d, bytes)) refuse(name, std::string("is a damaged JPEG: ") + d->errors.text);
  check_size(d->info.image_width, d->info.image_height, name, limits);
  Image image{d->info.image_width, d->info.image_height, {}};
  image.pixels.resize(static_cast<std::size_t>(image.width * image.height * 3));
  const bool cmyk = d->info.jpeg_color_space == JCS_CMYK || d->info.jpeg_color_space == JCS_YCCK;
  std::vector<std::uint8_t> row(cmyk ? static_cast<std::size_t>(image.width * 4) : 0);
  if (!read_pixels(*d, image.pixels.data(), row.data(), cmyk)) refuse(name, std::string("is a damaged JPEG: ") + d->errors.text);
  return image;
}

#define MIEN_TEXT2(x) #x
#define MIEN_TEXT(x) MIEN_TEXT2(x)
std::string jpeg_version() {
#ifdef LIBJPEG_TURBO_VERSION
  return "libjpeg-turbo " MIEN_TEXT(LIBJPEG_TURBO_VERSION);
#else
  return "libjpeg";
#endif
}

}  // namespace mien::decode
#else
namespace mien::decode {
Image jpeg(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) { return stb(bytes, name, limits); }
std::string jpeg_version() { return "stb_image (JPEG)"; }
}  // namespace mien::decode
#endif
