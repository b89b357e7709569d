// Winograd's F(4x4, 3x3) beside direct sums in f64: weights packed for it, and the eager convolutions that choose it by themselves. That the kernels do what
// the form of the weights says is the conformance test's.
#include <cmath>

#include "catch.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/params.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/winograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/table.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

Tensor wide(const Tensor& t) { return cast(contiguous(t), DType::f64); }

// The largest difference from `wanted`, in parts of its largest value.
double error(const Tensor& got, const Tensor& wanted) {
  const auto a = wide(got).to_vector(), b = wanted.to_vector();
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

struct Case {
  std::int64_t n, c, o, h, w;
  Padding4 padding;
};
const Case cases[] = {{2, 32, 32, 17, 17, {1, 1, 1, 1}},  {2, 80, 192, 14, 15, {0, 0, 0, 0}}, {3, 192, 80, 12, 11, {2, 2, 2, 2}}, {5, 64, 33, 8, 8, {1, 1, 1, 1}},
                      {40, 32, 50, 4, 4, {1, 1, 1, 1}}, {2, 96, 32, 19, 21, {1, 0, 2, 1}}};

}  // namespace

TEST_CASE("the transforms of F(4x4, 3x3) make a convolution", "[winograd]") {
  // A^T [(G g) * (B^T d)] along one axis, for every unit of g and d.
  for (int tap = 0; tap < 3; ++tap)
    for (int at = 0; at < 6; ++at)
      for (int y = 0; y < 4; ++y) {
        double sum = 0;
        for (int k = 0; k < 6; ++k) sum += winograd::output[y][k] * winograd::weight[k][tap] * winograd::input[k][at];
        CHECK(std::abs(sum - (y + tap == at ? 1 : 0)) < 1e-14);
      }
}

TEST_CASE("weights packed for Winograd give the convolution", "[winograd]") {
  manual_seed(5);
  for (const Case& k : cases) {
    const Tensor x = channels_last(uniform({k.n, k.c, k.h, k.w}, -1, 1)), w = uniform({k.o, k.c, 3, 3}, -1, 1), bias = uniform({k.o}, -1, 1);
    PackedConvParams p;
    p.padding = k.padding;
    p.kernel = {3, 3};
    p.channels[0] = k.o;
    const Tensor wanted = packed_conv2d({channels_last(wide(x)), pack_conv_weights(wide(w), 1, DType::f64), wide(bias), {}, {}}, p)[0];
    INFO("C " << k.c << " O " << k.o);
    CHECK(error(packed_conv2d({x, pack_winograd_weights(w), bias, {}, {}}, p)[0], contiguous(wanted)) < 5e-6);
    // ref, in f64
    CHECK(error(packed_conv2d({channels_last(wide(x)), pack_winograd_weights(wide(w)), wide(bias), {}, {}}, p)[0], contiguous(wanted)) < 1e-13);
  }
}

TEST_CASE("eager convolution and its gradients stay near the direct sum where Winograd takes them", "[winograd]") {
  manual_seed(6);
  for (int l = static_cast<int>(Level::base); l <= std::min(static_cast<int>(machine_cpu_level()), static_cast<int>(Level::avx512)); ++l)
    for (const Case& k : cases) {
      const Tensor x = channels_last(uniform({k.n, k.c, k.h, k.w}, -1, 1)), w = uniform({k.o, k.c, 3, 3}, -1, 1), bias = uniform({k.o}, -1, 1);
      const std::int64_t oh = k.h + k.padding[0] + k.padding[1] - 2, ow = k.w + k.padding[2] + k.padding[3] - 2;
      REQUIRE((winograd::pays(k.c, k.o, oh, ow) && k.n * oh * ow >= 256));  // so few pixels that it would not be tried prove nothing
      const Tensor gy = channels_last(uniform({k.n, k.o, oh, ow}, -1, 1));
      ConvParams p;
      p.padding = k.padding;
      const auto compare = [&](const char* op, const KernelEntry& ref, const KernelEntry* KernelTable::*fast, const std::vector<Tensor>& in, const Shape& shape, Layout layout) {
        std::vector<View> views, wides;
        std::vector<Tensor> keep;
        for (const Tensor& t : in) views.push_back(t.view()), keep.push_back(wide(t)), wides.push_back(keep.back().view());
        const Tensor got = Tensor::empty(shape, DType::f32, layout), wanted = Tensor::empty(shape, DType::f64);
        const View out[] = {got.view()}, exact[] = {wanted.view()};
        run_kernel(op, {&ref}, wides, exact, &p);
        const KernelEntry& entry = *KernelList{nullptr, fast}.at(static_cast<Level>(l));
        const KernelArgs args{views, out, &p};
        REQUIRE((!entry.decline || !entry.decline(args)));
        const std::int64_t bytes = entry.workspace ? entry.workspace(args) : 0;
        const Tensor scratch = Tensor::empty({std::max<std::int64_t>(bytes, 1)}, DType::u8);
        KernelArgs with = args;
        with.workspace = scratch.view().data;
        entry.run(with);
        INFO(op << " at " << name(static_cast<Level>(l)) << " C " << k.c << " O " << k.o);
        CHECK(error(got, wanted) < 5e-6);
      };
      compare("conv2d", ref::conv2d_entry, &KernelTable::conv2d, {x, w, bias}, {k.n, k.o, oh, ow}, Layout::channels_last);
      compare("conv2d_grad_input", ref::conv2d_grad_input_entry, &KernelTable::conv2d_grad_input, {gy, w}, {k.n, k.c, k.h, k.w}, Layout::channels_last);
      compare("conv2d_grad_weight", ref::conv2d_grad_weight_entry, &KernelTable::conv2d_grad_weight, {gy, x}, {k.o, k.c, 3, 3}, Layout::contiguous);
    }
}

}  // namespace mien::test
