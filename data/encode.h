// Writing pictures: complete or not at all, through links and into devices, as write_file_atomic does. IoError names the file and the system's reason.
#pragma once

#include <string>

#include "mien/data/image.h"

namespace mien {

void write_png(const std::string& path, const Image& image);
void write_jpeg(const std::string& path, const Image& image, int quality = 90);  // quality 1..100
// By the extension: .jpg and .jpeg, else PNG.
void write_image(const std::string& path, const Image& image);

}  // namespace mien
