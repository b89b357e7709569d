// Pictures: decoding with every limit checked before the memory it bounds.
//
//   Image photo = read_image("people.jpg");     // RGB after EXIF rotation
//
// JPEG by libjpeg-turbo, PNG by libspng, BMP by stb_image (and JPEG/PNG where the libraries were not built in). Any bytes give a picture or an
// IoError that names the file. Thread safety: everything here may be called from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

// Rows from top to bottom, pixels from left to right, red green blue, 8 bits each.
struct Image {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  // height * width * 3
};

// The picture's own bytes as planes, u8 [3, H, W] (channels side by side in memory): what resizing, cropping and warping read. No copy: the picture must outlive the
// tensor, which nothing may write to.
Tensor planes_of(const Image& image);
Tensor planes_of(const Image&&) = delete;

struct DecodeLimits {
  std::int64_t max_pixels = std::int64_t{64} << 20;
  std::int64_t max_side = 16384;
  std::int64_t max_file_bytes = std::int64_t{512} << 20;
  int max_scans = 100;      // of a progressive JPEG
  bool lenient = false;     // true: a JPEG that ends early or has damaged parts is taken as far as it goes
  bool apply_exif = true;   // turn the picture upright
};

// Gray becomes RGB, alpha is dropped, CMYK and YCCK are converted, 16 bits become 8, palettes are looked up. `name` stands in error messages.
Image decode_image(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits = {});
Image read_image(const std::string& path, const DecodeLimits& limits = {});

// The EXIF orientation 1..8 of a JPEG; 1 when there is none.
int exif_orientation(std::span<const std::byte> jpeg) noexcept;
Image apply_orientation(const Image& image, int orientation);

std::string image_decoders();                     // "libjpeg-turbo 2.1.5, libspng 0.7.3, stb_image (BMP)"
bool has_image_extension(const std::string& path);  // .jpg .jpeg .png .bmp
// A file: itself. A folder: its pictures, recursive, sorted. "@LIST": the lines of that file. IoError missing when the path is not there or a folder can't be listed.
std::vector<std::string> list_images(const std::string& path);

}  // namespace mien
