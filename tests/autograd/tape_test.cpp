#include <chrono>
#include <cmath>
#include <thread>

#include "../ops/values.h"
#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

Tensor leaf(std::initializer_list<double> v) {
  Tensor t = f64(v);
  set_requires_grad(t);
  return t;
}

}  // namespace

TEST_CASE("backward fills the gradients of the leaves", "[autograd]") {
  Tensor w = leaf({1, 2, 3});
  const Tensor constant = f64({4, 5, 6}), y = sum(square(w) * constant);
  CHECK(requires_grad(y));
  CHECK_FALSE(is_leaf(y));
  CHECK(is_leaf(w));
  CHECK_FALSE(requires_grad(constant));
  CHECK_FALSE(grad(w).defined());
  backward(y);
  CHECK(grad(w).to_vector() == Values{8, 20, 36});
  CHECK_FALSE(grad(constant).defined());
  CHECK_FALSE(requires_grad(grad(w)));
  clear_grad(w);
  CHECK_FALSE(grad(w).defined());
}

TEST_CASE("gradients of several paths add up", "[autograd]") {
  SECTION("a diamond") {
    Tensor x = leaf({3});
    const Tensor a = square(x), b = x * 2.0;
    backward(a * b + a);  // 2 x^3 + x^2
    CHECK(grad(x).to_vector() == Values{6 * 9 + 6});
  }
  SECTION("one tensor on both sides") {
    Tensor x = leaf({3});
    backward(x * x);
    CHECK(grad(x).to_vector() == Values{6});
  }
  SECTION("a ladder with 2^60 paths is walked once per node") {
    Tensor x = leaf({1});
    Tensor y = x * 1.0;
    for (int i = 0; i < 60; ++i) y = y + y;
    backward(y);
    CHECK(grad(x).item() == std::ldexp(1.0, 60));
  }
  SECTION("paths of unequal length") {
    Tensor x = leaf({2});
    Tensor deep = x;
    for (int i = 0; i < 5; ++i) deep = deep * x;  // x^6
    backward(deep + x);
    CHECK(grad(x).item() == 6 * 32 + 1);
  }
  SECTION("in place, but not in memory that someone else holds") {
    Tensor x = leaf({1, 2});
    const Tensor m = x * 1.0, b = m * 2.0, c = m * 3.0, d = m * 4.0, a = m + f64({5, 5}), given = f64({10, 20});
    Tensor kept;
    register_hook(a, [&](const Tensor& g) {
      kept = g;
      return Tensor();
    });
    backward(b + c + d + a, given);  // the first gradient to reach m is a's, which is the caller's tensor
    CHECK(given.to_vector() == Values{10, 20});
    CHECK(kept.to_vector() == Values{10, 20});
    CHECK(grad(x).to_vector() == Values{100, 200});
  }
}

TEST_CASE("gradients accumulate over backward runs", "[autograd]") {
  Tensor w = leaf({1, 2});
  for (int i = 1; i <= 3; ++i) {
    backward(sum(square(w)));
    CHECK(grad(w).to_vector() == Values{2.0 * i, 4.0 * i});
  }
  set_grad(w, f64({7, 7}));
  backward(sum(w));
  CHECK(grad(w).to_vector() == Values{8, 8});
  CHECK_THROWS_AS(set_grad(w, f64({1})), ShapeError);
  CHECK_THROWS_AS(set_grad(w, f32({1, 2})), ShapeError);
}

TEST_CASE("leaves own their gradients", "[autograd]") {
  Tensor a = leaf({1, 2}), b = leaf({3, 4});
  const Tensor given = f64({10, 20});
  backward(a + b, given);  // one gradient for both, and it is the caller's tensor
  fill(grad(a), 0);
  CHECK(grad(b).to_vector() == Values{10, 20});
  CHECK(given.to_vector() == Values{10, 20});
  Tensor c = zeros({2, 3}, {.dtype = DType::f64});
  set_requires_grad(c);
  backward(sum(c));  // an expanded scalar
  CHECK(grad(c).is_contiguous());
  fill(slice(grad(c), 0, 0, 1), 5);
  CHECK(grad(c).to_vector() == Values{5, 5, 5, 1, 1, 1});
}

TEST_CASE("the gradient of an output that is not one element must be given and fit", "[autograd]") {
  Tensor w = leaf({1, 2});
  CHECK_THROWS_AS(backward(square(w)), ShapeError);
  CHECK_THROWS_AS(backward(square(w), f64({1})), ShapeError);
  CHECK_THROWS_AS(backward(square(w), f32({1, 1})), ShapeError);
  backward(square(w), f64({1, 10}));
  CHECK(grad(w).to_vector() == Values{2, 40});
  CHECK_THROWS_AS(backward(f64({1})), NotDifferentiable);
}

TEST_CASE("leaves are floating and not the result of an op", "[autograd]") {
  Tensor integers = i64({1});
  CHECK_THROWS_AS(set_requires_grad(integers), DTypeError);
  Tensor half = cast(f32({1}), DType::bf16);
  CHECK_THROWS_AS(set_requires_grad(half), DTypeError);
  Tensor w = leaf({1}), y = w * 2.0;
  CHECK_THROWS_AS(set_requires_grad(y), NotDifferentiable);
  set_requires_grad(w, false);
  CHECK_FALSE(requires_grad(w * 2.0));
}

TEST_CASE("a graph is released by backward unless it is retained", "[autograd]") {
  Tensor w = leaf({3});
  const Tensor y = square(w);
  backward(y, {}, {.retain_graph = true});
  backward(y);
  CHECK(grad(w).item() == 12);
  const std::string message = message_of<ValueError>([&] { backward(y); });
  CHECK(message.find("square") != std::string::npos);
  CHECK(message.find("retain_graph") != std::string::npos);
}

TEST_CASE("backward frees what was saved", "[autograd]") {
  const auto allocator = make_caching_allocator(0);
  const auto before = set_cpu_allocator(allocator);
  {
    Tensor w = rand({256, 256});
    set_requires_grad(w);
    const Tensor y = sum(exp(exp(w)));
    const auto held = allocator->stats().live;
    backward(y);
    clear_grad(w);
    CHECK(allocator->stats().live < held);
    CHECK(allocator->stats().live <= 256 * 256 * 4 + 4096);
  }
  CHECK(allocator->stats().live == 0);
  set_cpu_allocator(before);
}

TEST_CASE("graphs don't leak, whether they ran backward or not, once or twice", "[autograd]") {
  const auto allocator = make_caching_allocator(0);
  const auto before = set_cpu_allocator(allocator);
  {
    Tensor w = rand({10});
    set_requires_grad(w);
    const auto base = allocator->stats().live;
    { const Tensor y = sigmoid(tanh(w) * w); }
    CHECK(allocator->stats().live == base);
    {
      const Tensor y = sum(sigmoid(tanh(w)) / w);
      const Tensor g = gradients(std::span(&y, 1), std::span(&w, 1), {}, {.create_graph = true})[0];
      backward(sum(square(g)), {}, {.create_graph = true});
      clear_grad(w);
    }
    CHECK(allocator->stats().live == base);
  }
  CHECK(allocator->stats().live == 0);
  set_cpu_allocator(before);
}

TEST_CASE("changing a saved tensor in place is an error that names op and versions", "[autograd]") {
  Tensor w = leaf({1, 2});
  const Tensor x = f64({3, 4}), y = sum(w * x);
  fill(x, 9);
  const std::string message = message_of<ValueError>([&] { backward(y); });
  CHECK(message.find("mul") != std::string::npos);
  CHECK(message.find("f64[2]") != std::string::npos);
  CHECK(message.find("version 0 -> 1") != std::string::npos);

  const Tensor z = exp(w);  // saved output, changed through a view
  fill(slice(z.detach(), 0, 0, 1), 0);
  CHECK_THROWS_AS(backward(sum(z)), ValueError);
  const Tensor u = sum(w * x);
  backward(u);  // what changed before it was saved doesn't matter
  CHECK(grad(w).to_vector() == Values{9, 9});
}

TEST_CASE("no_grad and detach leave the graph", "[autograd]") {
  Tensor w = leaf({2});
  {
    const NoGrad off;
    CHECK_FALSE(grad_enabled());
    CHECK_FALSE(requires_grad(square(w)));
    {
      const GradMode on(true);
      CHECK(requires_grad(square(w)));
    }
    CHECK_FALSE(grad_enabled());
  }
  CHECK(grad_enabled());
  const Tensor d = square(w).detach();
  CHECK_FALSE(requires_grad(d));
  backward(w * d);
  CHECK(grad(w).item() == 4);  // d is a constant
  try {
    const NoGrad off;
    throw 1;
  } catch (int) {
  }
  CHECK(grad_enabled());
  bool other = false;
  const NoGrad off;
  std::thread([&] { other = grad_enabled(); }).join();
  CHECK(other);  // the mode belongs to the thread
}

TEST_CASE("gradients() gives derivatives by any tensor and accumulates nothing", "[autograd]") {
  Tensor w = leaf({3}), unused = leaf({1});
  const Tensor h = square(w), y = h * h + w;
  const Tensor by[] = {w, h, unused};
  const auto g = gradients(std::span(&y, 1), by);
  CHECK(g[0].item() == 4 * 27 + 1);
  CHECK(g[1].item() == 18);
  CHECK_FALSE(g[2].defined());
  CHECK_FALSE(grad(w).defined());

  const Tensor a = w * 2.0, b = w * 5.0, outs[] = {a, b}, weights[] = {f64({10}), f64({100})};
  CHECK(gradients(outs, std::span(&w, 1), weights)[0].item() == 520);
  const Tensor twice[] = {w, w}, same = w * 2.0;
  CHECK(gradients(std::span(&same, 1), twice)[1].item() == 2);
  CHECK(gradients(std::span<const Tensor>(&w, 1), std::span<const Tensor>(&w, 1))[0].item() == 1);  // of a leaf by itself
  const Tensor constant = f64({1});
  CHECK_THROWS_AS(gradients(std::span(&same, 1), std::span(&constant, 1)), NotDifferentiable);
  CHECK_THROWS_AS(gradients(outs, std::span(&w, 1), std::span(weights, 1)), ShapeError);
}

TEST_CASE("derivatives of derivatives", "[autograd]") {
  Tensor x = leaf({2});
  const auto derive = [&](const Tensor& y) { return gradients(std::span(&y, 1), std::span(&x, 1), {}, {.create_graph = true})[0]; };
  Tensor d = pow(x, 5);
  for (const double expected : {80.0, 160.0, 240.0, 240.0, 120.0}) {
    d = derive(d);
    CHECK(std::abs(d.item() - expected) < 1e-9);
  }
  Tensor w = leaf({1, 2});
  const Tensor y = sum(w * w * w);
  backward(y, {}, {.create_graph = true});
  const Tensor g = grad(w);
  clear_grad(w);
  CHECK(requires_grad(g));
  backward(sum(g));
  CHECK(grad(w).to_vector() == Values{6, 12});
}

TEST_CASE("hooks see and replace gradients", "[autograd]") {
  Tensor w = leaf({1, 2});
  std::vector<std::string> calls;
  const Tensor h = w * 3.0;
  register_hook(h, [&](const Tensor& g) {
    calls.push_back("h");
    CHECK(g.to_vector() == Values{10, 20});
    return g * 2.0;
  });
  register_hook(w, [&](const Tensor& g) {
    calls.push_back("w");
    CHECK(g.to_vector() == Values{60, 120});
    return Tensor();  // leaves it
  });
  register_hook(w, [&](const Tensor& g) { return g + 1.0; });
  on_grad_ready(w, [&](const Tensor& t) {
    calls.push_back("ready");
    CHECK(grad(t).to_vector() == Values{61, 121});
  });
  backward(h, f64({10, 20}));
  CHECK(grad(w).to_vector() == Values{61, 121});
  CHECK(calls == std::vector<std::string>{"h", "w", "ready"});
  CHECK_THROWS_AS(register_hook(f64({1}), [](const Tensor& g) { return g; }), NotDifferentiable);
  CHECK_THROWS_AS(on_grad_ready(h, [](const Tensor&) {}), NotDifferentiable);
}

TEST_CASE("a leaf is ready once per backward, after all its paths", "[autograd]") {
  Tensor w = leaf({2});
  int ready = 0;
  on_grad_ready(w, [&](const Tensor& t) {
    ++ready;
    CHECK(grad(t).item() == 4 + 3 + 1);
  });
  backward(square(w) + w * 3.0 + w);
  CHECK(ready == 1);
}

TEST_CASE("a hook keeps the meaning of the released graph when it throws", "[autograd]") {
  Tensor w = leaf({1});
  const Tensor y = w * 2.0;
  register_hook(y, [](const Tensor&) -> Tensor { throw ValueError("test", "from a hook"); });
  CHECK_THROWS_AS(backward(y, {}, {.retain_graph = true}), ValueError);
  CHECK(grad_enabled());
  CHECK_FALSE(grad(w).defined());
}

TEST_CASE("a chain of 100,000 ops runs and is taken apart without recursion", "[autograd]") {
  const auto start = std::chrono::steady_clock::now();
  {
    Tensor w = leaf({1});
    Tensor y = w;
    for (int i = 0; i < 100000; ++i) y = y + w;
    backward(y);
    CHECK(grad(w).item() == 100001);
    Tensor z = w;  // never run backward: destruction alone
    for (int i = 0; i < 100000; ++i) z = affine(z, 1, 0);
  }
  {
    Tensor w = leaf({1});
    Tensor y = w;
    for (int i = 0; i < 20000; ++i) y = sin(y);
    const Tensor g = gradients(std::span(&y, 1), std::span(&w, 1), {}, {.create_graph = true})[0];
    CHECK(requires_grad(g));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  INFO(seconds << " s");
  CHECK(seconds < 20);
}

TEST_CASE("anomaly mode names the op whose derivative made NaN or infinity", "[autograd]") {
  Tensor w = leaf({0, 1});
  const Tensor y = sum(sqrt(w) * 2.0);
  set_detect_anomaly(true);
  const std::string message = message_of<ValueError>([&] { backward(y); });
  set_detect_anomaly(false);
  CHECK(message.find("sqrt") != std::string::npos);
  CHECK(message.find("f64[2]") != std::string::npos);
  CHECK_FALSE(detect_anomaly());
  backward(sum(sqrt(w)));  // without the mode infinity flows
  CHECK(std::isinf(grad(w).to_vector()[0]));
}

TEST_CASE("needless gradients are not computed and constants save nothing", "[autograd]") {
  Tensor x = rand({4, 3}), w = rand({3, 2});
  set_requires_grad(w);
  const Tensor y = matmul(x, w);
  backward(y, ones({4, 2}));
  CHECK(grad(w).defined());
  CHECK_FALSE(grad(x).defined());
}

TEST_CASE("two threads run their own graphs", "[autograd]") {
  Values results(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < results.size(); ++t)
    threads.emplace_back([&results, t] {
      for (int i = 0; i < 50; ++i) {
        Tensor w = Tensor::from({static_cast<double>(t + 1)}, {1});
        set_requires_grad(w);
        backward(square(w) * w);
        results[t] = grad(w).item();
      }
    });
  for (auto& t : threads) t.join();
  CHECK(results == Values{3, 12, 27, 48});
}

}  // namespace mien::test
