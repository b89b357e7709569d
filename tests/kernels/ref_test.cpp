// The reference kernels against numbers worked out by hand or with PyTorch. Each call is made three times: f64, f64 with other strides, f32.
#include "mien/kernels/ref/ref.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "catch.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/kernels/unary_table.h"
#include "mien/tensor/generator.h"
#include "mien/tensor/tensor.h"

namespace mien {
namespace {

using Numbers = std::vector<double>;
const double nan_ = std::nan("");

Tensor f64(const Numbers& v, const Shape& s) { return Tensor::from(v, s); }
Tensor i64(const std::vector<std::int64_t>& v) { return Tensor::from(v, {static_cast<std::int64_t>(v.size())}); }
Numbers counting(std::int64_t n, double first = 0) {
  Numbers v;
  for (std::int64_t i = 0; i < n; ++i) v.push_back(first + static_cast<double>(i));
  return v;
}
Tensor random_f64(const Shape& s, std::uint64_t seed) {
  Numbers v;
  for (std::int64_t i = 0; i < numel(s); ++i) v.push_back(2 * static_cast<double>(philox_uniform(seed, 0, static_cast<std::uint64_t>(i))) - 1);
  return f64(v, s);
}

void run_raw(const KernelEntry& entry, const std::vector<Tensor>& in, const std::vector<Tensor>& out, const void* params) {
  std::vector<View> vi, vo;
  for (const auto& t : in) vi.push_back(t.view());
  for (const auto& t : out) vo.push_back(t.view());
  KernelArgs args{vi, vo, params, nullptr};
  std::vector<double> workspace(static_cast<std::size_t>(entry.workspace ? entry.workspace(args) : 0) / 8 + 1, nan_);
  args.workspace = workspace.data();
  entry.run(args);
}

Tensor cast(const Tensor& x, DType to) {
  Tensor y = Tensor::empty(x.shape(), to);
  run_raw(ref::copy_entry, {x}, {y}, nullptr);
  return y;
}
// The same values, the first dimension running fastest, every second element, backwards along the last dimension.
Tensor scrambled(const Tensor& x) {
  Strides s = x.shape();
  std::int64_t step = 2;
  for (int d = 0; d < x.rank(); ++d) {
    s[d] = step;
    step *= std::max<std::int64_t>(x.shape()[d], 1) + 1;
  }
  std::int64_t offset = 0;
  if (x.rank() > 0 && x.numel() > 0) {
    offset = (x.shape().back() - 1) * s.back();
    s.back() = -s.back();
  }
  Tensor y = Tensor::empty({step + 2}, x.dtype()).as_strided(x.shape(), s, offset);
  run_raw(ref::copy_entry, {x}, {y}, nullptr);
  return y;
}

void require_close(const Numbers& got, const Numbers& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("element " << i << " of " << got.size() << ": got " << got[i] << ", want " << want[i]);
    if (std::isnan(want[i])) REQUIRE(std::isnan(got[i]));
    else if (std::isinf(want[i])) REQUIRE(got[i] == want[i]);
    else REQUIRE(std::abs(got[i] - want[i]) <= tolerance * std::max(1.0, std::abs(want[i])));
  }
}

struct Out {
  Shape shape;
  DType dtype = DType::f64;
  Tensor start{};  // for kernels that work in place
};
template <class P = int>
std::vector<Tensor> run(const KernelEntry& entry, const std::vector<Tensor>& in, const std::vector<Out>& out, const P& params = {}) {
  const auto call = [&](const std::function<Tensor(const Tensor&)>& turn) {
    std::vector<Tensor> inputs, outputs;
    for (const auto& t : in) inputs.push_back(turn(t));
    for (const auto& o : out) {
      Tensor start = o.start;
      if (!start) {
        start = Tensor::empty(o.shape, o.dtype);
        const FillParams poison{o.dtype == DType::boolean ? 1. : 77.};
        run_raw(ref::fill_entry, {}, {start}, &poison);
      }
      outputs.push_back(turn(start));
    }
    run_raw(entry, inputs, outputs, &params);
    return outputs;
  };
  const auto plain = call([](const Tensor& t) {
    Tensor copy = Tensor::empty(t.shape(), t.dtype());
    run_raw(ref::copy_entry, {t}, {copy}, nullptr);
    return copy;
  });
  const auto other = call(scrambled);
  const auto narrow = call([](const Tensor& t) { return cast(t, t.dtype() == DType::f64 ? DType::f32 : t.dtype()); });
  for (std::size_t i = 0; i < plain.size(); ++i) {
    INFO("output " << i);
    require_close(other[i].to_vector(), plain[i].to_vector(), 0);
    require_close(narrow[i].to_vector(), plain[i].to_vector(), 1e-5);
  }
  return plain;
}
template <class P = int>
Numbers run1(const KernelEntry& entry, const std::vector<Tensor>& in, const Out& out, const P& params = {}) {
  return run(entry, in, {out}, params)[0].to_vector();
}

double dot(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector(), y = b.to_vector();
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

TEST_CASE("ref conv2d: the sum over channels and taps plus the bias", "[ref]") {
  // One 3x3 picture, one 2x2 kernel: 1*1 + 2*0 + 4*0 + 5*-1 + 10 = 6.
  const auto x = f64(counting(9, 1), {1, 1, 3, 3});
  CHECK(run1(ref::conv2d_entry, {x, f64({1, 0, 0, -1}, {1, 1, 2, 2}), f64({10}, {1})}, {{1, 1, 2, 2}}, ConvParams{}) == Numbers{6, 6, 6, 6});
  // Top 1, left 2: the zeros count.
  ConvParams p;
  p.padding = {1, 0, 2, 0};
  CHECK(run1(ref::conv2d_entry, {x, f64({1, 2, 3, 4}, {1, 1, 2, 2})}, {{1, 1, 3, 4}}, p) ==
        Numbers{0, 4, 11, 18, 0, 18, 37, 47, 0, 36, 67, 77});
  // Stride and dilation 2 reach the four corners.
  p = {};
  p.stride = p.dilation = {2, 2};
  CHECK(run1(ref::conv2d_entry, {x, f64({1, 10, 100, 1000}, {1, 1, 2, 2})}, {{1, 1, 1, 1}}, p) == Numbers{1 + 30 + 700 + 9000});
  // Depthwise: each channel has its own kernel.
  p = {};
  p.groups = 2;
  CHECK(run1(ref::conv2d_entry, {f64({1, 2, 3, 4}, {1, 2, 1, 2}), f64({1, 10, 2, 20}, {2, 1, 1, 2})}, {{1, 2, 1, 1}}, p) == Numbers{21, 86});
}

TEST_CASE("ref conv2d gradients are the adjoints of the convolution", "[ref]") {
  struct Case {
    Shape x, w, y;
    ConvParams p;
  };
  const Case cases[] = {
      {{2, 3, 7, 6}, {4, 3, 3, 2}, {2, 4, 5, 5}, {}},
      {{2, 4, 9, 8}, {6, 2, 3, 3}, {2, 6, 4, 3}, {{2, 3}, {1, 0, 2, 1}, {1, 1}, 2}},
      {{1, 3, 8, 9}, {3, 1, 2, 3}, {1, 3, 8, 7}, {{1, 1}, {1, 1, 1, 1}, {2, 2}, 3}},
      {{0, 2, 4, 4}, {2, 2, 3, 3}, {0, 2, 2, 2}, {}},
  };
  for (const auto& c : cases) {
    const auto x = random_f64(c.x, 1), w = random_f64(c.w, 2), gy = random_f64(c.y, 3);
    const auto y = run(ref::conv2d_entry, {x, w}, {{c.y}}, c.p)[0];
    const auto gx = run(ref::conv2d_grad_input_entry, {gy, w}, {{c.x}}, c.p)[0];
    const auto gw = run(ref::conv2d_grad_weight_entry, {gy, x}, {{c.w}}, c.p)[0];
    CHECK(dot(gy, y) == Approx(dot(gx, x)).epsilon(1e-12).margin(1e-12));
    CHECK(dot(gy, y) == Approx(dot(gw, w)).epsilon(1e-12).margin(1e-12));
  }
}

TEST_CASE("ref max_pool2d", "[ref]") {
  PoolParams p{{3, 3}, {2, 2}, {1, 1}, {1, 1}};
  // The padding is minus infinity, not zero.
  auto out = run(ref::max_pool2d_entry, {f64(counting(16, -20), {1, 1, 4, 4})}, {{{1, 1, 2, 2}}, {{1, 1, 2, 2}, DType::i64}}, p);
  CHECK(out[0].to_vector() == Numbers{-15, -13, -7, -5});
  CHECK(out[1].to_vector() == Numbers{5, 7, 13, 15});
  // The first of equals; NaN over everything.
  p = {{1, 3}, {1, 1}, {0, 0}, {1, 1}};
  out = run(ref::max_pool2d_entry, {f64({2, 5, 5, nan_, 1, 1}, {1, 1, 1, 6})}, {{{1, 1, 1, 4}}, {{1, 1, 1, 4}, DType::i64}}, p);
  require_close(out[0].to_vector(), {5, nan_, nan_, nan_}, 0);
  CHECK(out[1].to_vector() == Numbers{1, 3, 3, 3});
  // Overlapping windows add up on the way back; the rest is zero.
  CHECK(run1(ref::max_pool2d_backward_entry, {f64({1, 2, 4}, {1, 1, 1, 3}), Tensor::from<std::int64_t>({1, 1, 3}, {1, 1, 1, 3})}, {{1, 1, 1, 5}}, p) ==
        Numbers{0, 3, 0, 4, 0});
}

TEST_CASE("ref avg_pool2d divides as PyTorch does", "[ref]") {
  const auto x = f64(counting(16), {1, 1, 4, 4});
  PoolParams p{{3, 3}, {2, 2}, {1, 1}};
  const double tolerance = 1e-12;
  require_close(run1(ref::avg_pool2d_entry, {x}, {{1, 1, 2, 2}}, p), {10. / 9, 24. / 9, 51. / 9, 10}, tolerance);
  p.ceil_mode = true;
  require_close(run1(ref::avg_pool2d_entry, {x}, {{1, 1, 3, 3}}, p), {10. / 9, 24. / 9, 10. / 6, 51. / 9, 10, 33. / 6, 25. / 6, 7, 15. / 4}, tolerance);
  p.ceil_mode = false;
  p.count_include_pad = false;
  require_close(run1(ref::avg_pool2d_entry, {x}, {{1, 1, 2, 2}}, p), {2.5, 4, 8.5, 10}, tolerance);
  p.divisor_override = 2;
  require_close(run1(ref::avg_pool2d_entry, {x}, {{1, 1, 2, 2}}, p), {5, 12, 25.5, 45}, tolerance);
}

TEST_CASE("ref resizing", "[ref]") {
  // Windows 0..4, 3..7, 6..10 of 10 cells.
  require_close(run1(ref::adaptive_avg_pool2d_entry, {f64(counting(10), {1, 1, 1, 10})}, {{1, 1, 1, 3}}), {1.5, 4.5, 7.5}, 1e-12);
  const Tensor bytes = Tensor::from<std::uint8_t>({250, 252, 254, 255}, {1, 1, 2, 2});
  CHECK(run1(ref::adaptive_avg_pool2d_entry, {bytes}, {{1, 1, 1, 1}}) == Numbers{252.75});
  // PyTorch: interpolate([1, 2], size=4).
  const auto x = f64({1, 2}, {1, 1, 1, 2});
  require_close(run1(ref::resize_bilinear_entry, {x}, {{1, 1, 1, 4}}, ResizeParams{false}), {1, 1.25, 1.75, 2}, 1e-12);
  require_close(run1(ref::resize_bilinear_entry, {x}, {{1, 1, 1, 4}}, ResizeParams{true}), {1, 4. / 3, 5. / 3, 2}, 1e-12);
  require_close(run1(ref::resize_bilinear_entry, {f64(counting(16), {1, 1, 4, 4})}, {{1, 1, 2, 2}}, ResizeParams{false}), {2.5, 4.5, 10.5, 12.5}, 1e-12);
}

TEST_CASE("ref gradients of pooling and resizing are adjoints", "[ref]") {
  const auto x = random_f64({2, 3, 7, 5}, 1);
  const auto check = [&](const KernelEntry& forward, const KernelEntry& backward, const Shape& out, const auto& params) {
    const auto gy = random_f64(out, 2);
    const auto y = run(forward, {x}, {{out}}, params)[0], gx = run(backward, {gy}, {{x.shape()}}, params)[0];
    CHECK(dot(gy, y) == Approx(dot(gx, x)).epsilon(1e-12));
  };
  PoolParams p{{3, 2}, {2, 2}, {1, 1}};
  check(ref::avg_pool2d_entry, ref::avg_pool2d_backward_entry, {2, 3, 4, 3}, p);
  p.count_include_pad = false;
  check(ref::avg_pool2d_entry, ref::avg_pool2d_backward_entry, {2, 3, 4, 3}, p);
  for (const Shape& out : {Shape{2, 3, 3, 2}, Shape{2, 3, 9, 11}}) {
    check(ref::adaptive_avg_pool2d_entry, ref::adaptive_avg_pool2d_backward_entry, out, 0);
    for (const bool align : {false, true}) check(ref::resize_bilinear_entry, ref::resize_bilinear_backward_entry, out, ResizeParams{align});
  }
}

TEST_CASE("ref crop_resize_area", "[ref]") {
  const Tensor image = Tensor::from<std::uint8_t>({0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110}, {1, 3, 4});
  const Tensor boxes = Tensor::from<std::int64_t>({0, 0, 4, 2, 1, 1, 3, 3}, {2, 4});
  require_close(run1(ref::crop_resize_area_entry, {image, boxes}, {{2, 1, 1, 2}}, CropResizeParams{5.f, .5f}), {10, 20, 32.5, 37.5}, 1e-12);
  // Larger than the crop: cells repeat.
  require_close(run1(ref::crop_resize_area_entry, {image, Tensor::from<std::int64_t>({1, 0, 3, 1}, {1, 4})}, {{1, 1, 1, 4}}, CropResizeParams{}), {10, 10, 20, 20}, 0);
  const CropResizeParams p;
  for (const auto& bad : {std::vector<std::int64_t>{0, 0, 5, 2}, {-1, 0, 2, 2}, {2, 0, 2, 2}})
    CHECK_THROWS_AS(run_raw(ref::crop_resize_area_entry, {image, Tensor::from(bad, {1, 4})}, {Tensor::empty({1, 1, 2, 2})}, &p), ValueError);
}

TEST_CASE("ref warp_affine", "[ref]") {
  const Tensor image = Tensor::from<std::uint8_t>({0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110}, {1, 3, 4});
  const auto warp = [&](const Numbers& m, Shape out, CropResizeParams p = {}) { return run1(ref::warp_affine_entry, {image, f64(m, {1, 2, 3})}, {out}, p); };
  require_close(warp({1, 0, 1, 0, 1, 1}, {1, 1, 2, 2}, {10.f, .5f}), {20, 25, 40, 45}, 1e-12);   // a shift by whole pixels
  require_close(warp({1, 0, .5, 0, 1, .25}, {1, 1, 1, 2}), {15, 25}, 1e-12);                     // between pixels: 5 + .25 * 40
  require_close(warp({0, 1, 0, 1, 0, 0}, {1, 1, 4, 3}), {0, 40, 80, 10, 50, 90, 20, 60, 100, 30, 70, 110}, 1e-12);  // transposed
  require_close(warp({1, 0, -1, 0, 1, -1}, {1, 1, 2, 2}), {0, 0, 0, 0}, 0);                      // zeros outside, the corner is 0
  require_close(warp({1, 0, 3.5, 0, 1, 2}, {1, 1, 1, 2}), {55, 0}, 1e-12);                       // half of the last column, then nothing
  // Shrinking by 2: the mean of 2 x 2 samples at -.25 and +.25 of an output pixel, here -.5 and +.5 source pixels.
  require_close(warp({2, 0, .5, 0, 2, .5}, {1, 1, 1, 2}), {25, 45}, 1e-12);
}

TEST_CASE("ref unary", "[ref]") {
  const auto unary = [](UnaryKind kind, const Numbers& x, double a = 0, double b = 0) {
    return run1(ref::unary_entry, {f64(x, {static_cast<std::int64_t>(x.size())})}, {{static_cast<std::int64_t>(x.size())}}, UnaryParams{kind, a, b});
  };
  require_close(unary(UnaryKind::relu, {-1, 0, 2, nan_}), {0, 0, 2, nan_}, 0);
  require_close(unary(UnaryKind::leaky_relu, {-2, 4}, .25), {-.5, 4}, 0);
  require_close(unary(UnaryKind::clamp, {-2, .25, 4, nan_}, -1, 1), {-1, .25, 1, nan_}, 0);
  require_close(unary(UnaryKind::sigmoid, {0, 2, -800}), {.5, 0.8807970779778823, 0}, 1e-12);
  require_close(unary(UnaryKind::softplus, {0, 30, -800}), {std::log(2.), 30, 0}, 1e-12);
  require_close(unary(UnaryKind::sign, {-3, 0, 3}), {-1, 0, 1}, 0);
  require_close(unary(UnaryKind::affine, {1, 2}, 3, -1), {2, 5}, 0);
  require_close(unary(UnaryKind::pow, {4, 9}, .5), {2, 3}, 1e-12);
  // relu' and |x|' are 0 at 0.
  const auto backward = [](UnaryKind kind, double x, double y) {
    return run1(ref::unary_backward_entry, {f64({3}, {1}), f64({x}, {1}), f64({y}, {1})}, {{1}}, UnaryParams{kind, 0, 0})[0];
  };
  CHECK(backward(UnaryKind::relu, 0, 0) == 0);
  CHECK(backward(UnaryKind::abs, 0, 0) == 0);
  CHECK(backward(UnaryKind::abs, -2, 2) == -3);
  CHECK(backward(UnaryKind::exp, 1, 5) == 15);
}

TEST_CASE("ref binary", "[ref]") {
  const auto binary = [](BinaryKind kind, const Numbers& a, const Numbers& b, DType out = DType::f64) {
    const auto n = static_cast<std::int64_t>(a.size());
    return run1(ref::binary_entry, {f64(a, {n}), f64(b, {n})}, {{n}, out}, BinaryParams{kind});
  };
  require_close(binary(BinaryKind::div, {1, -1, 0}, {0, 0, 0}), {INFINITY, -INFINITY, nan_}, 0);
  require_close(binary(BinaryKind::maximum, {1, nan_, 2, 3}, {2, 1, nan_, 3}), {2, nan_, nan_, 3}, 0);
  require_close(binary(BinaryKind::minimum, {1, nan_, 2, 3}, {2, 1, nan_, 3}), {1, nan_, nan_, 3}, 0);
  CHECK(binary(BinaryKind::lt, {1, 2, nan_}, {2, 2, 1}, DType::boolean) == Numbers{1, 0, 0});
  CHECK(binary(BinaryKind::ne, {1, 2, nan_}, {2, 2, nan_}, DType::boolean) == Numbers{1, 0, 1});
  // Expanded operands: strides 0.
  const Tensor row = f64({1, 2, 3}, {3}).as_strided({2, 3}, {0, 1}, 0), column = f64({10, 20}, {2}).as_strided({2, 3}, {1, 0}, 0);
  CHECK(run1(ref::binary_entry, {row, column}, {{2, 3}}, BinaryParams{BinaryKind::add}) == Numbers{11, 12, 13, 21, 22, 23});
  // Integers wrap, bytes too; division by zero is an error.
  const auto i32_of = [](std::int32_t v) { return Tensor::from<std::int32_t>({v}, {1}); };
  const auto one = [&](BinaryKind kind, const Tensor& a, const Tensor& b) { return run1(ref::binary_entry, {a, b}, {{1}, a.dtype()}, BinaryParams{kind})[0]; };
  CHECK(one(BinaryKind::add, i32_of(INT32_MAX), i32_of(1)) == INT32_MIN);
  CHECK(one(BinaryKind::mul, i32_of(65536), i32_of(65536)) == 0);
  CHECK(one(BinaryKind::div, i32_of(INT32_MIN), i32_of(-1)) == INT32_MIN);
  CHECK(one(BinaryKind::div, i32_of(-7), i32_of(2)) == -3);
  CHECK(one(BinaryKind::sub, Tensor::from<std::uint8_t>({1}, {1}), Tensor::from<std::uint8_t>({2}, {1})) == 255);
  CHECK_THROWS_AS(one(BinaryKind::div, i32_of(1), i32_of(0)), ValueError);
  // where
  const Tensor condition = Tensor::from<bool>({true, false, true}, {3});
  CHECK(run1(ref::where_entry, {condition, f64({1, 2, 3}, {3}), f64({4, 5, 6}, {3})}, {{3}}) == Numbers{1, 5, 3});
}

TEST_CASE("ref copy converts between all dtypes", "[ref]") {
  const DType all[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8, DType::boolean};
  for (const DType from : all)
    for (const DType to : all) {
      INFO(name(from) << " to " << name(to));
      const Numbers values = from == DType::boolean || to == DType::boolean ? Numbers{0, 1, 1, 0} : Numbers{0, 1, 2, 100};
      CHECK(scrambled(cast(cast(f64(values, {2, 2}), from), to)).to_vector() == values);
    }
  const auto to_type = [](DType to, double v) { return cast(f64({v}, {1}), to).to_vector()[0]; };
  // Into integers: towards zero, saturating, NaN is 0.
  CHECK(to_type(DType::u8, 2.9) == 2);
  CHECK(to_type(DType::i32, -2.9) == -2);
  CHECK(to_type(DType::u8, 300) == 255);
  CHECK(to_type(DType::u8, -5) == 0);
  CHECK(to_type(DType::i32, 1e30) == INT32_MAX);
  CHECK(to_type(DType::i32, -1e30) == INT32_MIN);
  CHECK(cast(f64({1e30}, {1}), DType::i64).item_int() == INT64_MAX);
  CHECK(to_type(DType::i64, nan_) == 0);
  CHECK(to_type(DType::boolean, .25) == 1);
  CHECK(to_type(DType::boolean, nan_) == 1);
  CHECK(cast(Tensor::from<std::int32_t>({257}, {1}), DType::u8).to_vector()[0] == 1);
  CHECK(to_type(DType::bf16, 1.00390625) == 1.0);  // halfway: to even
  CHECK(to_type(DType::f16, 65520) == INFINITY);
}

TEST_CASE("ref kernels take ranks 0 to 8 and empty tensors", "[ref]") {
  CHECK(run1(ref::binary_entry, {Tensor::scalar(2.), Tensor::scalar(3.)}, {Shape{}}, BinaryParams{BinaryKind::mul}) == Numbers{6});
  const Shape eight{2, 1, 2, 1, 3, 1, 2, 2};
  const auto x = f64(counting(48), eight);
  CHECK(scrambled(x).to_vector() == counting(48));
  Shape kept = eight;
  kept[0] = kept[4] = kept[7] = 1;
  Numbers sums;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      double sum = 0;
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 3; ++j)
          for (int k = 0; k < 2; ++k) sum += i * 24 + a * 12 + j * 4 + b * 2 + k;
      sums.push_back(sum);
    }
  CHECK(run1(ref::reduce_entry, {x}, {kept}, ReduceParams{ReduceKind::sum}) == sums);
  CHECK(run1(ref::unary_entry, {Tensor::empty({3, 0}, DType::f64)}, {{3, 0}}, UnaryParams{UnaryKind::exp, 0, 0}).empty());
  CHECK(run1(ref::matmul_entry, {Tensor::empty({2, 0}, DType::f64), Tensor::empty({0, 2}, DType::f64)}, {{2, 2}}) == Numbers{0, 0, 0, 0});
}

TEST_CASE("ref reductions", "[ref]") {
  const auto x = f64({1, 5, 3, 5, -2, 0}, {2, 3});
  CHECK(run1(ref::reduce_entry, {x}, {{2, 1}}, ReduceParams{ReduceKind::sum}) == Numbers{9, 3});
  CHECK(run1(ref::reduce_entry, {x}, {{1, 3}}, ReduceParams{ReduceKind::max}) == Numbers{5, 5, 3});
  CHECK(run1(ref::reduce_entry, {x}, {{1, 1}}, ReduceParams{ReduceKind::min}) == Numbers{-2});
  CHECK(run1(ref::reduce_entry, {x}, {{2, 3}}, ReduceParams{ReduceKind::sum}) == x.to_vector());
  require_close(run1(ref::reduce_entry, {f64({1, nan_, 3}, {3})}, {{1}}, ReduceParams{ReduceKind::min}), {nan_}, 0);
  CHECK(run1(ref::reduce_entry, {Tensor::empty({2, 0}, DType::f64)}, {{2, 1}}, ReduceParams{ReduceKind::sum}) == Numbers{0, 0});
  const ReduceParams max{ReduceKind::max};
  CHECK_THROWS_AS(run_raw(ref::reduce_entry, {Tensor::empty({2, 0})}, {Tensor::empty({2, 1})}, &max), ShapeError);
  CHECK(run1(ref::reduce_entry, {Tensor::from<bool>({true, true, false}, {3})}, {{1}, DType::i64}, ReduceParams{ReduceKind::sum}) == Numbers{2});
  CHECK(run1(ref::reduce_entry, {Tensor::from<std::uint8_t>({200, 100}, {2})}, {{1}, DType::i64}, ReduceParams{ReduceKind::sum}) == Numbers{300});
  // First index on ties, NaN wins; with and without the dimension.
  const auto y = f64({1, 5, 5, 0, 0, 3, nan_, nan_, 9}, {3, 3});
  CHECK(run1(ref::arg_reduce_entry, {y}, {{3, 1}, DType::i64}, ArgReduceParams{true, 1}) == Numbers{1, 2, 0});
  CHECK(run1(ref::arg_reduce_entry, {y}, {{3}, DType::i64}, ArgReduceParams{false, 1}) == Numbers{0, 0, 0});
  CHECK(run1(ref::arg_reduce_entry, {y}, {{3}, DType::i64}, ArgReduceParams{true, 0}) == Numbers{2, 2, 2});
}

TEST_CASE("ref prelu", "[ref]") {
  const auto x = f64({-1, 2, -3, 4, -5, 0}, {1, 2, 3}), a = f64({.5, .25}, {2}), g = f64({1, 2, 3, 4, 5, 6}, {1, 2, 3});
  CHECK(run1(ref::prelu_entry, {x, a}, {{1, 2, 3}}) == Numbers{-.5, 2, -1.5, 4, -1.25, 0});
  CHECK(run1(ref::prelu_entry, {x, f64({2}, {1})}, {{1, 2, 3}}) == Numbers{-2, 2, -6, 4, -10, 0});
  CHECK(run1(ref::prelu_entry, {f64({-1, -1}, {2}), a}, {{2}}) == Numbers{-.5, -.25});
  const auto out = run(ref::prelu_backward_entry, {g, x, a}, {{{1, 2, 3}}, {{2}}});
  CHECK(out[0].to_vector() == Numbers{.5, 2, 1.5, 4, 1.25, 1.5});
  CHECK(out[1].to_vector() == Numbers{-1 - 9, -25});
  CHECK(run(ref::prelu_backward_entry, {g, x, f64({1}, {1})}, {{{1, 2, 3}}, {{1}}})[1].to_vector() == Numbers{-35});
}

TEST_CASE("ref matmul and linear", "[ref]") {
  CHECK(run1(ref::matmul_entry, {f64(counting(6, 1), {2, 3}), f64(counting(6, 1), {3, 2})}, {{2, 2}}) == Numbers{22, 28, 49, 64});
  // Batches; the second operand is expanded over them.
  const Tensor b = f64({1, 0, 0, 2}, {2, 2}).as_strided({2, 2, 2}, {0, 2, 1}, 0);
  CHECK(run1(ref::matmul_entry, {f64(counting(8, 1), {2, 2, 2}), b}, {{2, 2, 2}}) == Numbers{1, 4, 3, 8, 5, 12, 7, 16});
  CHECK(run1(ref::linear_entry, {f64({1, 2}, {1, 2}), f64({1, 1, 3, -1}, {2, 2}), f64({10, 20}, {2})}, {{1, 2}}) == Numbers{13, 21});
}

TEST_CASE("ref softmax", "[ref]") {
  const auto x = f64({1, 2, 1000, 1000}, {2, 2});
  const double e = 1 / (1 + std::exp(1.));
  require_close(run1(ref::softmax_entry, {x}, {{2, 2}}, SoftmaxParams{1, false}), {e, 1 - e, .5, .5}, 1e-12);
  require_close(run1(ref::softmax_entry, {x}, {{2, 2}}, SoftmaxParams{1, true}), {std::log(e), std::log(1 - e), std::log(.5), std::log(.5)}, 1e-12);
  require_close(run1(ref::softmax_entry, {f64({0, 0, 0, 0}, {4})}, {{4}}, SoftmaxParams{0, false}), {.25, .25, .25, .25}, 1e-12);
  const auto y = f64({.25, .75}, {2}), g = f64({1, 3}, {2});
  require_close(run1(ref::softmax_backward_entry, {g, y}, {{2}}, SoftmaxParams{0, false}), {.25 * (1 - 2.5), .75 * (3 - 2.5)}, 1e-12);
  require_close(run1(ref::softmax_backward_entry, {g, f64({std::log(.25), std::log(.75)}, {2})}, {{2}}, SoftmaxParams{0, true}), {1 - 1, 3 - 3}, 1e-12);
}

TEST_CASE("ref channel_affine", "[ref]") {
  require_close(run1(ref::channel_affine_entry, {f64({1, 3, 10, 10, 5, 7, 20, 10}, {2, 2, 2}), f64({2, -1}, {2}), f64({1, 3}, {2})}, {{2, 2, 2}}, NormParams{}),
                {3, 7, -7, -7, 11, 15, -17, -7}, 1e-12);
}

TEST_CASE("ref batch_norm", "[ref]") {
  const auto x = f64({1, 3, 10, 10, 5, 7, 10, 10}, {2, 2, 2}), w = f64({2, 1}, {2}), b = f64({1, -1}, {2});
  const auto out = run(ref::batch_norm_entry, {x, w, b}, {{{2, 2, 2}}, {{2}}, {{2}}}, NormParams{0.25});
  const double s = 1 / std::sqrt(5.25);  // values 1, 3, 5, 7: mean 4, biased variance 5
  require_close(out[1].to_vector(), {4, 10}, 1e-12);
  require_close(out[2].to_vector(), {s, 2}, 1e-12);
  require_close(out[0].to_vector(), {1 - 6 * s, 1 - 2 * s, -1, -1, 1 + 2 * s, 1 + 6 * s, -1, -1}, 1e-12);
  // Against central differences of sum(g * y).
  const auto big = random_f64({3, 2, 4}, 5), g = random_f64({3, 2, 4}, 6);
  const auto forward = run(ref::batch_norm_entry, {big, w, b}, {{{3, 2, 4}}, {{2}}, {{2}}}, NormParams{});
  const auto back = run(ref::batch_norm_backward_entry, {g, big, w, forward[1], forward[2]}, {{{3, 2, 4}}, {{2}}, {{2}}}, NormParams{});
  const NormParams p;
  const auto loss = [&](const Tensor& v, const Tensor& weight, const Tensor& bias) {
    const Tensor y = Tensor::empty({3, 2, 4}, DType::f64);
    run_raw(ref::batch_norm_entry, {v, weight, bias}, {y, Tensor::empty({2}, DType::f64), Tensor::empty({2}, DType::f64)}, &p);
    return dot(g, y);
  };
  const auto slope = [&](const Tensor& t, std::int64_t i) {
    double& e = t.data<double>()[i];
    const double before = e, h = 1e-5;
    e = before + h;
    const double up = loss(big, w, b);
    e = before - h;
    const double down = loss(big, w, b);
    e = before;
    return (up - down) / (2 * h);
  };
  for (std::int64_t i = 0; i < 24; ++i) CHECK(back[0].data<double>()[i] == Approx(slope(big, i)).margin(1e-6));
  for (std::int64_t i = 0; i < 2; ++i) {
    CHECK(back[1].data<double>()[i] == Approx(slope(w, i)).margin(1e-6));
    CHECK(back[2].data<double>()[i] == Approx(slope(b, i)).margin(1e-6));
  }
}

TEST_CASE("ref nll", "[ref]") {
  const auto logp = f64({-1, -2, -3, -4, -5, -6, -7, -8, -9}, {3, 3}), w = f64({1, 2, .5}, {3});
  const auto target = i64({1, -100, 2});
  auto out = run(ref::nll_entry, {logp, target}, {{{3}}, {{3}}}, NllParams{});
  CHECK(out[0].to_vector() == Numbers{2, 0, 9});
  CHECK(out[1].to_vector() == Numbers{1, 0, 1});
  out = run(ref::nll_entry, {logp, target, w}, {{{3}}, {{3}}}, NllParams{});
  CHECK(out[0].to_vector() == Numbers{4, 0, 4.5});
  CHECK(out[1].to_vector() == Numbers{2, 0, .5});
  CHECK(run1(ref::nll_backward_entry, {f64({1, 2, 3}, {3}), target, w}, {{3, 3}}, NllParams{}) == Numbers{0, -2, 0, 0, 0, 0, 0, 0, -1.5});
  const NllParams p;
  CHECK_THROWS_AS(run_raw(ref::nll_entry, {logp, i64({0, 1, 3})}, {Tensor::empty({3}, DType::f64), Tensor::empty({3}, DType::f64)}, &p), ValueError);
}

TEST_CASE("ref concat, index, pad, slice_backward", "[ref]") {
  const auto a = f64(counting(4), {2, 2}), b = f64({10, 20}, {2, 1});
  CHECK(run1(ref::concat_entry, {a, b, Tensor::empty({2, 0}, DType::f64)}, {{2, 3}}, DimParams{1}) == Numbers{0, 1, 10, 2, 3, 20});
  const auto rows = i64({2, 0, 2});
  CHECK(run1(ref::index_select_entry, {f64(counting(6), {3, 2}), rows}, {{3, 2}}, DimParams{0}) == Numbers{4, 5, 0, 1, 4, 5});
  CHECK(run1(ref::index_select_entry, {f64(counting(6), {2, 3}), rows}, {{2, 3}}, DimParams{1}) == Numbers{2, 0, 2, 5, 3, 5});
  CHECK(run1(ref::index_add_entry, {f64(counting(6), {3, 2}), rows}, {{3, 2}}, DimParams{0}) == Numbers{2, 3, 0, 0, 4, 6});
  const DimParams first{0};
  CHECK_THROWS_AS(run_raw(ref::index_select_entry, {a, i64({2})}, {Tensor::empty({1, 2}, DType::f64)}, &first), ValueError);
  CHECK_THROWS_AS(run_raw(ref::index_add_entry, {a, i64({0, -1})}, {Tensor::empty({2, 2}, DType::f64)}, &first), ValueError);
  CHECK(run1(ref::pad_entry, {a}, {{3, 4}}, PadParams{{1, 0}, {0, 2}, 9}) == Numbers{9, 9, 9, 9, 0, 1, 9, 9, 2, 3, 9, 9});
  CHECK(run1(ref::pad_entry, {f64(counting(5), {5})}, {{4}}, PadParams{{-2}, {1}, 7}) == Numbers{2, 3, 4, 7});
  CHECK(run1(ref::pad_entry, {f64(counting(2), {2})}, {{2}}, PadParams{{-3}, {3}, 7}) == Numbers{7, 7});
  CHECK(run1(ref::slice_backward_entry, {f64({1, 2, 3}, {3})}, {{7}}, SliceParams{0, 1, 2}) == Numbers{0, 1, 0, 2, 0, 3, 0});
}

TEST_CASE("ref random follows the generator, whatever the strides", "[ref]") {
  const RandomParams uniform{RandomKind::uniform, 7, 3, -1, 2};
  const auto u = run1(ref::random_entry, {}, {{50, 20}}, uniform);
  for (std::size_t i = 0; i < u.size(); ++i) {
    REQUIRE(u[i] == -1 + 3 * static_cast<double>(philox_uniform(7, 3, i)));
    REQUIRE((u[i] >= -1 && u[i] < 2));
  }
  // A range so small that rounding would reach its end.
  const Tensor tight = Tensor::empty({2000});
  const RandomParams narrow{RandomKind::uniform, 1, 0, 1, 1 + 0x1p-22};
  run_raw(ref::random_entry, {}, {tight}, &narrow);
  for (const float v : tight.span<float>()) REQUIRE(static_cast<double>(v) < narrow.b);
  const auto normal = run1(ref::random_entry, {}, {{40000}}, RandomParams{RandomKind::normal, 1, 0, 5, 2});
  double mean = 0, square = 0;
  for (const double v : normal) mean += v / 40000, square += (v - 5) * (v - 5) / 40000;
  CHECK(mean == Approx(5).margin(.05));
  CHECK(square == Approx(4).margin(.15));
  const auto mask = run1(ref::random_entry, {}, {{10000}}, RandomParams{RandomKind::dropout_mask, 1, 0, .2, 0});
  CHECK(std::count(mask.begin(), mask.end(), 1.25) + std::count(mask.begin(), mask.end(), 0.) == 10000);
  CHECK(std::count(mask.begin(), mask.end(), 0.) == Approx(2000).margin(150));
  CHECK(run1(ref::random_entry, {}, {{3}}, RandomParams{RandomKind::dropout_mask, 1, 0, 1, 0}) == Numbers{0, 0, 0});
  CHECK(run1(ref::random_entry, {}, {{3}}, RandomParams{RandomKind::dropout_mask, 1, 0, 0, 0}) == Numbers{1, 1, 1});
  const auto ints = run1(ref::random_entry, {}, {{1000}, DType::i64}, RandomParams{RandomKind::integer, 1, 0, -2, 3});
  for (double v = -2; v < 3; ++v) CHECK(std::count(ints.begin(), ints.end(), v) == Approx(200).margin(60));
}

TEST_CASE("ref topk_mask", "[ref]") {
  const auto topk = [](const Numbers& x, const std::vector<bool>& valid, double keep) {
    const auto n = static_cast<std::int64_t>(x.size());
    Tensor v = Tensor::empty({n}, DType::boolean);
    for (std::int64_t i = 0; i < n; ++i) v.data<bool>()[i] = valid[static_cast<std::size_t>(i)];
    return run1(ref::topk_mask_entry, {f64(x, {n}), v}, {{n}}, TopkParams{keep});
  };
  CHECK(topk({1, 9, 5, 7}, {true, false, true, true}, .7) == Numbers{0, 0, 1, 1});  // int(.7 * 3) = 2
  CHECK(topk({4, 4, 4, 4}, {true, true, true, true}, .5) == Numbers{1, 1, 0, 0});   // ties: lower index
  CHECK(topk({1, 2}, {true, true}, .1) == Numbers{0, 1});                           // at least one
  CHECK(topk({1, 2}, {false, false}, .7) == Numbers{0, 0});
  CHECK(topk({1, nan_, 3}, {true, true, true}, .4) == Numbers{0, 1, 0});
  CHECK(topk({1, 2}, {true, true}, 5) == Numbers{1, 1});
}

TEST_CASE("ref nms", "[ref]") {
  const auto nms = [](const Numbers& boxes, const Numbers& scores, const NmsParams& p) {
    const auto n = static_cast<std::int64_t>(scores.size());
    const auto out = run(ref::nms_entry, {f64(boxes, {n, 4}), f64(scores, {n})}, {{{n}, DType::i64}, {{1}, DType::i64}}, p);
    Numbers kept = out[0].to_vector();
    kept.resize(static_cast<std::size_t>(out[1].item_int()));
    return kept;
  };
  // 0 and 1 share 50 of 150; 2 lies apart; 3 lies inside of 0.
  const Numbers boxes{0, 0, 10, 10, 5, 0, 15, 10, 50, 50, 60, 60, 2, 2, 4, 4}, scores{.5, .9, .7, .6};
  CHECK(nms(boxes, scores, {.5, NmsMode::union_, 0}) == Numbers{1, 2, 3, 0});
  CHECK(nms(boxes, scores, {.3, NmsMode::union_, 0}) == Numbers{1, 2, 3});
  CHECK(nms(boxes, scores, {.5, NmsMode::min, 0}) == Numbers{1, 2, 3});  // 3 comes first and 0 contains it
  // Equal overlap stays: only more than the threshold goes.
  CHECK(nms({0, 0, 2, 1, 1, 0, 3, 1}, {1, 1}, {.5, NmsMode::min, 0}) == Numbers{0, 1});
  CHECK(nms({0, 0, 2, 1, 1, 0, 3, 1}, {1, 1}, {.49, NmsMode::min, 0}) == Numbers{0});
  // Whole pixels: 3x2 each, 2x2 shared.
  CHECK(nms({0, 0, 2, 1, 1, 0, 3, 1}, {1, 1}, {.65, NmsMode::min, 1}) == Numbers{0});
  CHECK(nms({0, 0, 2, 1, 1, 0, 3, 1}, {1, 1}, {.67, NmsMode::min, 1}) == Numbers{0, 1});
  CHECK(nms({}, {}, {}).empty());
  CHECK(nms({0, 0, 1, 1, 5, 5, 6, 6}, {nan_, .1}, {}) == Numbers{1, 0});
}

TEST_CASE("ref sgd and adam follow PyTorch", "[ref]") {
  const auto sgd = [](const SgdParams& p, double buffer) {
    const auto out = run(ref::sgd_entry, {f64({2}, {1})}, {{{1}, DType::f64, f64({10}, {1})}, {{1}, DType::f64, f64({buffer}, {1})}}, p);
    return Numbers{out[0].item(), out[1].item()};
  };
  SgdParams p;
  p.lr = .5;
  require_close(sgd(p, 3), {9, 3}, 1e-12);
  p.weight_decay = .1;  // gradient 2 + 1 = 3
  require_close(sgd(p, 3), {8.5, 3}, 1e-12);
  p.momentum = .5;
  p.first_step = true;  // the buffer begins as the gradient, not dampened
  p.dampening = .5;
  require_close(sgd(p, nan_), {8.5, 3}, 1e-12);
  p.first_step = false;
  require_close(sgd(p, 4), {10 - .5 * 3.5, 3.5}, 1e-12);
  p.dampening = 0;
  p.nesterov = true;
  require_close(sgd(p, 4), {10 - .5 * (3 + .5 * 5), 5}, 1e-12);

  const auto adam = [](const AdamParams& q, double m, double v) {
    const auto start = [](double x) { return f64({x}, {1}); };
    const auto out = run(ref::adam_entry, {f64({2}, {1})},
                         {{{1}, DType::f64, start(10)}, {{1}, DType::f64, start(m)}, {{1}, DType::f64, start(v)}}, q);
    return Numbers{out[0].item(), out[1].item(), out[2].item()};
  };
  AdamParams q;
  q.lr = .1;
  require_close(adam(q, 0, 0), {10 - .1 * 2 / (2 + 1e-8), .2, .004}, 1e-12);
  q.step = 2;
  const double m = .9 * .2 + .1 * 2, v = .999 * .004 + .001 * 4;
  const double step = .1 / (1 - .81) * m / (std::sqrt(v) / std::sqrt(1 - .999 * .999) + 1e-8);
  require_close(adam(q, .2, .004), {10 - step, m, v}, 1e-12);
  q.weight_decay = .1;
  q.decoupled = true;
  require_close(adam(q, .2, .004), {9.9 - step, m, v}, 1e-12);
  q.decoupled = false;
  q.step = 1;
  require_close(adam(q, 0, 0), {10 - .1 * 3 / (3 + 1e-8), .3, .009}, 1e-12);
}

TEST_CASE("run_kernel tries the levels from the top", "[dispatch]") {
  const Level before = max_cpu_level();
  const KernelList unary{&ref::unary_entry, &KernelTable::unary};
  const UnaryParams p{UnaryKind::square, 0, 0};
  const Tensor x = Tensor::from({1.f, 2.f, 3.f}, {3});
  for (int l = 0; l <= static_cast<int>(machine_cpu_level()); ++l) {
    set_max_cpu_level(static_cast<Level>(l));
    CHECK(max_cpu_level() == static_cast<Level>(l));
    const Tensor y = Tensor::empty({3});
    const View in[] = {x.view()}, out[] = {y.view()};
    run_kernel("square", unary, in, out, &p);
    CHECK(y.to_vector() == Numbers{1, 4, 9});
  }
  set_max_cpu_level(before);
  if (machine_cpu_level() < Level::amx) CHECK_THROWS_AS(set_max_cpu_level(Level::amx), ValueError);
  CHECK_THROWS_AS(set_max_cpu_level(Level::cuda), ValueError);

  static const KernelEntry shy{[](const KernelArgs&) {}, [](const KernelArgs&) { return "not today"; }};
  const View in[] = {x.view()};
  try {
    run_kernel("example", {&shy}, in, {}, nullptr);
    FAIL("an op without a kernel ran");
  } catch (const NotImplemented& e) {
    CHECK(std::string(e.what()) == "example: no kernel on cpu takes (f32[3]): ref: not today");
  }
}

}  // namespace mien
