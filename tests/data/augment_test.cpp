#include <cmath>

#include "catch.h"
#include "mien/data/augment.h"
#include "mien/tensor/generator.h"
#include "mien/tensor/tensor.h"

namespace mien::test {
namespace {

Tensor crop() {  // [3, 20, 18], interleaved in memory as pictures are
  const Tensor t = Tensor::empty({20, 18, 3}, DType::u8);
  std::uint64_t i = 0;
  for (auto& v : t.span<std::uint8_t>()) v = static_cast<std::uint8_t>(philox_bits(3, 1, i++) % 256);
  return t.as_strided({3, 20, 18}, {1, 54, 3}, 0);
}
std::vector<double> augmented(const Augmentation& a, std::uint64_t stream, float mean = 0, float scale = 1) {
  const Tensor out = Tensor::empty({3, 16, 12});
  augment_crop(crop().view(), out.view(), a, 5, stream, mean, scale);
  return out.to_vector();
}

}  // namespace

TEST_CASE("without augmentation the middle of the crop is left", "[augment]") {
  const auto got = augmented(Augmentation::none(), 1, 127.5f, 1.f / 128);
  const Tensor from = crop();
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t y = 0; y < 16; ++y)
      for (std::int64_t x = 0; x < 12; ++x)
        REQUIRE(got[static_cast<std::size_t>((c * 16 + y) * 12 + x)] == Approx((from.at<std::uint8_t>({c, y + 2, x + 3}) - 127.5) / 128).margin(1e-5));
}

TEST_CASE("a mirrored crop is the crop backwards", "[augment]") {
  Augmentation a = Augmentation::none();
  const auto plain = augmented(a, 1);
  a.flip = 1;
  const auto turned = augmented(a, 1);
  for (std::size_t row = 0; row < 48; ++row)
    for (std::size_t x = 0; x < 12; ++x) REQUIRE(turned[row * 12 + x] == Approx(plain[row * 12 + 11 - x]).margin(1e-3));
}

TEST_CASE("every change follows from seed and stream, and can be switched on alone", "[augment]") {
  const Augmentation all;
  CHECK(augmented(all, 7) == augmented(all, 7));
  CHECK(augmented(all, 7) != augmented(all, 8));
  const auto plain = augmented(Augmentation::none(), 9);
  for (double Augmentation::*member : {&Augmentation::rotate, &Augmentation::zoom, &Augmentation::shift, &Augmentation::brightness, &Augmentation::contrast, &Augmentation::saturation,
                                       &Augmentation::gray, &Augmentation::blur, &Augmentation::erase}) {
    Augmentation one = Augmentation::none();
    one.*member = member == &Augmentation::rotate ? 10 : member == &Augmentation::gray || member == &Augmentation::blur || member == &Augmentation::erase ? 1 : .3;
    const auto got = augmented(one, 9);
    CHECK(got != plain);
    for (const double v : got) CHECK((v >= 0 && v <= 255));
  }
  Augmentation gray = Augmentation::none();
  gray.gray = 1;
  const auto g = augmented(gray, 9);
  for (std::size_t i = 0; i < 192; ++i) CHECK(std::abs(g[i] - g[i + 192]) < 1e-3);
  CHECK(all.scaled(0).rotate == 0);
  CHECK(all.scaled(0).flip == all.flip);
  CHECK(all.scaled(3).gray <= 1);
}

TEST_CASE("augment_crop refuses shapes that do not fit", "[augment]") {
  const Tensor small = Tensor::empty({3, 30, 12});
  CHECK_THROWS_WITH(augment_crop(crop().view(), small.view(), {}, 1, 1, 0, 1), Catch::Matchers::Contains("u8[3, 20, 18] and f32[3, 30, 12]"));
}

}  // namespace mien::test
