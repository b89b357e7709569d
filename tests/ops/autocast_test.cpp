// 16 bits on the CPU: Autocast on machines with tiles, and every op on bf16 tensors by way of f32.
#include "mien/ops/autocast.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/models/facenet/inception_resnet_v1.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/pool.h"
#include "mien/ops/reduce.h"
#include "mien/ops/softmax.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/optim/optimizer.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = contiguous(a), y = contiguous(b);
  return x.dtype() == y.dtype() && x.shape() == y.shape() && std::memcmp(x.raw_data(), y.raw_data(), static_cast<std::size_t>(x.numel() * item_size(x.dtype()))) == 0;
}
double distance(const Tensor& a, const Tensor& b) {  // the largest, as a share of the largest value
  const NoGrad guard;
  const Tensor x = cast(contiguous(a.detach()), DType::f32), y = cast(contiguous(b.detach()), DType::f32);
  double largest = 0, apart = 0;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(y.data<float>()[i])));
    apart = std::max(apart, std::abs(static_cast<double>(x.data<float>()[i]) - static_cast<double>(y.data<float>()[i])));
  }
  return apart / largest;
}
bool has_tiles() { return max_cpu_level() == Level::amx; }

struct Threads {
  int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

// Losses of a few steps of a small net, and the gradient of the first.
struct Run {
  std::vector<double> losses;
  std::vector<Tensor> gradient;
};
Run train(DType dtype, int steps) {
  manual_seed(11);
  InceptionResnetV1 net({.embedding = 32, .dropout = 0, .classes = 5, .repeats = {1, 1, 1}, .divisor = 4});
  net.train();
  net.require_grad();
  Sgd sgd({.lr = .002, .momentum = .9});
  sgd.add_group(net.parameters());
  const Tensor x = randn({16, 3, 107, 107}, {.layout = Layout::channels_last});
  const Tensor labels = Tensor::from(std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0}, {16});
  Run run;
  for (int i = 0; i < steps; ++i) {
    const Autocast guard(dtype);
    const Tensor loss = cross_entropy(net.classify(net.forward(x)), labels);
    run.losses.push_back(loss.item());
    sgd.zero_grad();
    backward(loss);
    for (const auto& p : net.parameters()) {
      CHECK(grad(p.value).dtype() == DType::f32);
      if (i == 0) run.gradient.push_back(clone(grad(p.value)));
    }
    sgd.step();
  }
  return run;
}
double dot(const Tensor& a, const Tensor& b) { return sum(mul(cast(a, DType::f64), cast(b, DType::f64))).item(); }

}  // namespace

TEST_CASE("Autocast on the CPU stores the maps of convolutions in bf16 where there are tiles", "[ops][autocast]") {
  manual_seed(3);
  Tensor x = channels_last(randn({2, 20, 9, 7})), w = randn({33, 20, 3, 3}), b = randn({33});
  for (Tensor* t : {&x, &w, &b}) set_requires_grad(*t, true);
  const ConvParams p{.stride = {2, 1}, .padding = {1, 1, 1, 1}};
  const auto run = [&](DType dtype) {
    const Autocast guard(dtype);
    const Tensor y = conv2d(x, w, b, p);
    for (Tensor* t : {&x, &w, &b}) set_grad(*t, {});
    backward(sum(square(cast(y, DType::f32))));
    return std::vector<Tensor>{y, grad(x), grad(w), grad(b)};
  };
  const auto exact = run(DType::f32), half = run(DType::bf16), other = run(DType::f16);
  CHECK(exact[0].dtype() == DType::f32);
  CHECK(half[0].dtype() == (has_tiles() ? DType::bf16 : DType::f32));
  for (std::size_t i = 0; i < exact.size(); ++i) {
    INFO("tensor " << i);
    if (i > 0) CHECK(half[i].dtype() == DType::f32);
    CHECK(distance(half[i], exact[i]) < (has_tiles() ? 2e-2 : 1e-30));
    CHECK(same_bits(other[i], exact[i]));
  }
  const Autocast guard(DType::bf16);
  CHECK(conv2d(x, randn({20, 1, 3, 3}), {}, {.padding = {1, 1, 1, 1}, .groups = 20}).dtype() == DType::f32);  // depthwise
  CHECK(linear(cast(randn({3, 4}), DType::bf16), randn({5, 4})).dtype() == DType::f32);
}

TEST_CASE("what has no kernel for 16 bits is computed in f32 and rounded", "[ops][autocast]") {
  const NoGrad guard;
  manual_seed(4);
  const Tensor maps = channels_last(randn({2, 6, 5, 7})), rows = randn({4, 9});
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"sigmoid", [](const Tensor& x) { return sigmoid(x); }},
      {"log_softmax", [](const Tensor& x) { return log_softmax(x, 1); }},
      {"avg_pool2d", [](const Tensor& x) { return x.rank() == 4 ? avg_pool2d(x, {}) : x; }},
      {"max", [](const Tensor& x) { return max(x, {1}); }},
      {"strided add", [](const Tensor& x) { return add(slice(x, 0, 0, 1), slice(x, 0, 1, 2)); }},
      {"broadcast product", [](const Tensor& x) { return mul(x, slice(x, 1, 0, 1)); }}};
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const Tensor& from : {maps, rows})
      for (const auto& [name, op] : ops) {
        INFO(name << " of " << mien::name(dtype));
        const Tensor x = cast(from, dtype), y = op(x);
        CHECK(y.dtype() == dtype);
        CHECK(same_bits(y, cast(op(cast(x, DType::f32)), dtype)));
      }
  const Tensor a = cast(rows, DType::bf16);
  CHECK(same_bits(matmul(cast(a, DType::f32), cast(transpose(a, 0, 1), DType::f32)), matmul(a, transpose(a, 0, 1))));  // matmul widens what it gets
}

TEST_CASE("training in bf16 on the CPU follows training in f32, with the same bits for any number of threads", "[ops][autocast]") {
  const Threads restore;
  set_num_threads(1);
  const Run exact = train(DType::f32, 6), half = train(DType::bf16, 6);
  double both = 0, first = 0, second = 0;
  for (std::size_t i = 0; i < exact.gradient.size(); ++i) {
    both += dot(exact.gradient[i], half.gradient[i]);
    first += dot(exact.gradient[i], exact.gradient[i]);
    second += dot(half.gradient[i], half.gradient[i]);
  }
  CHECK(both / std::sqrt(first * second) > .9);  // f32 maps that are rounded for the products alone reach .95: masks flip where a value is next to 0
  for (std::size_t i = 0; i < exact.losses.size(); ++i) {
    INFO("step " << i << ": " << exact.losses[i] << " and " << half.losses[i]);
    CHECK(std::abs(half.losses[i] - exact.losses[i]) < .05 * exact.losses[i]);
  }
  CHECK((half.losses == exact.losses) == !has_tiles());
  for (const int threads : {2, 3, 4, 8}) {
    set_num_threads(threads);
    CHECK(train(DType::bf16, 3).losses == std::vector<double>(half.losses.begin(), half.losses.begin() + 3));
  }
}

}  // namespace mien::test
