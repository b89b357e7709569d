#include "catch.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/prelu.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/tensor/error.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

struct Case {
  std::int64_t c, o, kh, kw, stride, pad, groups;
};

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = cast(contiguous(a), DType::f64).to_vector(), y = cast(contiguous(b), DType::f64).to_vector();
  REQUIRE(x.size() == y.size());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

Tensor random_values(const Shape& shape, DType dtype) { return cast(uniform(shape, -1, 1, {.dtype = DType::f32}), dtype); }

}  // namespace

TEST_CASE("a packed convolution is a convolution, its bias, residual and activation", "[ops][packed_conv]") {
  manual_seed(5);
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    for (const Case& k : {Case{5, 19, 3, 3, 1, 1, 1}, Case{32, 16, 1, 1, 1, 0, 1}, Case{3, 33, 3, 3, 2, 0, 1}, Case{40, 8, 1, 7, 1, 3, 1}, Case{17, 17, 3, 3, 2, 1, 17}}) {
      if (dtype == DType::bf16 && k.groups > 1) continue;
      const DType narrow = dtype == DType::bf16 ? DType::f32 : dtype;
      const Tensor x = random_values({2, k.c, 9, 8}, dtype), w = cast(random_values({k.o, k.c / k.groups, k.kh, k.kw}, dtype), narrow), bias = random_values({k.o}, narrow), slope = random_values({k.o}, narrow);
      const ConvParams conv{.stride = {k.stride, k.stride}, .padding = {k.pad * (k.kh > 1), k.pad * (k.kh > 1), k.pad, k.pad}, .groups = k.groups};
      PackedConvParams p;
      static_cast<ConvParams&>(p) = conv;
      p.kernel = {k.kh, k.kw};
      p.channels[0] = k.o;
      const Tensor plain = conv2d(cast(x, narrow), w, bias, conv), residual = random_values(plain.shape(), dtype);
      const Tensor packed = pack_conv_weights(w, k.groups, dtype);
      for (const Activation a : {Activation::none, Activation::relu, Activation::prelu}) {
        p.activation = a;
        const Tensor sum = add(plain, cast(residual, narrow));
        const Tensor wanted = a == Activation::none ? sum : a == Activation::relu ? relu(sum) : prelu(sum, slope);
        const Tensor y = packed_conv2d({channels_last(x), packed, bias, a == Activation::prelu ? slope : Tensor{}, channels_last(residual)}, p)[0];
        CHECK(y.is_channels_last());
        CHECK(largest_difference(y, wanted) < (narrow == DType::f64 ? 1e-12 : 2e-5));
      }
    }
}

TEST_CASE("a packed depthwise convolution of 3x3 is a convolution at every size, padding and pixel step", "[ops][packed_conv]") {
  manual_seed(7);
  const std::int64_t channels = 43;  // whole vectors and a part of one at every level
  const Tensor w = random_values({channels, 1, 3, 3}, DType::f32), packed = pack_conv_weights(w, channels), bias = random_values({channels}, DType::f32), slope = random_values({channels}, DType::f32);
  const std::array<std::int64_t, 4> paddings[] = {{1, 1, 1, 1}, {0, 0, 0, 0}, {1, 0, 0, 1}, {0, 1, 1, 0}, {2, 1, 1, 2}};
  for (const std::int64_t width : {1, 2, 3, 4, 5, 8, 66, 131})
    for (const std::int64_t height : {1, 2, 3, 4, 5, 8})
      for (const auto& padding : paddings) {
        if (height + padding[0] + padding[1] < 3 || width + padding[2] + padding[3] < 3) continue;
        const Tensor wide = channels_last(random_values({2, channels + 16, height, width}, DType::f32)), x = slice(wide, 1, 5, 5 + channels);
        PackedConvParams p;
        static_cast<ConvParams&>(p) = {.padding = padding, .groups = channels};
        p.kernel = {3, 3};
        p.channels[0] = channels;
        const Tensor plain = conv2d(contiguous(x), w, bias, p);
        for (const Activation a : {Activation::none, Activation::relu, Activation::prelu}) {
          p.activation = a;
          const Tensor wanted = a == Activation::none ? plain : a == Activation::relu ? relu(plain) : prelu(plain, slope), given = a == Activation::prelu ? slope : Tensor{};
          INFO(width << " x " << height << ", padding " << padding[0] << padding[1] << padding[2] << padding[3]);
          CHECK(largest_difference(packed_conv2d({channels_last(x), packed, bias, given, {}}, p)[0], wanted) < 2e-6);
          CHECK(largest_difference(packed_conv2d({x, packed, bias, given, {}}, p)[0], wanted) < 2e-6);
        }
      }
}

TEST_CASE("siblings share one packed convolution", "[ops][packed_conv]") {
  manual_seed(6);
  const Tensor x = channels_last(random_values({2, 24, 5, 5}, DType::f32));
  const Tensor w0 = random_values({20, 24, 1, 1}, DType::f32), w1 = random_values({32, 24, 1, 1}, DType::f32), b0 = random_values({20}, DType::f32), b1 = random_values({32}, DType::f32);
  const std::vector<Tensor> packs{pack_conv_weights(w0), pack_conv_weights(w1)};
  PackedConvParams p;
  p.outputs = 2;
  p.channels = {20, 32};
  const std::vector<Tensor> y = packed_conv2d({x, join_packed_weights(packs), concat({b0, b1}, 0), {}, {}}, p);
  REQUIRE(y.size() == 2);
  CHECK(largest_difference(y[0], conv2d(x, w0, b0)) < 1e-5);
  CHECK(largest_difference(y[1], conv2d(x, w1, b1)) < 1e-5);
}

TEST_CASE("a packed convolution refuses what does not fit", "[ops][packed_conv]") {
  const Tensor x = zeros({1, 4, 5, 5}), w = zeros({8, 4, 3, 3}), bias = zeros({8});
  PackedConvParams p;
  p.kernel = {3, 3};
  p.channels[0] = 8;
  CHECK_THROWS_AS(pack_conv_weights(zeros({8, 2, 3, 3}), 2), ShapeError);
  CHECK_THROWS_AS(pack_conv_weights(zeros({8, 1, 3, 3}), 8, DType::bf16), ShapeError);
  CHECK_THROWS_AS(pack_conv_weights(w, 1, DType::f16), DTypeError);
  CHECK_THROWS_AS(packed_conv2d({x, w, bias, {}, {}}, p), ShapeError);
  CHECK_THROWS_AS(packed_conv2d({x, pack_conv_weights(w), zeros({7}), {}, {}}, p), ShapeError);
  CHECK_THROWS_AS(packed_conv2d({x, pack_conv_weights(w), bias, {}, zeros({1, 8, 5, 5})}, p), ShapeError);
  CHECK_THROWS_AS(packed_conv2d({zeros({1, 4, 2, 5}), pack_conv_weights(w), bias, {}, {}}, p), ShapeError);
  CHECK_THROWS_AS(packed_conv2d({x, pack_conv_weights(w, 1, DType::bf16), bias, {}, {}}, p), DTypeError);
  p.activation = Activation::prelu;
  CHECK_THROWS_AS(packed_conv2d({x, pack_conv_weights(w), bias, {}, {}}, p), ValueError);
  p.activation = Activation::none;
  p.outputs = 9;
  CHECK_THROWS_AS(packed_conv2d({x, pack_conv_weights(w), bias, {}, {}}, p), ValueError);
}

}  // namespace mien::test
