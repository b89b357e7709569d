// The sheet of pairs: sizes, where pictures stand, odd input.
#include "catch.h"
#include "mien/face/sheet.h"
#include "mien/tensor/error.h"

namespace mien::test {
namespace {

Image plain(std::int64_t w, std::int64_t h, std::array<std::uint8_t, 3> color) {
  Image image{w, h, {}};
  for (std::int64_t i = 0; i < w * h; ++i) image.pixels.insert(image.pixels.end(), color.begin(), color.end());
  return image;
}
std::array<int, 3> at(const Image& image, std::int64_t x, std::int64_t y) {
  const auto* p = &image.pixels[static_cast<std::size_t>((y * image.width + x) * 3)];
  return {p[0], p[1], p[2]};
}

}  // namespace

TEST_CASE("pictures of any size are fitted into squares; an empty one leaves it gray") {
  const SheetPair pair{plain(300, 150, {200, 10, 20}), plain(5, 5, {1, 2, 3}), "a", "a name that is much too long for its picture", "distance 1.2"};
  const Image sheet = contact_sheet("Worst", {{"left", {pair, {Image{}, Image{}, "", "", ""}}}, {"right", {}}}, 64);
  CHECK(sheet.width == 2 * (2 * 64 + 6) + 4 * 16);
  CHECK(sheet.height == 64 + 2 * (64 + 44) + 8);
  CHECK(at(sheet, 16 + 32, 64 + 32) == std::array{200, 10, 20});
  CHECK(at(sheet, 16 + 32, 64 + 8) == std::array{235, 235, 235});  // above the wide picture
  CHECK(at(sheet, 16 + 64 + 6 + 3, 64 + 3) == std::array{1, 2, 3});
  CHECK(at(sheet, 16 + 32, 64 + 108 + 32) == std::array{235, 235, 235});
  CHECK(at(sheet, sheet.width - 4, 64 + 32) == std::array{255, 255, 255});
}

TEST_CASE("an empty sheet, and squares that are too small") {
  CHECK(contact_sheet("", {}).width > 0);
  CHECK_THROWS_AS(contact_sheet("", {}, 31), ValueError);
}

}  // namespace mien::test
