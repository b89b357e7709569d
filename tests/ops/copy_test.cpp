#include <cmath>
#include <limits>

#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/view.h"
#include "values.h"

namespace mien::test {

TEST_CASE("contiguous, channels_last and clone keep values and choose the memory order", "[ops][copy]") {
  const Tensor x = rand({2, 3, 4, 5});
  const Values v = x.to_vector();
  CHECK(contiguous(x).is_same(x));
  const Tensor c = channels_last(x);
  CHECK(c.is_channels_last());
  CHECK(c.strides() == Shape{60, 1, 15, 3});
  CHECK(c.to_vector() == v);
  CHECK(channels_last(c).is_same(c));
  CHECK(contiguous(c).is_contiguous());
  CHECK(contiguous(c).to_vector() == v);
  CHECK(clone(c).is_channels_last());
  CHECK(clone(c).storage() != c.storage());
  const Tensor t = permute(x, {3, 1, 0, 2});
  CHECK(contiguous(t).to_vector() == t.to_vector());
  CHECK(clone(expand(f32({1, 2}), {3, 2})).to_vector() == Values{1, 2, 1, 2, 1, 2});
  CHECK(contiguous(transpose(zeros({0, 3}), 0, 1)).shape() == Shape{3, 0});
  CHECK_THROWS_AS(channels_last(zeros({2, 3})), ShapeError);
}

TEST_CASE("large copies between all memory orders", "[ops][copy]") {
  const Tensor x = rand({3, 17, 33, 29});
  const Values v = x.to_vector();
  CHECK(contiguous(channels_last(x)).to_vector() == v);
  const Tensor t = transpose(x, 1, 3);
  CHECK(contiguous(t).to_vector() == t.to_vector());
  CHECK(channels_last(t).to_vector() == t.to_vector());
  CHECK(contiguous(slice(x, 3, 1, {}, 3)).to_vector() == slice(x, 3, 1, {}, 3).to_vector());
}

TEST_CASE("cast between all dtypes", "[ops][copy]") {
  const DType all[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8, DType::boolean};
  for (const DType from : all)
    for (const DType to : all) {
      INFO(name(from) << " -> " << name(to));
      const Tensor x = cast(u8({0, 1, 2, 100}, {2, 2}), from);  // values that every dtype but bool holds
      const Values expected = to == DType::boolean || from == DType::boolean ? Values{0, 1, 1, 1} : Values{0, 1, 2, 100};
      CHECK(cast(x, to).dtype() == to);
      CHECK(cast(x, to).to_vector() == expected);
      CHECK(cast(transpose(x, 0, 1), to).to_vector() == transpose(cast(x, to), 0, 1).to_vector());
    }
  const Tensor x = f32({1.9f, -1.9f, 3e9f, std::numeric_limits<float>::quiet_NaN()});
  CHECK(cast(x, DType::f32).is_same(x));
  CHECK(cast(x, DType::i64).to_vector() == Values{1, -1, 3e9, 0});
  CHECK(cast(x, DType::i32).to_vector() == Values{1, -1, 2147483647, 0});  // saturates
  CHECK(cast(f32({-5, 300, 255}), DType::u8).to_vector() == Values{0, 255, 255});
  CHECK(cast(channels_last(rand({1, 2, 3, 3})), DType::f64).is_channels_last());
}

TEST_CASE("rounding to 16 bits is to nearest even", "[ops][copy]") {
  CHECK(cast(f32({1.00390625f, 1.01171875f, 3.39e38f, 3.4e38f}), DType::bf16).to_vector() ==
        Values{1.0, 1.015625, 3.3895313892515355e38, std::numeric_limits<double>::infinity()});
  CHECK(cast(f32({1.00048828125f, 1.00146484375f, 65504.f}), DType::f16).to_vector() == Values{1.0, 1.001953125, 65504});
}

TEST_CASE("the derivative of cast casts back", "[ops][copy]") {
  Tensor w = f64({1, 2, 3});
  set_requires_grad(w);
  backward(sum(cast(w, DType::f32) * f32({4, 5, 6})));
  CHECK(grad(w).dtype() == DType::f64);
  CHECK(grad(w).to_vector() == Values{4, 5, 6});
  CHECK_FALSE(requires_grad(cast(w, DType::i64)));
}

TEST_CASE("copy_into and fill write in place", "[ops][copy]") {
  Tensor t = zeros({2, 3});
  const std::uint32_t before = t.version();
  copy_into(t, transpose(cast(reshape(arange(6), {3, 2}), DType::f64), 0, 1));  // converts and reorders
  CHECK(t.to_vector() == Values{0, 2, 4, 1, 3, 5});
  CHECK(t.version() == before + 1);
  fill(slice(t, 1, 1, 2), -1);
  CHECK(t.to_vector() == Values{0, -1, 4, 1, -1, 5});
  CHECK(t.version() == before + 2);
  const Tensor flags = Tensor::empty({2}, DType::boolean);
  fill(flags, 3);
  CHECK(flags.to_vector() == Values{1, 1});
  CHECK(message_of<ShapeError>([&] { copy_into(t, zeros({3, 2})); }) == "copy_into: expects equal shapes, got f32[2, 3] and f32[3, 2]");
}

TEST_CASE("writing in place into a tensor that requires a gradient needs NoGrad", "[ops][copy]") {
  Tensor w = zeros({2});
  set_requires_grad(w);
  CHECK_THROWS_AS(fill(w, 1), NotDifferentiable);
  CHECK_THROWS_AS(copy_into(w, ones({2})), NotDifferentiable);
  CHECK(w.to_vector() == Values{0, 0});
  const NoGrad off;
  fill(w, 1);
  CHECK(w.to_vector() == Values{1, 1});
}

TEST_CASE("to the device a tensor is on is the tensor itself", "[ops][copy]") {
  const Tensor x = zeros({2});
  CHECK(to(x, Device::cpu()).is_same(x));
}

}  // namespace mien::test
