// bf16 in the kernels of every level: casts and max pooling, bit for bit as ref.
#include <cmath>
#include <cstring>
#include <limits>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/view.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

struct EveryLevel {
  Level before = max_cpu_level();
  ~EveryLevel() { set_max_cpu_level(before); }
  template <class F>
  void run(const F& f) const {
    for (int l = static_cast<int>(Level::base); l <= static_cast<int>(before); ++l) {
      set_max_cpu_level(static_cast<Level>(l));
      INFO("level " << name(static_cast<Level>(l)));
      f();
    }
  }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = contiguous(a), y = contiguous(b);
  return std::memcmp(x.raw_data(), y.raw_data(), static_cast<std::size_t>(x.numel() * item_size(x.dtype()))) == 0;
}

}  // namespace

TEST_CASE("casts to and from bf16 are ref's at every level", "[kernels]") {
  const NoGrad guard;
  manual_seed(5);
  Tensor x = randn({3, 7, 5, 37});
  const float odd[] = {0.f, -0.f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("1"), 3.4e38f, 1e-40f, 1.00390625f, 1.01171875f};
  std::copy(std::begin(odd), std::end(odd), x.data<float>());
  EveryLevel{}.run([&] {
    for (const Tensor& from : {x, channels_last(x), permute(x, {0, 3, 1, 2})}) {
      Tensor half[2], back[2];
      for (int k = 0; k < 2; ++k) {
        const KernelList list = k == 0 ? KernelList{&ref::copy_entry} : KernelList{nullptr, &KernelTable::copy};
        const auto to = [&](const Tensor& t, DType dtype) {
          const Tensor y = Tensor::empty(t.shape(), dtype, Layout::channels_last);
          const View in = t.view(), out = y.view();
          run_kernel("copy", list, {&in, 1}, {&out, 1}, nullptr);
          return y;
        };
        half[k] = to(from, DType::bf16);
        back[k] = to(half[k], DType::f32);
        CHECK(same_bits(to(half[k], DType::bf16), half[k]));
      }
      CHECK(same_bits(half[0], half[1]));
      CHECK(same_bits(back[0], back[1]));
    }
  });
}

TEST_CASE("max pooling of bf16 maps is ref's at every level", "[kernels]") {
  const NoGrad guard;
  manual_seed(6);
  const Tensor wide = channels_last(cast(randn({2, 90, 11, 13}), DType::bf16));
  EveryLevel{}.run([&] {
    for (const std::int64_t channels : {1, 16, 37, 64})
      for (const PoolParams& p : {PoolParams{.kernel = {3, 3}, .stride = {2, 2}}, PoolParams{.kernel = {2, 3}, .stride = {1, 2}, .padding = {1, 1}}, PoolParams{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}}) {
        const Tensor x = slice(wide, 1, 5, 5 + channels);
        const std::int64_t h = (11 + 2 * p.padding[0] - p.kernel[0]) / p.stride[0] + 1, w = (13 + 2 * p.padding[1] - p.kernel[1]) / p.stride[1] + 1;
        Tensor y[2];
        for (int k = 0; k < 2; ++k) {
          y[k] = Tensor::empty({2, channels, h, w}, DType::bf16, Layout::channels_last);
          const View in = x.view(), out = y[k].view();
          run_kernel("max_pool2d", k == 0 ? KernelList{&ref::max_pool2d_entry} : KernelList{nullptr, &KernelTable::max_pool2d}, {&in, 1}, {&out, 1}, &p);
        }
        CHECK(same_bits(y[0], y[1]));
      }
  });
}

TEST_CASE("windows outside the picture have no winner at every level", "[kernels]") {
  const NoGrad guard;
  manual_seed(7);
  // The one column lies between the two taps of every window.
  const PoolParams p{.kernel = {1, 2}, .stride = {1, 1}, .padding = {0, 1}, .dilation = {1, 2}};
  const Tensor x = channels_last(randn({2, 37, 3, 1}));
  EveryLevel{}.run([&] {
    for (const DType winners : {DType::u8, DType::i64}) {
      Tensor y[2], at[2];
      for (int k = 0; k < 2; ++k) {
        y[k] = Tensor::empty({2, 37, 3, 1}, DType::f32, Layout::channels_last);
        at[k] = Tensor::empty({2, 37, 3, 1}, winners, Layout::channels_last);
        const View in = x.view(), out[] = {y[k].view(), at[k].view()};
        run_kernel("max_pool2d", k == 0 ? KernelList{&ref::max_pool2d_entry} : KernelList{nullptr, &KernelTable::max_pool2d}, {&in, 1}, out, &p);
      }
      CHECK(same_bits(y[0], y[1]));
      CHECK(same_bits(at[0], at[1]));
      CHECK(at[0].to_vector()[0] == (winners == DType::u8 ? 255 : -1));
    }
  });
}

}  // namespace mien::test
