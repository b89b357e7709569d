#include <cmath>

#include "infer/nets.h"
#include "mien/infer/passes_impl.h"
#include "mien/kernels/kernel.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/matmul.h"
#include "mien/ops/norm.h"
#include "mien/ops/pool.h"
#include "mien/ops/prelu.h"
#include "mien/ops/shape.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

// The largest difference, relative to the largest value expected.
double difference(const Tensor& got, const Tensor& expected) {
  REQUIRE(got.shape() == expected.shape());
  const auto a = got.to_vector(), b = expected.to_vector();
  double worst = 0, largest = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(a[i] - b[i]) <= worst)) worst = std::abs(a[i] - b[i]);
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

std::vector<Tensor> eager(const infer::Forward& f, const Tensor& x) {
  const NoGrad guard;
  return f(std::span<const Tensor>(&x, 1));
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

infer::Forward one(const std::function<Tensor(const Tensor&)>& f) {
  return [f](std::span<const Tensor> x) { return std::vector<Tensor>{f(x[0])}; };
}

}  // namespace

TEST_CASE("fused plans agree with eager forward, for every net", "[infer]") {
  const double tolerance = max_cpu_level() == Level::base ? 2e-5 : 1e-5;  // Winograd rounds twice as often where there is no FMA
  for (const Net& net : all_nets())
    for (const auto& options : {infer::Options{}, infer::Options{.fuse = false}, infer::Options{.layout = false}}) {
      INFO(net.name << (options.fuse ? " fuse" : "") << (options.layout ? " layout" : ""));
      infer::Session session(infer::compile(net.forward, {images(net.input, 1)}, options));
      for (const std::int64_t n : {1, 3}) {
        const Tensor x = images(net.input, n, 11);
        const auto expected = eager(net.forward, x);
        const auto got = session.run({&x, 1});
        for (std::size_t i = 0; i < got.size(); ++i) {
          CHECK(difference(got[i], expected[i]) < tolerance);
          CHECK(got[i].is_contiguous() == expected[i].is_contiguous());
        }
      }
    }
}

TEST_CASE("bf16 plans agree with eager forward within the steps of bf16", "[infer]") {
  for (const Net& net : all_nets()) {
    INFO(net.name);
    infer::Session session(infer::compile(net.forward, {images(net.input, 1)}, {.dtype = DType::bf16}));
    const Tensor x = images(net.input, 2, 11);
    const auto expected = eager(net.forward, x);
    const auto got = session.run({&x, 1});
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].dtype() == DType::f32);
      CHECK(difference(got[i], expected[i]) < .05);
    }
  }
}

TEST_CASE("after fusion Inception-ResNet is convolutions and pools only", "[infer]") {
  const Net net = all_nets()[4];
  const std::string text = infer::compile(net.forward, {images(net.input, 1)})->dump();
  INFO(text);
  CHECK(count(text, "= packed_conv2d(") > 30);
  CHECK(count(text, "= conv2d(") == 0);
  for (const char* gone : {"channel_affine(", "relu(", "add(", "concat(", "affine(", "linear("}) CHECK(count(text, std::string("= ") + gone) == 0);
  CHECK(count(text, "= copy(") <= 3);  // the picture, and the pools' slices of the two reductions
  CHECK(count(text, "= max_pool2d(") == 3);
}

TEST_CASE("a plan drops the indices of a pool where nobody reads them", "[infer]") {
  const Tensor x = images({3, 9, 8}, 1);
  const auto pool = [](std::span<const Tensor> in) { return max_pool2d_with_indices(in[0], {.kernel = {3, 3}, .stride = {2, 2}}); };
  const auto unread = infer::compile([&](std::span<const Tensor> in) { return std::vector{pool(in).first}; }, {x});
  CHECK(count(unread->dump(), "= max_pool2d(") == 1);
  CHECK(count(unread->dump(), "with_indices") == 0);
  const auto read = infer::compile([&](std::span<const Tensor> in) { return std::vector{pool(in).first, pool(in).second}; }, {x});
  CHECK(count(read->dump(), "= max_pool2d_with_indices(") >= 1);
  infer::Session first(unread), both(read);
  const auto [values, indices] = pool({&x, 1});
  CHECK(first.run({&x, 1})[0].to_vector() == values.to_vector());
  const auto got = both.run({&x, 1});
  CHECK(got[0].to_vector() == values.to_vector());
  CHECK(got[1].to_vector() == indices.to_vector());
}

TEST_CASE("after fusion MTCNN's nets and MobileFaceNet have no lone activation", "[infer]") {
  for (const std::size_t k : {2u, 3u, 5u}) {
    const Net net = all_nets()[k];
    const std::string text = infer::compile(net.forward, {images(net.input, 1)})->dump();
    INFO(text);
    for (const char* gone : {"prelu(", "channel_affine(", "linear(", "conv2d(", "add("}) CHECK(count(text, std::string("= ") + gone) == 0);
  }
  // The heads of O-Net are one call with three outputs.
  const Net onet = all_nets()[3];
  CHECK(count(infer::compile(onet.forward, {images(onet.input, 1)})->dump(), "= packed_conv2d(") == 5);
}

TEST_CASE("each fusion alone", "[infer]") {
  const Tensor w1 = images({6, 3, 3}, 20, 2), w2 = images({20, 1, 1}, 20, 3), wd = images({1, 3, 3}, 20, 4), slope = full({1}, .3),
               scale = images({1}, 20, 6), shift = images({1}, 20, 7);
  const ConvParams same{.padding = {1, 1, 1, 1}};
  const Tensor w5 = reshape(images({100}, 20, 9), {20, 100, 1, 1}), grouped = images({3, 3, 3}, 4, 9), dense = images({6 * 9 * 8}, 5, 12),
               a7 = images({6}, 7, 3), bias7 = reshape(images({1}, 7, 4), {7}), a3 = images({7}, 3, 5), a4 = images({7}, 4, 6);
  const Tensor flat_scale = reshape(scale, {20}), flat_shift = reshape(shift, {20});
  const auto norm = [&](const Tensor& t) { return batch_norm(t, flat_scale, flat_shift, zeros({20}), ones({20})); };
  const struct {
    const char* name;
    std::function<Tensor(const Tensor&)> f;
    int calls;  // without views
  } cases[] = {
      {"scale", [&](const Tensor& x) { return conv2d(x, w1, {}, same) * 3.; }, 3},
      {"scale and shift", [&](const Tensor& x) { return affine(conv2d(x, w1, flat_shift, same), 2, .5); }, 3},
      {"norm and ReLU", [&](const Tensor& x) { return relu(norm(conv2d(x, w1, {}, same))); }, 3},
      {"one slope for all", [&](const Tensor& x) { return prelu(conv2d(x, w1, {}, same), slope); }, 3},
      {"leaky ReLU", [&](const Tensor& x) { return leaky_relu(conv2d(x, w1, {}, same), .1); }, 3},
      {"depthwise",
       [&](const Tensor& x) {
         return relu(norm(conv2d(conv2d(x, w1, {}, same), wd, {}, {.padding = {1, 1, 1, 1}, .groups = 20})));
       },
       4},
      {"residual, either side",
       [&](const Tensor& x) {
         const Tensor h = relu(conv2d(x, w1, {}, same)), y = relu(add(h, conv2d(h, w2)));
         return add(conv2d(y, w2), y);
       },
       5},
      {"residual of two convolutions", [&](const Tensor& x) { return relu(add(conv2d(x, w1, {}, same), conv2d(x, w1, flat_shift, same))); }, 4},
      {"activation before the sum stays before it",
       [&](const Tensor& x) {
         const Tensor h = conv2d(x, w1, {}, same);
         return add(h, relu(conv2d(h, w2)));
       },
       5},
      {"read twice: not fused",
       [&](const Tensor& x) {
         const Tensor h = conv2d(x, w1, {}, same);
         return add(exp(h), relu(h));
       },
       6},
      {"concat of convolutions, a pool, and a part twice",
       [&](const Tensor& x) {
         const Tensor h = conv2d(x, w1, {}, same), a = conv2d(h, w2), b = relu(conv2d(h, w2)),
                      p = max_pool2d(h, {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
         const Tensor inner = concat({a, p}, 1), c = concat({inner, b, conv2d(b, w2), p}, 1);
         return conv2d(c, w5);
       },
       -1},
      {"groups stay as they are", [&](const Tensor& x) { return relu(conv2d(x, grouped, {}, {.groups = 2})); }, 4},
      {"flatten in three orders",
       [&](const Tensor& x) {
         return concat(
             {linear(flatten(x, 1), dense), linear(flatten(permute(x, {0, 3, 2, 1}), 1), dense), linear(flatten(permute(x, {0, 2, 3, 1}), 1), dense)}, 1);
       },
       -1},
      {"linear chain",
       [&](const Tensor& x) {
         const Tensor h = prelu(linear(flatten(global_avg_pool2d(x), 1), a7, bias7), slope);
         return concat({linear(h, a3), sigmoid(linear(h, a4))}, 1);
       },
       -1},
  };
  for (const auto& c : cases) {
    INFO(c.name);
    const Tensor x = images({6, 9, 8}, 3, 21);
    const auto plan = infer::compile(one(c.f), {images({6, 9, 8}, 1)});
    INFO(plan->dump());
    infer::Session session(plan);
    CHECK(difference(session(x), c.f(x)) < 1e-5);
    if (c.calls >= 0) CHECK(plan->report().nodes == c.calls);
  }
}

TEST_CASE("maps for depthwise convolutions alone get gaps between pixels a power of two apart", "[infer]") {
  const ConvParams depthwise{.padding = {1, 1, 1, 1}, .groups = 128};
  const Tensor w = images({8, 1, 1}, 128, 2), wide = images({8, 1, 1}, 136, 2), w3 = images({1, 3, 3}, 128, 3), back = images({128, 1, 1}, 8, 4), w5 = images({1, 3, 3}, 136, 3);
  const struct {
    const char* name;
    std::function<Tensor(const Tensor&)> f;
    int strided;
  } cases[] = {
      {"read by a depthwise one", [&](const Tensor& x) { return conv2d(relu(conv2d(relu(conv2d(x, w)), w3, {}, depthwise)), back); }, 1},
      {"two in a row", [&](const Tensor& x) { return conv2d(conv2d(conv2d(conv2d(x, w), w3, {}, depthwise), w3, {}, depthwise), back); }, 2},
      {"read by another one as well",
       [&](const Tensor& x) {
         const Tensor h = conv2d(x, w);
         return add(conv2d(conv2d(h, w3, {}, depthwise), back), conv2d(h, back));
       },
       0},
      {"its own residual",
       [&](const Tensor& x) {
         const Tensor h = conv2d(x, w);
         return conv2d(add(h, conv2d(h, w3, {}, depthwise)), back);
       },
       0},
      {"an output", [&](const Tensor& x) { return conv2d(conv2d(x, w), w3, {}, depthwise); }, 1},
      {"no power of two", [&](const Tensor& x) { return conv2d(conv2d(x, wide), w5, {}, {.padding = {1, 1, 1, 1}, .groups = 136}); }, 0},
  };
  for (const auto& c : cases) {
    INFO(c.name);
    const Tensor x = images({8, 9, 7}, 3, 21);
    const auto plan = infer::compile(one(c.f), {images({8, 9, 7}, 1)});
    INFO(plan->dump());
    CHECK(count(plan->dump(), "strided in") == c.strided);
    infer::Session session(plan);
    CHECK(difference(session(x), c.f(x)) < 1e-5);
  }
}

TEST_CASE("a plan keeps its weights when the module changes", "[infer]") {
  LeNet net;
  net.eval();
  infer::Session session(infer::compile(net, images({1, 28, 28}, 1)));
  const Tensor x = images({1, 28, 28}, 2);
  const Tensor before = clone(session(x));
  {
    const NoGrad guard;
    for (auto& p : net.parameters()) fill(p.value, 0);
  }
  CHECK(same_bits(session(x), before));
}

}  // namespace mien::test
