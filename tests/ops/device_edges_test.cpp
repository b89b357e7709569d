// Values at the edges, and sizes that the conformance test has not: what a GPU gives beside what the CPU gives. Skipped, with the reason, where no GPU can be used.
#include <cmath>
#include <limits>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/nms.h"
#include "mien/ops/op.h"
#include "mien/ops/reduce.h"
#include "mien/ops/resize.h"
#include "mien/ops/table.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

using Tensors = std::vector<Tensor>;
// `f` of the tensors here and on the GPU gives the same values; NaN where NaN is.
template <class F>
void on_both(const Tensors& in, const F& f, double tolerance = 0) {
  Tensors there;
  for (const auto& t : in) there.push_back(to(t, Device::cuda()));
  const std::vector<double> a = f(in).to_vector(), b = f(there).to_vector();
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO("element " << i << ": " << b[i] << " on the GPU, " << a[i] << " on the CPU");
    REQUIRE((a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) || std::abs(a[i] - b[i]) <= tolerance));
  }
}
// The gradient of the first tensor, with `g` as that of f's result.
template <class F>
auto gradient_of(const F& f, const Tensor& g) {
  return [f, g](const Tensors& in) {
    Tensor x = clone(in[0]);
    set_requires_grad(x);
    Tensors moved{x};
    moved.insert(moved.end(), in.begin() + 1, in.end());
    backward(f(moved), to(g, x.device()));
    return grad(x);
  };
}
template <class T>
std::vector<T> counted(std::int64_t n, T step, std::int64_t modulus) {
  std::vector<T> v;
  for (std::int64_t i = 0; i < n; ++i) v.push_back(static_cast<T>(static_cast<T>(i * 7919 % modulus) * step));
  return v;
}

}  // namespace

TEST_CASE("a GPU reduces NaN, infinities and integers as the CPU does", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  for (const std::int64_t length : {5, 300, 40000}) {
    std::vector<float> v = counted<float>(3 * length, .5f, 1009);
    v[1] = static_cast<float>(nan);
    v[static_cast<std::size_t>(length - 1)] = static_cast<float>(nan);
    v[static_cast<std::size_t>(length + 2)] = static_cast<float>(inf);
    v[static_cast<std::size_t>(length + 3)] = static_cast<float>(-inf);
    v[static_cast<std::size_t>(2 * length + 1)] = static_cast<float>(inf);
    v[static_cast<std::size_t>(2 * length + 4)] = static_cast<float>(inf);
    const Tensor x = Tensor::from(v, {3, length});
    INFO(length << " elements");
    on_both({x}, [](const Tensors& in) { return max(in[0], {1}); });
    on_both({x}, [](const Tensors& in) { return min(in[0], {1}); });
    on_both({x}, [](const Tensors& in) { return argmax(in[0], 1); });
    on_both({x}, [](const Tensors& in) { return argmin(in[0], 1); });
    on_both({x}, [](const Tensors& in) { return sum(in[0], {1}); });
    on_both({x}, [](const Tensors& in) { return max(in[0], {0}); });
    for (const DType dtype : {DType::i32, DType::i64, DType::u8, DType::boolean}) {
      const Tensor integers = cast(Tensor::from(counted<std::int64_t>(3 * length, 3, 67), {3, length}), dtype);
      INFO(name(dtype));
      on_both({integers}, [](const Tensors& in) { return sum(in[0], {1}); });
      on_both({integers}, [](const Tensors& in) { return max(in[0], {1}); });
      on_both({integers}, [](const Tensors& in) { return min(in[0], {0}); });
      on_both({integers}, [](const Tensors& in) { return argmax(in[0], 1); });
    }
  }
}

TEST_CASE("a GPU calculates with integers as the CPU does", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  const std::vector<std::int64_t> a{std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(), -7, 7, 0, 200, -1, 3}, b{-1, 2, 2, -2, 5, 100, -1, 3};
  for (const DType dtype : {DType::i64, DType::i32, DType::u8}) {
    const Tensors in{cast(Tensor::from(a, {8}), dtype), cast(Tensor::from(dtype == DType::u8 ? std::vector<std::int64_t>{255, 2, 2, 254, 5, 100, 255, 3} : b, {8}), dtype)};
    INFO(name(dtype));
    for (const auto f : {add, sub, mul, div, maximum, minimum, equal, not_equal, less, less_equal, greater, greater_equal}) {
      on_both(in, [f](const Tensors& t) { return f(t[0], t[1]); });
      on_both({expand(reshape(in[0], {8, 1}), {8, 8}), in[1]}, [f](const Tensors& t) { return f(t[0], expand(reshape(t[1], {1, 8}), {8, 8})); });  // strided
    }
  }
}

TEST_CASE("a GPU suppresses thousands of boxes, and mines thousands of losses, as the CPU does", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  for (const std::int64_t n : {64, 2500, 5000}) {
    std::vector<float> boxes, scores = counted<float>(n, .001f, 991);  // with ties
    for (std::int64_t i = 0; i < n; ++i) {
      const auto x = static_cast<float>(i * 37 % 400), y = static_cast<float>(i * 53 % 300), side = static_cast<float>(12 + i % 29);
      boxes.insert(boxes.end(), {x, y, x + side, y + side});
    }
    INFO(n << " boxes");
    for (const NmsMode mode : {NmsMode::union_, NmsMode::min})
      on_both({Tensor::from(boxes, {n, 4}), Tensor::from(scores, {n})}, [mode](const Tensors& in) { return nms(in[0], in[1], .4, mode); });
  }
  for (const std::int64_t n : {1000, 30011}) {
    std::vector<float> losses = counted<float>(n, -.25f, 4001);
    losses[17] = static_cast<float>(nan);
    losses[18] = static_cast<float>(inf);
    std::vector<std::uint8_t> counts;
    for (std::int64_t i = 0; i < n; ++i) counts.push_back(i % 3 != 0);
    INFO(n << " losses");
    for (const double keep : {.7, .01})
      on_both({Tensor::from(losses, {n}), cast(Tensor::from(counts, {n}), DType::boolean)}, [keep](const Tensors& in) { return apply(op_topk_mask, {in[0], in[1]}, TopkParams{keep}); });
  }
}

TEST_CASE("values that are not finite go through a GPU's derivatives as through the CPU's", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  for (const bool align : {false, true})
    for (const std::int64_t out : {3, 4, 8, 9}) {
      std::vector<float> g(static_cast<std::size_t>(out * out), 1.f);
      g[1] = static_cast<float>(inf);
      g[static_cast<std::size_t>(out * out - 1)] = static_cast<float>(inf);
      g[static_cast<std::size_t>(out)] = static_cast<float>(nan);
      INFO("resize_bilinear 4x4 to " << out << "x" << out << (align ? " with aligned corners" : ""));
      on_both({ones({1, 1, 4, 4})}, gradient_of([out, align](const Tensors& in) { return resize_bilinear(in[0], {out, out}, align); }, Tensor::from(g, {1, 1, out, out})), 1e-5);
    }
  const Tensor logits = Tensor::from(counted<float>(12, -.1f, 11), {4, 3}), target = Tensor::from(std::vector<std::int64_t>{0, 2, 1, 2}, {4});
  const Tensor weight = Tensor::from({static_cast<float>(nan), 1.f, 2.f}, {3});
  on_both({logits, target, weight}, gradient_of([](const Tensors& in) { return nll_loss(in[0], in[1], {.reduction = Reduction::none, .weight = in[2]}); }, ones({4})));

  // Matrices without a finite determinant: one point for a pixel, and no endless loop.
  const Tensor picture = Tensor::from(counted<float>(75, .01f, 97), {3, 5, 5});
  const std::vector<double> m{inf, 0, 0, 0, 1, 0, nan, 0, 0, 0, 1, 0, 1e200, 0, 0, 0, 1e200, 0, 1, .25, -1, .5, 2, .5};
  on_both({picture, Tensor::from(m, {4, 2, 3})}, [](const Tensors& in) { return warp_affine(in[0], in[1], {4, 6}); }, 1e-5);
}

// The layer's index_select refuses such labels; the kernel itself must not write beyond the centers.
TEST_CASE("the step of class centers on a GPU leaves rows out whose label is no class", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  static constexpr KernelList kernels{&ref::center_update_entry, &KernelTable::center_update};
  const auto step = [](const std::vector<float>& rows, const std::vector<std::int64_t>& labels, Device device) {
    const auto n = static_cast<std::int64_t>(labels.size());
    const Tensor f = to(Tensor::from(rows, {n, 3}), device), l = to(Tensor::from(labels, {n}), device), all = to(Tensor::from(counted<float>(21, .5f, 17), {7, 3}), device);
    const Tensor centers = slice(all, 0, 1, 6);  // a row before and one behind them
    const View in[] = {f.view(), l.view()}, out[] = {centers.view()};
    const CenterParams params{.rate = .5, .averaged = true};
    run_kernel("center_update", kernels, in, out, &params);
    return all.to_vector();
  };
  const std::vector<float> rows = counted<float>(12, .25f, 13), first_and_last{rows[0], rows[1], rows[2], rows[9], rows[10], rows[11]};
  CHECK(step(rows, {2, 5, -1, 4}, Device::cuda()) == step(first_and_last, {2, 4}, Device::cpu()));
}

TEST_CASE("conv_chain on a GPU declines layers whose pixels its tiles can't number", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  const KernelEntry* entry = op_conv_chain.kernels.at(Level::cuda);
  REQUIRE(entry != nullptr);
  const auto decline = [&](std::int64_t pictures) {
    const auto view = [](const Shape& shape) { return View{nullptr, DType::f32, shape, contiguous_strides(shape), Device::cuda()}; };
    const View in[] = {view({pictures, 3, 48, 48}), view({1, 27, 16}), view({16})}, out[] = {view({pictures, 16, 46, 46})};
    ConvChainParams params{.layers = 1};
    params.layer[0] = {.channels = 16, .kernel = 3};
    return entry->decline({in, out, &params, nullptr});
  };
  CHECK(decline(1000) == nullptr);
  CHECK(decline(2000000) != nullptr);  // 2^32 pixels
}

TEST_CASE("a GPU declines what is too large for every kernel of a composition, and lines that no launch can number", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  const auto view = [](const Shape& shape, DType dtype = DType::f32) { return View{nullptr, dtype, shape, contiguous_strides(shape), Device::cuda()}; };
  const auto reason = [](const KernelEntry* KernelTable::*op, const std::vector<View>& in, const std::vector<View>& out, const void* params) {
    const KernelEntry* entry = KernelList{nullptr, op}.at(Level::cuda);
    return entry->decline ? entry->decline({in, out, params, nullptr}) : nullptr;
  };
  for (const std::int64_t n : {1000, 2000000}) {  // 2^21 and 2^32 pixels
    const View x = view({n, 3, 48, 48}), y = view({n, 16, 46, 46}), w = view({16, 3, 3, 3}), c = view({16}), index = view({n, 16, 46, 46}, DType::u8);
    const ConvBlockParams block;
    const NormConvParams norm;
    const ConvParams conv;
    INFO(n << " pictures");
    CHECK((reason(&KernelTable::conv_block, {x, w, c, c}, {y, y, index}, &block) != nullptr) == (n > 1000));
    CHECK((reason(&KernelTable::conv_block_backward, {y, x, w, c, y, index}, {x, w, c, c}, &block) != nullptr) == (n > 1000));
    CHECK((reason(&KernelTable::norm_conv, {x, w}, {y, c, c}, &norm) != nullptr) == (n > 1000));
    CHECK((reason(&KernelTable::norm_conv_backward, {y, c, c, y, c, c, x, w}, {x, w}, &norm) != nullptr) == (n > 1000));
    CHECK((reason(&KernelTable::conv2d_grad_input_add, {y, w, x}, {x}, &conv) != nullptr) == (n > 1000));
  }
  for (const std::int64_t lines : {(std::int64_t{1} << 31) - 1, std::int64_t{1} << 31}) {
    const View x = view({lines, 3});
    const SoftmaxParams params{.dim = 1};
    CHECK((reason(&KernelTable::softmax, {x}, {x}, &params) != nullptr) == (lines > std::numeric_limits<std::int32_t>::max()));
    CHECK((reason(&KernelTable::softmax_backward, {x, x}, {x}, &params) != nullptr) == (lines > std::numeric_limits<std::int32_t>::max()));
  }
}

TEST_CASE("a GPU refuses dtypes that a reduction has no kernel for", "[cuda][edges]") {
  MIEN_NEEDS_CUDA();
  const Tensor x = ones({4}, {.device = Device::cuda()}), y = zeros({1}, {.dtype = DType::f64, .device = Device::cuda()});
  const View in[] = {x.view()}, out[] = {y.view()};
  const ReduceParams params{ReduceKind::sum};
  CHECK_THROWS_AS(run_kernel("reduce", op_reduce.kernels, in, out, &params), DTypeError);
}

}  // namespace mien::test
