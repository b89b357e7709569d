#include "mien/tensor/tensor.h"

#include <limits>
#include <thread>
#include <vector>

#include "catch.h"

namespace mien {

using Numbers = std::vector<double>;

TEST_CASE("a tensor is made from values", "[tensor]") {
  const Tensor x = Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {2, 3});
  CHECK(x.shape() == Shape{2, 3});
  CHECK(x.strides() == Strides{3, 1});
  CHECK(x.rank() == 2);
  CHECK(x.numel() == 6);
  CHECK(x.size(-1) == 3);
  CHECK(x.dtype() == DType::f32);
  CHECK(x.device() == Device::cpu());
  CHECK(x.at<float>({1, 0}) == 4);
  x.at<float>({1, 0}) = 9;
  CHECK(x.span<float>()[3] == 9);
  CHECK(Tensor::scalar(2.5).item() == 2.5);
  CHECK(Tensor::scalar<std::int64_t>(std::int64_t{1} << 60).item_int() == std::int64_t{1} << 60);
  CHECK(Tensor::from<bool>({true, false}, {2}).to_vector() == Numbers{1, 0});
  CHECK(Tensor::from(std::vector<std::int32_t>{-3}, {1}).to_vector() == Numbers{-3});
  CHECK(Tensor::empty({2, 0}).to_vector().empty());
  CHECK(Tensor::empty({}, DType::u8).numel() == 1);
}

TEST_CASE("a tensor borrows memory", "[tensor]") {
  std::vector<float> values{1, 2, 3, 4, 5, 6};
  {
    const Tensor x = Tensor::borrow(std::span(values), {2, 3});
    CHECK(x.data<float>() == values.data());
    CHECK(x.is_contiguous());
    const Tensor column = x.as_strided({2}, {3}, 1);
    column.at<float>({1}) = 9;
    CHECK_THROWS_AS(x.as_strided({7}, {1}, 0), ShapeError);
  }
  CHECK(values == std::vector<float>{1, 2, 3, 4, 9, 6});  // given back as it was
  const std::vector<std::uint8_t> bytes{7, 8};
  CHECK(Tensor::borrow(std::span(bytes), {2}).to_vector() == Numbers{7, 8});
  CHECK(Tensor::borrow(std::span<const std::uint8_t>(), {0, 3}).numel() == 0);
  CHECK_THROWS_AS(Tensor::borrow(std::span(bytes), {3}), ShapeError);
}

TEST_CASE("copies of a tensor are handles, views share the storage", "[tensor]") {
  const Tensor x = Tensor::from({1., 2., 3., 4., 5., 6.}, {2, 3});
  const Tensor same = x, transposed = x.as_strided({3, 2}, {1, 3}, 0), backwards = x.as_strided({6}, {-1}, 5), row = x.as_strided({3}, {1}, 3);
  CHECK(same.is_same(x));
  CHECK_FALSE(transposed.is_same(x));
  CHECK(transposed.to_vector() == Numbers{1, 4, 2, 5, 3, 6});
  CHECK(backwards.to_vector() == Numbers{6, 5, 4, 3, 2, 1});
  CHECK(x.as_strided({2, 2}, {0, 1}, 1).to_vector() == Numbers{2, 3, 2, 3});
  row.at<double>({0}) = 40;
  CHECK(x.at<double>({1, 0}) == 40);
  CHECK(row.storage_offset() == 3);
  CHECK(row.data<double>() == x.data<double>() + 3);
  CHECK_FALSE(transposed.is_contiguous());
  CHECK_THROWS_AS(transposed.span<double>(), ShapeError);
  CHECK(row.is_contiguous());
  x.storage()->bump_version();
  CHECK(row.version() == 1);
  const Tensor detached = x.detach();
  CHECK(detached.data<double>() == x.data<double>());
  CHECK_FALSE(detached.is_same(x));
}

TEST_CASE("a view must lie in its storage", "[tensor]") {
  const Tensor x = Tensor::empty({2, 3});
  CHECK_THROWS_AS(x.as_strided({7}, {1}, 0), ShapeError);
  CHECK_THROWS_AS(x.as_strided({3}, {1}, 4), ShapeError);
  CHECK_THROWS_AS(x.as_strided({2}, {-1}, 0), ShapeError);
  CHECK_THROWS_AS(x.as_strided({2}, {1, 1}, 0), ShapeError);
  CHECK_THROWS_AS(x.as_strided({1}, {1}, -1), ShapeError);
  constexpr auto big = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_AS(x.as_strided({2}, {big}, 5), ShapeError);
  CHECK_THROWS_AS(x.as_strided({3}, {big}, 0), ShapeError);
  CHECK_THROWS_AS(x.as_strided({1}, {1}, big), ShapeError);
  CHECK_NOTHROW(x.as_strided({0}, {1}, 0));
}

TEST_CASE("channels_last is another order of the same logical tensor", "[tensor]") {
  const Tensor x = Tensor::empty({2, 3, 4, 5}, DType::f32, Layout::channels_last);
  CHECK(x.is_channels_last());
  CHECK_FALSE(x.is_contiguous());
  for (std::int64_t n = 0; n < 2; ++n)
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t h = 0; h < 4; ++h)
        for (std::int64_t w = 0; w < 5; ++w) x.at<float>({n, c, h, w}) = static_cast<float>(((n * 3 + c) * 4 + h) * 5 + w);
  const auto values = x.to_vector();
  for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == static_cast<double>(i));
  CHECK(x.data<float>()[1] == 20);  // the next in memory is the next channel
  CHECK_THROWS_AS(Tensor::empty({2, 3}, DType::f32, Layout::channels_last), ShapeError);
}

TEST_CASE("moves leave an undefined tensor, assignment to itself is harmless", "[tensor]") {
  Tensor a = Tensor::scalar(1.f);
  Tensor b = std::move(a);
  CHECK_FALSE(a.defined());  // NOLINT: that is the point
  Tensor& self = b;
  b = self;
  CHECK(b.item() == 1);
  CHECK(describe(a) == "undefined");
  CHECK_THROWS_AS(a.shape(), ValueError);
}

TEST_CASE("handles are counted across threads", "[tensor]") {
  const Tensor x = Tensor::from({1.f}, {1});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([x] {
      for (int i = 0; i < 10000; ++i) {
        Tensor copy = x;
        Tensor moved = std::move(copy);
      }
    });
  for (auto& t : threads) t.join();
  CHECK(x.impl().references.load() == 1);
}

TEST_CASE("devices are parsed, and absent ones are named", "[tensor]") {
  CHECK(Device::parse("cpu") == Device::cpu());
  CHECK(to_string(Device::cpu()) == "cpu");
  CHECK_THROWS_AS(Device::parse("gpu"), ValueError);
  CHECK_THROWS_AS(Device::parse("cuda:x"), ValueError);
  CHECK_THROWS_AS(Device::parse(""), ValueError);
  if (!built_with_cuda()) {
    CHECK_THROWS_AS(Device::cuda(), DeviceError);
    CHECK_THROWS_AS(Device::parse("cuda:1"), DeviceError);
  }
}

TEST_CASE("printing", "[tensor]") {
  CHECK(describe(Tensor::empty({1, 3, 160, 160})) == "f32[1, 3, 160, 160]");
  CHECK(to_string(Tensor::from<std::int64_t>({1, 2}, {2})) == "i64[2] {1, 2}");
  const std::string many = to_string(Tensor::from(std::vector<float>(100, 1.f), {100}));
  CHECK(many.find("...") != std::string::npos);
}

}  // namespace mien
