#include "mien/data/encode.h"

#include <span>
#include <vector>

#include "mien/io/file.h"
#include "mien/tensor/error.h"

#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

namespace mien {
namespace {

void collect(void* context, void* data, int size) {
  auto* out = static_cast<std::vector<unsigned char>*>(context);
  const auto* p = static_cast<const unsigned char*>(data);
  out->insert(out->end(), p, p + size);
}

void check(const Image& image, const char* op) {
  if (image.width < 1 || image.height < 1 || image.pixels.size() != static_cast<std::size_t>(image.width * image.height * 3))
    throw ValueError(op, "expects width x height x 3 bytes, got " + std::to_string(image.width) + "x" + std::to_string(image.height) + " and " + std::to_string(image.pixels.size()) + " bytes");
}

}  // namespace

void write_png(const std::string& path, const Image& image) {
  check(image, "write_png");
  std::vector<unsigned char> bytes;
  if (!stbi_write_png_to_func(collect, &bytes, static_cast<int>(image.width), static_cast<int>(image.height), 3, image.pixels.data(), static_cast<int>(image.width * 3)))
    throw OutOfMemory("write_png", path + ": the picture could not be encoded");
  write_file_atomic(path, std::as_bytes(std::span(bytes)), false);
}

void write_jpeg(const std::string& path, const Image& image, int quality) {
  check(image, "write_jpeg");
  std::vector<unsigned char> bytes;
  if (!stbi_write_jpg_to_func(collect, &bytes, static_cast<int>(image.width), static_cast<int>(image.height), 3, image.pixels.data(), quality))
    throw OutOfMemory("write_jpeg", path + ": the picture could not be encoded");
  write_file_atomic(path, std::as_bytes(std::span(bytes)), false);
}

void write_image(const std::string& path, const Image& image) {
  const auto dot = path.rfind('.');
  const std::string end = dot == std::string::npos ? "" : path.substr(dot);
  if (end == ".jpg" || end == ".jpeg" || end == ".JPG" || end == ".JPEG") write_jpeg(path, image);
  else write_png(path, image);
}

}  // namespace mien
