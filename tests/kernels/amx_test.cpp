// What multiplies on AMX tiles: bf16 planned convolutions beside ref, the accuracy of the two reduced precisions, and a training with them.
#include <cmath>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/kernels/ref/ref.h"
#include "mien/layers/layers.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/reduce.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

struct Restore {
  Precision precision = matmul_precision();
  int threads = num_threads();
  ~Restore() {
    set_matmul_precision(precision);
    set_num_threads(threads);
  }
};

struct Small : Module {
  Conv2d one{{.in = 3, .out = 32, .kernel = {3, 3}, .padding = {1, 1, 1, 1}}}, two{{.in = 32, .out = 48, .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1, 1, 1}}},
      three{{.in = 48, .out = 64}};
  BatchNorm2d norm1{{.channels = 32}}, norm2{{.channels = 48}};
  Linear last{{.in = 64, .out = 10}};
  Tensor forward(const Tensor& x) { return last(mean(relu(three(relu(norm2(two(relu(norm1(one(x)))))))), {2, 3})); }
  void visit(Visitor& v) override {
    v("one", one);
    v("norm1", norm1);
    v("two", two);
    v("norm2", norm2);
    v("three", three);
    v("last", last);
  }
};

bool no_tiles() {
  if (max_cpu_level() >= Level::amx) return false;
  WARN("MIEN-SKIP: this machine (or MIEN_MAX_ISA) has no level amx");
  return true;
}

std::int64_t die(std::int64_t low, std::int64_t high) { return static_cast<std::int64_t>(randint(low, high + 1, {1}).item()); }
std::vector<double> numbers(const Tensor& t) { return cast(contiguous(t), DType::f64).to_vector(); }

// A channels_last map of which channels [before, before + c) are the operand; every other value is NaN, and must still be.
struct Sliced {
  Sliced(const Shape& shape, DType dtype, bool filled) : before(die(0, 2) == 0 ? die(1, 40) : 0), after(die(0, 2) == 0 ? die(1, 9) : 0) {
    Shape all = shape;
    all[1] += before + after;
    wide = channels_last(cast(full(all, std::nan("")), dtype));
    part = slice(wide, 1, before, before + shape[1]);
    if (!filled) return;
    const View in[] = {cast(uniform(shape, -1, 1), dtype).view()}, out[] = {part.view()};
    run_kernel("copy", {&ref::copy_entry}, in, out, nullptr);
  }
  bool neighbours_intact() const {
    for (const auto& [from, to] : {std::pair{std::int64_t{0}, before}, std::pair{before + part.size(1), wide.size(1)}})
      if (from < to)
        for (const double v : numbers(slice(wide, 1, from, to)))
          if (!std::isnan(v)) return false;
    return true;
  }
  std::int64_t before, after;
  Tensor wide, part;
};

}  // namespace

// Maps that are cut into chunks of pictures, rows, columns and channels: those of the conformance harness are too small for it.
TEST_CASE("the gradient of the weights of large maps on tiles is that of f32", "[amx]") {
  if (no_tiles()) return;
  const Restore restore;
  const NoGrad guard;
  manual_seed(5);
  struct Case {
    const char* what;
    std::int64_t n, c, h, w, o, kernel, stride, dilation, padding;
  };
  for (const Case& k : {Case{"rows, three times 32 channels", 32, 80, 24, 20, 96, 3, 1, 1, 1}, Case{"columns of one row", 32, 16, 4, 120, 256, 3, 1, 1, 1},
                        Case{"two groups of pictures", 40, 33, 21, 19, 40, 3, 1, 1, 0}, Case{"more than 256 outputs", 32, 48, 10, 9, 304, 3, 1, 1, 1},
                        Case{"stride 2", 32, 40, 33, 31, 64, 3, 2, 1, 0}, Case{"stride 3 and dilation", 48, 24, 30, 28, 32, 3, 3, 2, 2}, Case{"1x1, several chunks", 19, 200, 17, 17, 72, 1, 1, 1, 0},
                        Case{"1x1, stride 2", 32, 128, 18, 15, 64, 1, 2, 1, 0}, Case{"sums larger than a chunk", 32, 384, 3, 3, 768, 1, 1, 1, 0}, Case{"few pictures, wide", 3, 40, 9, 400, 64, 5, 1, 1, 2},
                        Case{"few pictures, stride 2", 5, 24, 40, 90, 48, 3, 2, 1, 1}, Case{"a wide window", 32, 40, 21, 21, 48, 3, 1, 12, 12}, Case{"many taps of one pixel", 64, 64, 7, 7, 48, 7, 1, 1, 0},
                        Case{"three channels, stride 2", 9, 3, 61, 58, 33, 3, 2, 1, 0}, Case{"three channels, padded", 5, 3, 20, 23, 64, 3, 1, 1, 1}, Case{"one channel, 5x5", 4, 1, 28, 28, 20, 5, 1, 1, 4}}) {
    INFO(k.what);
    ConvParams p;
    p.stride = {k.stride, k.stride}, p.dilation = {k.dilation, k.dilation}, p.padding = {k.padding, k.padding, k.padding, k.padding};
    const auto side = [&](std::int64_t size) { return (size + 2 * k.padding - k.dilation * (k.kernel - 1) - 1) / k.stride + 1; };
    const Tensor x = channels_last(cast(uniform({k.n, k.c, k.h, k.w}, -1, 1), DType::bf16)), gy = channels_last(cast(uniform({k.n, k.o, side(k.h), side(k.w)}, -1, 1), DType::bf16));
    const Tensor exact_x = channels_last(cast(x, DType::f32)), exact_gy = channels_last(cast(gy, DType::f32)), exact = zeros({k.o, k.c, k.kernel, k.kernel}), got = zeros(exact.shape());
    const View exact_in[] = {exact_gy.view(), exact_x.view()}, in[] = {gy.view(), x.view()}, exact_out[] = {exact.view()}, out[] = {got.view()};
    const KernelList fast{nullptr, &KernelTable::conv2d_grad_weight};
    run_kernel("conv2d_grad_weight", fast, exact_in, exact_out, &p);
    const std::vector<double> wanted = numbers(exact);
    double largest = 0;
    for (const double v : wanted) largest = std::max(largest, std::abs(v));
    std::vector<double> first;
    for (const int threads : {1, 2, 3, 8}) {
      set_num_threads(threads);
      run_kernel("conv2d_grad_weight", fast, in, out, &p);
      const std::vector<double> values = numbers(got);
      double error = 0;
      for (std::size_t i = 0; i < values.size(); ++i) error = std::max(error, std::abs(values[i] - wanted[i]));
      CHECK(error < 2e-5 * largest);  // products of bf16 values are exact in f32: only the order of the sums differs
      if (first.empty()) first = values;
      CHECK(values == first);
    }
  }
}

TEST_CASE("the strided gradient of a large bf16 map on tiles is that of f32", "[amx]") {
  if (no_tiles()) return;
  const Restore restore;
  const NoGrad guard;
  manual_seed(6);
  struct Case {
    const char* what;
    std::int64_t n, c, h, w, o;
    Pair kernel, stride, dilation, padding;
  };
  for (const Case& k : {Case{"3x3", 33, 70, 37, 36, 96, {3, 3}, {2, 2}, {1, 1}, {0, 0}}, Case{"padded, odd strides", 7, 33, 20, 31, 40, {3, 5}, {3, 2}, {1, 1}, {1, 2}},
                        Case{"1x1: three of four positions have no tap", 16, 64, 18, 15, 64, {1, 1}, {2, 2}, {1, 1}, {0, 0}},
                        Case{"dilation that shares a factor with the stride", 4, 40, 30, 34, 24, {3, 3}, {4, 2}, {2, 3}, {2, 0}}, Case{"a stride beyond the kernel", 5, 20, 25, 26, 48, {2, 2}, {5, 3}, {1, 1}, {0, 0}},
                        Case{"padding beyond the kernel's reach", 3, 16, 9, 9, 32, {2, 1}, {2, 3}, {1, 1}, {3, 2}}}) {
    INFO(k.what);
    ConvParams p;
    p.stride = k.stride, p.dilation = k.dilation, p.padding = {k.padding[0], k.padding[0], k.padding[1], k.padding[1]};
    const auto side = [&](std::int64_t size, std::size_t i) { return (size + 2 * k.padding[i] - k.dilation[i] * (k.kernel[i] - 1) - 1) / k.stride[i] + 1; };
    const Tensor gy = channels_last(cast(uniform({k.n, k.o, side(k.h, 0), side(k.w, 1)}, -1, 1), DType::bf16)), exact_gy = channels_last(cast(gy, DType::f32));
    const Tensor w = cast(cast(uniform({k.o, k.c, k.kernel[0], k.kernel[1]}, -1, 1), DType::bf16), DType::f32);
    const Tensor exact = Tensor::empty({k.n, k.c, k.h, k.w}, DType::f32, Layout::channels_last), got = Tensor::empty(exact.shape(), DType::bf16, Layout::channels_last);
    const View exact_in[] = {exact_gy.view(), w.view()}, in[] = {gy.view(), w.view()}, exact_out[] = {exact.view()}, out[] = {got.view()};
    const KernelList fast{nullptr, &KernelTable::conv2d_grad_input};
    run_kernel("conv2d_grad_input", fast, exact_in, exact_out, &p);
    const std::vector<double> wanted = numbers(exact);
    std::vector<double> first;
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      fill(got, std::nan(""));
      run_kernel("conv2d_grad_input", fast, in, out, &p);
      const std::vector<double> values = numbers(got);
      bool near = true;
      for (std::size_t i = 0; i < values.size(); ++i) near = near && std::abs(values[i] - wanted[i]) <= 1e-4 + std::abs(wanted[i]) / 256;
      CHECK(near);
      if (first.empty()) first = values;
      CHECK(values == first);
    }
  }
}

TEST_CASE("a bf16 packed convolution on tiles is ref's", "[amx]") {
  if (no_tiles()) return;
  const Restore restore;
  const NoGrad guard;
  manual_seed(3);
  for (int number = 0; number < 200; ++number) {
    const auto pick = [](std::initializer_list<std::int64_t> v) { return v.begin()[die(0, static_cast<std::int64_t>(v.size()) - 1)]; };
    PackedConvParams p;
    p.kernel = {pick({1, 1, 3, 2}), pick({1, 1, 3, 7})};
    if (number % 3 == 0) p.kernel = {1, 1};
    p.stride = {pick({1, 1, 2}), pick({1, 1, 2})};
    p.dilation = {pick({1, 1, 2}), 1};
    p.padding = {pick({0, 1}), pick({0, 1}), pick({0, 3}), pick({0, 2})};
    if (number % 3 == 0) p.padding = {0, 0, 0, 0};
    p.activation = static_cast<Activation>(die(0, 2));
    p.outputs = static_cast<int>(pick({1, 1, 2, 3}));
    p.residual = p.outputs == 1 && die(0, 1);
    const std::int64_t c = pick({1, 3, 17, 32, 40, 64, 96}), n = pick({1, 2, 3, 5, 16, 17, 33}), h = die(5, 11), w = die(7, 19);
    const Sliced x({n, c, h, w}, DType::bf16, true);
    const std::int64_t oh = (h + p.padding[0] + p.padding[1] - p.dilation[0] * (p.kernel[0] - 1) - 1) / p.stride[0] + 1;
    const std::int64_t ow = (w + p.padding[2] + p.padding[3] - p.kernel[1]) / p.stride[1] + 1;
    const DType y_dtype = die(0, 1) ? DType::bf16 : DType::f32;
    std::vector<Tensor> packs;
    std::vector<Sliced> got, wanted;
    std::int64_t channels = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(p.outputs); ++i) {
      p.channels[i] = pick({1, 8, 16, 33, 48, 80});
      packs.push_back(pack_conv_weights(uniform({p.channels[i], c, p.kernel[0], p.kernel[1]}, -1, 1), 1, DType::bf16));
      got.emplace_back(Shape{n, p.channels[i], oh, ow}, y_dtype, false);
      wanted.emplace_back(Shape{n, p.channels[i], oh, ow}, DType::f32, false);
      channels += p.channels[i];
    }
    const Tensor weights = join_packed_weights(packs), bias = uniform({channels}, -1, 1), slope = uniform({channels}, -1, 1);
    const Sliced residual({n, p.channels[0], oh, ow}, DType::bf16, true);
    std::vector<View> in{x.part.view(), weights.view(), bias.view()}, out, exact;
    if (p.activation == Activation::prelu) in.push_back(slope.view());
    if (p.residual) in.push_back(residual.part.view());
    for (const auto& y : got) out.push_back(y.part.view());
    for (const auto& y : wanted) exact.push_back(y.part.view());
    run_kernel("packed_conv2d", {&ref::packed_conv2d_entry}, in, exact, &p);
    std::vector<std::vector<double>> first;
    for (const int threads : {1, 2, 3, 4, 8}) {
      set_num_threads(threads);
      run_kernel("packed_conv2d", {nullptr, &KernelTable::packed_conv2d}, in, out, &p);  // without ref: it must not decline
      for (std::size_t i = 0; i < got.size(); ++i) {
        INFO("case " << number << " x " << to_string(x.part.shape()) << " kernel " << p.kernel[0] << "x" << p.kernel[1] << " output " << i << " of " << p.channels[i] << ", threads " << threads);
        const auto values = numbers(got[i].part), ref = numbers(wanted[i].part);
        if (threads > 1) {
          CHECK(values == first[i]);
          continue;
        }
        first.push_back(values);
        double worst = 0;
        for (std::size_t k = 0; k < ref.size(); ++k) worst = std::max(worst, std::abs(values[k] - ref[k]) / std::max(1.0, std::abs(ref[k])));
        CHECK(worst < (y_dtype == DType::bf16 ? 0.0040 : 2e-5));  // half a unit of bf16
        CHECK(got[i].neighbours_intact());
      }
    }
    if (!p.residual || y_dtype != DType::bf16) continue;
    out[0] = residual.part.view();  // written over what is added
    run_kernel("packed_conv2d", {nullptr, &KernelTable::packed_conv2d}, in, out, &p);
    CHECK(numbers(residual.part) == first[0]);
  }
}

TEST_CASE("products in bf16 and bf16x3 are as exact as they say", "[amx]") {
  if (no_tiles()) return;
  const Restore restore;
  const NoGrad guard;
  manual_seed(4);
  const Tensor a = randn({64, 600}), b = randn({600, 48});
  const auto wanted = numbers(matmul(cast(a, DType::f64), cast(b, DType::f64)));
  const auto rounded = numbers(matmul(cast(cast(a, DType::bf16), DType::f64), cast(cast(b, DType::bf16), DType::f64)));
  // Root mean square of the error by sum |a*b|, which is about 600 * 2 / pi.
  const auto error = [](const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
    return std::sqrt(sum / static_cast<double>(x.size())) / (600 * .6366);
  };
  set_matmul_precision(Precision::f32);
  CHECK(error(numbers(matmul(a, b)), wanted) < 1e-7);
  set_matmul_precision(Precision::bf16x3);
  CHECK(error(numbers(matmul(a, b)), wanted) < 1e-6);
  set_matmul_precision(Precision::bf16);
  CHECK(error(numbers(matmul(a, b)), rounded) < 1e-7);
  CHECK(error(numbers(matmul(a, b)), wanted) > 1e-5);  // it is in use at all
}

TEST_CASE("a small net trains in bf16 as in f32", "[amx]") {
  if (no_tiles()) return;
  const Restore restore;
  const auto losses = [](Precision precision) {
    set_matmul_precision(precision);
    manual_seed(7);
    Small net;
    net.require_grad();
    Sgd optimizer({.lr = .05, .momentum = .9});
    optimizer.add_group(net.parameters());
    // Ten patterns with noise.
    const Tensor patterns = randn({10, 3, 12, 12});
    std::vector<double> out;
    for (int step = 0; step < 60; ++step) {
      const Tensor labels = randint(0, 10, {32});
      const Tensor x = channels_last(add(index_select(patterns, labels), mul(randn({32, 3, 12, 12}), full({}, .5))));
      const Tensor loss = cross_entropy(net.forward(x), labels);
      backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      out.push_back(loss.item());
    }
    return out;
  };
  const auto exact = losses(Precision::f32), half = losses(Precision::bf16), split = losses(Precision::bf16x3);
  const auto tail = [](const std::vector<double>& v) {
    double sum = 0;
    for (std::size_t i = v.size() - 10; i < v.size(); ++i) sum += v[i] / 10;
    return sum;
  };
  CHECK(half != exact);
  CHECK(std::abs(half[0] - exact[0]) < .02);
  CHECK(std::abs(split[0] - exact[0]) < 1e-4);
  CHECK(tail(exact) < .3 * exact[0]);
  CHECK(tail(half) < 1.2 * tail(exact) + .05);
  CHECK(tail(split) < 1.2 * tail(exact) + .05);
}

}  // namespace mien::test
