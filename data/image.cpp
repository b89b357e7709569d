#include "mien/data/image.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "mien/data/decode_impl.h"
#include "mien/data/file_bytes_impl.h"

namespace fs = std::filesystem;

namespace mien {
namespace decode {

void check_size(std::int64_t width, std::int64_t height, const std::string& name, const DecodeLimits& limits) {
  if (width < 1 || height < 1) refuse(name, "has no pixels");
  if (width > limits.max_side || height > limits.max_side || width * height > limits.max_pixels)
    refuse(name, "is " + std::to_string(width) + "x" + std::to_string(height) + ", more than the limit of " + std::to_string(limits.max_side) + " a side and " +
                     std::to_string(limits.max_pixels) + " pixels", "Scale it down first.");
}

}  // namespace decode

Image decode_image(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) {
  if (static_cast<std::int64_t>(bytes.size()) > limits.max_file_bytes) decode::refuse(name, "has more bytes than the limit of " + std::to_string(limits.max_file_bytes));
  const auto starts = [&](std::initializer_list<int> magic) {
    std::size_t i = 0;
    if (bytes.size() < magic.size()) return false;
    for (const int m : magic)
      if (static_cast<int>(bytes[i++]) != m) return false;
    return true;
  };
  if (starts({0xff, 0xd8, 0xff})) {
    Image image = decode::jpeg(bytes, name, limits);
    const int turn = limits.apply_exif ? exif_orientation(bytes) : 1;
    return turn == 1 ? image : apply_orientation(image, turn);
  }
  if (starts({0x89, 'P', 'N', 'G', 0x0d, 0x0a, 0x1a, 0x0a})) return decode::png(bytes, name, limits);
  if (starts({'B', 'M'})) return decode::stb(bytes, name, limits);
  if (bytes.empty()) decode::refuse(name, "is empty (0 bytes)");
  decode::refuse(name, "is neither JPEG, PNG nor BMP", "Convert it first.");
}

Tensor planes_of(const Image& image) {
  return Tensor::borrow(std::span(image.pixels), {image.height, image.width, 3}).as_strided({3, image.height, image.width}, {1, image.width * 3, 3}, 0);
}

Image read_image(const std::string& path, const DecodeLimits& limits) { return decode_image(file_bytes(path, limits.max_file_bytes), path, limits); }

int exif_orientation(std::span<const std::byte> b) noexcept {
  const auto at = [&](std::size_t i) { return i < b.size() ? static_cast<unsigned>(b[i]) : 0u; };
  std::size_t p = 2;
  while (p + 4 <= b.size() && at(p) == 0xff) {
    const unsigned marker = at(p + 1);
    if (marker == 0xff) { ++p; continue; }
    if (marker == 0xda || marker == 0xd9) return 1;  // pixels begin: no EXIF before them
    const std::size_t length = at(p + 2) << 8 | at(p + 3);
    if (length < 2 || p + 2 + length > b.size()) return 1;
    const std::size_t tiff = p + 10, end = p + 2 + length;
    if (marker == 0xe1 && length >= 16 && std::memcmp(b.data() + p + 4, "Exif\0\0", 6) == 0) {
      const bool little = at(tiff) == 'I';
      const auto u16 = [&](std::size_t i) { return i + 2 > end ? 0u : little ? at(i) | at(i + 1) << 8 : at(i) << 8 | at(i + 1); };
      const auto u32 = [&](std::size_t i) { return little ? u16(i) | u16(i + 2) << 16 : u16(i) << 16 | u16(i + 2); };
      const std::size_t ifd = tiff + u32(tiff + 4);
      if (u16(tiff + 2) != 42 || ifd >= end) return 1;
      for (unsigned i = 0, n = u16(ifd); i < n && ifd + 2 + 12 * (i + 1) <= end; ++i)
        if (const std::size_t entry = ifd + 2 + 12 * i; u16(entry) == 0x0112) {
          const unsigned v = u16(entry + 8);
          return v >= 1 && v <= 8 ? static_cast<int>(v) : 1;
        }
      return 1;
    }
    p += 2 + length;
  }
  return 1;
}

Image apply_orientation(const Image& in, int orientation) {
  const std::int64_t w = in.width, h = in.height;
  const bool swapped = orientation >= 5;
  Image out{swapped ? h : w, swapped ? w : h, std::vector<std::uint8_t>(in.pixels.size())};
  for (std::int64_t y = 0; y < out.height; ++y)
    for (std::int64_t x = 0; x < out.width; ++x) {
      std::int64_t sx = swapped ? y : x, sy = swapped ? x : y;  // 5: transposed
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) sx = w - 1 - sx;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) sy = h - 1 - sy;
      std::memcpy(&out.pixels[static_cast<std::size_t>((y * out.width + x) * 3)], &in.pixels[static_cast<std::size_t>((sy * w + sx) * 3)], 3);
    }
  return out;
}

std::string image_decoders() { return decode::jpeg_version() + ", " + decode::png_version() + ", stb_image (BMP)"; }

bool has_image_extension(const std::string& path) {
  std::string e = fs::path(path).extension().string();
  std::transform(e.begin(), e.end(), e.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return e == ".jpg" || e == ".jpeg" || e == ".png" || e == ".bmp";
}

std::vector<std::string> list_images(const std::string& path) {
  std::vector<std::string> files;
  if (!path.empty() && path[0] == '@') {
    std::ifstream in(path.substr(1));
    if (!in) throw IoError(IoKind::missing, "list", path.substr(1), "can't be opened");
    for (std::string line; std::getline(in, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) files.push_back(line);
    }
    return files;
  }
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) throw IoError(IoKind::missing, "list", path, "there is no such file or folder");
  if (!fs::is_directory(status)) return {path};
  std::string folder = path;  // that an error is about
  fs::recursive_directory_iterator it(path, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    std::error_code none;
    folder = it->path().string();
    if (has_image_extension(it->path().string()) && it->is_regular_file(none)) files.push_back(it->path().string());
  }
  if (error) throw IoError(IoKind::missing, "list", folder, "can't be listed: " + error.message());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace mien
