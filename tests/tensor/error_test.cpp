// The words of the errors: op, what was expected, what came, what to do.
#include "mien/tensor/error.h"

#include <functional>
#include <limits>

#include "catch.h"
#include "mien/tensor/tensor.h"

namespace mien {
namespace {

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("messages of the tensor's own errors", "[error]") {
  constexpr auto big = std::numeric_limits<std::int64_t>::max();
  const Tensor x = Tensor::empty({2, 3});
  const std::pair<std::string, std::function<void()>> golden[] = {
      {"from: shape [2, 2] holds 4 values, got 3", [] { Tensor::from({1.f, 2.f, 3.f}, {2, 2}); }},
      {"data: asked for f64, the tensor is f32[2, 3]. Cast with mien::cast first.", [&] { x.data<double>(); }},
      {"at: expects 2 indices, got 1 for f32[2, 3]", [&] { x.at<float>({0}); }},
      {"at: index 3 is out of range in dimension 1 of f32[2, 3]", [&] { x.at<float>({1, 3}); }},
      {"span: expects a contiguous tensor, got strides [1, 3] of f32[3, 2]. Call mien::contiguous first.",
       [&] { x.as_strided({3, 2}, {1, 3}, 0).span<float>(); }},
      {"item: expects a tensor of one element, got f32[2, 3]", [&] { x.item(); }},
      {"size: dimension 2 is out of range for a tensor of rank 2", [&] { x.size(2); }},
      {"as_strided: view [7] with strides [1] leaves the storage of f32[2, 3]", [&] { x.as_strided({7}, {1}, 0); }},
      {"tensor: an undefined tensor was used. Give it a value first.", [] { Tensor().shape(); }},
      {"shape: number of elements overflows 64 bits: [9223372036854775807, 2]", [&] { Tensor::empty({big, 2}); }},
      {"empty: number of bytes overflows 64 bits: f32[9223372036854775807]", [&] { Tensor::empty({big}); }},
      {"shape: sizes must not be negative, got [2, -1]", [] { Tensor::empty({2, -1}); }},
      {"channels_last: expects 4 dimensions [N, C, H, W], got [2]", [] { Tensor::empty({2}, DType::f32, Layout::channels_last); }},
      {"add: shapes [2, 3] and [2, 4] do not broadcast: sizes 3 and 4 differ and neither is 1", [] { broadcast({2, 3}, {2, 4}, "add"); }},
      {"exp: expects f32 or f64, got i64. Cast with mien::cast(x, DType::f32).", [] { dispatch_float(DType::i64, "exp", [](auto) {}); }},
      {"device: expected auto, cpu, cuda or cuda:N, got 'tpu'", [] { Device::parse("tpu"); }},
      {"set_cpu_allocator: expected an allocator, got null", [] { set_cpu_allocator(nullptr); }},
  };
  for (const auto& [text, f] : golden) CHECK(message_of(f) == text);
}

TEST_CASE("an error carries its parts", "[error]") {
  const ShapeError e("conv2d", "expects [N, C, H, W], got [3]", "Add a batch dimension.");
  CHECK(e.op() == "conv2d");
  CHECK(e.hint() == "Add a batch dimension.");
  CHECK(std::string(e.what()) == "conv2d: expects [N, C, H, W], got [3]. Add a batch dimension.");
  CHECK(std::string(e.where().file_name()).find("error_test.cpp") != std::string::npos);
  const IoError io(IoKind::missing, "load", "a.npy", "no such file.", "Check the path.");
  CHECK(std::string(io.what()) == "load: a.npy: no such file. Check the path.");
  CHECK(io.file() == "a.npy");
  CHECK(io.kind() == IoKind::missing);
  CHECK_THROWS_AS(throw OutOfMemory("allocator", "none left"), Error);  // one type to catch
  CHECK_NOTHROW(internal_check(true, "fine"));
  CHECK(message_of([] { internal_check(false, "x == y"); }) == "mien: internal invariant broken: x == y. Please report it.");
}

}  // namespace mien
