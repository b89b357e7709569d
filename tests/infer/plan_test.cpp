#include <cstdlib>
#include <new>
#include <random>
#include <thread>

#include "infer/nets.h"
#include "mien/infer/program_impl.h"
#include "mien/infer/trace_impl.h"
#include "mien/kernels/parallel.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/nms.h"
#include "mien/ops/norm.h"
#include "mien/ops/pnet.h"
#include "mien/ops/pool.h"
#include "mien/ops/shape.h"
#include "mien/ops/softmax.h"
#include "mien/ops/table.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"
#include "mien/tensor/device_allocator.h"
#include "tensor/fake_device.h"

// clang links ThreadSanitizer's operator new into the program; a second one would not link.
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define MIEN_FOREIGN_NEW
#endif
#endif

// Every operator new of the test program, counted while `counting` is set on the thread.
namespace {
thread_local bool counting = false;
thread_local std::int64_t news = 0;
[[maybe_unused]] void* counted(std::size_t n) {
  if (counting) ++news;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
}  // namespace
#ifndef MIEN_FOREIGN_NEW
void* operator new(std::size_t n) { return counted(n); }
void* operator new[](std::size_t n) { return counted(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  try {
    return counted(n);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
#endif

namespace mien::test {
namespace {

constexpr infer::Options exact{.fuse = false, .layout = false};

infer::Forward one(const std::function<Tensor(const Tensor&)>& f) {
  return [f](std::span<const Tensor> x) { return std::vector<Tensor>{f(x[0])}; };
}
std::vector<Tensor> eager(const infer::Forward& f, const Tensor& x) {
  const NoGrad guard;
  return f(std::span<const Tensor>(&x, 1));
}
std::shared_ptr<const infer::Plan> plan_of(const Net& net, const infer::Options& options = exact, std::int64_t batch = 1) {
  return infer::compile(net.forward, {images(net.input, batch)}, options);
}
struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};

}  // namespace

TEST_CASE("a plan without fusion gives the bits of eager forward, for every net and batch", "[infer]") {
  for (const Net& net : all_nets()) {
    INFO(net.name);
    infer::Session session(plan_of(net));
    for (const std::int64_t n : {1, 3, 2, 5}) {
      INFO("batch " << n);
      const Tensor x = images(net.input, n, 7 + static_cast<std::uint64_t>(n));
      const auto expected = eager(net.forward, x);
      const auto got = session.run({&x, 1});
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
    }
  }
}

TEST_CASE("a plan without fusion gives the bits of eager forward where a kernel goes by the size of the batch", "[infer]") {
  const Tensor w = images({32, 3, 3}, 32, 2);  // by Winograd from 256 pixels of all images on
  const auto conv = one([w](const Tensor& t) { return conv2d(t, w, {}, ConvParams{.padding = {1, 1, 1, 1}}); });
  infer::Session session(infer::compile(conv, {channels_last(images({32, 8, 8}, 1))}, exact));
  const Tensor x = channels_last(images({32, 8, 8}, 6)), expected = eager(conv, x)[0];
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    CHECK(same_bits(session(x), expected));
  }
}

TEST_CASE("an input in another memory order is copied", "[infer]") {
  const Net net = all_nets()[3];
  infer::Session session(plan_of(net));
  const Tensor x = images(net.input, 2), expected = clone(session(x));
  CHECK(same_bits(session(channels_last(x)), expected));
}

TEST_CASE("a plan's results don't depend on the number of threads", "[infer]") {
  for (const Net& net : all_nets())
    for (const auto& options : {exact, infer::Options{}}) {
      INFO(net.name);
      const auto plan = plan_of(net, options);
      infer::Session session(plan);
      const Tensor x = images(net.input, 19);
      std::vector<Tensor> first;
      for (const int threads : {1, 2, 3, 7}) {
        const Threads scope(threads);
        const auto got = session.run({&x, 1});
        for (std::size_t i = 0; i < got.size(); ++i) {
          if (threads == 1)
            first.push_back(clone(got[i]));
          else
            CHECK(same_bits(got[i], first[i]));
        }
      }
    }
}

TEST_CASE("100 runs allocate nothing", "[infer]") {
  for (const Net& net : all_nets())
    for (const std::int64_t n : {1, 4}) {
      const auto options = n == 1 ? exact : infer::Options{};
      INFO(net.name << " batch " << n);
      infer::Session session(plan_of(net, options));
      const Tensor x = images(net.input, n);
      session(x);
      session(x);
      const auto before = cpu_allocator()->stats().allocations;
      news = 0;
      counting = true;
      for (int i = 0; i < 100; ++i) session(x);
      counting = false;
      CHECK(news == 0);
      CHECK(cpu_allocator()->stats().allocations == before);
    }
}

TEST_CASE("on a GPU a session keeps what it made for the shapes used last, within bounds", "[infer][device]") {
  if (!built_with_cuda()) MIEN_SKIP("built without CUDA: no kernel to plan with");
  FakeDevice device(std::int64_t{4} << 30);
  const Installed installed(device);
  const auto memory = device_allocator(Device::cuda());
  {
    infer::Session session(infer::compile(one([](const Tensor& x) { return sigmoid(relu(x)); }), {Tensor::empty({1, 3, 8, 8})}, {.device = Device::cuda(), .any_size = true}));
    const auto made = [&] { return std::ranges::count(device.calls(), "make_stream"); };  // a recording has a queue of its own
    const auto before = made();
    const auto batch = [&](std::int64_t n) { session.resize({n, 3, 8, 8}); };
    for (std::int64_t n = 1; n <= 8; ++n) batch(n);
    CHECK(made() - before == 8);
    for (int round = 0; round < 3; ++round)
      for (std::int64_t n = 8; n >= 1; --n) batch(n);
    CHECK(made() - before == 8);
    batch(9);  // 8 was used least recently
    batch(7);
    batch(1);
    CHECK(made() - before == 9);
    batch(8);
    CHECK(made() - before == 10);
    CHECK_THROWS_AS(session.resize({1, 4, 8}), ShapeError);
    batch(8);
    CHECK(made() - before == 10);

    // A thousand shapes, and a thousand again: what was reserved is enough.
    std::int64_t reserved = 0, largest = 0;
    for (int round = 0; round < 2; ++round) {
      std::mt19937 random(3);
      for (int i = 0; i < 1000; ++i) {
        const auto side = [&] { return static_cast<std::int64_t>(8 + random() % 250); };
        const std::int64_t h = side(), w = side();
        session.resize({static_cast<std::int64_t>(1 + random() % 4), 3, h, w});
        largest = std::max(largest, session.arena_bytes());
        if (round > 0) REQUIRE(memory->device_stats().reserved <= reserved);
      }
      if (round == 0) reserved = memory->device_stats().reserved;
    }
    CHECK(reserved <= 2 * largest);

    // Large ones: 512 MiB together, or one alone.
    constexpr std::int64_t MiB = std::int64_t{1} << 20;
    for (std::int64_t n = 1; n <= 8; ++n) session.resize({3 + n, 4, 1024, 1024});  // two maps of 16 MiB for each image
    CHECK(session.arena_bytes() <= 512 * MiB);
    session.resize({30, 4, 1024, 1024});
    CHECK(session.arena_bytes() >= 960 * MiB);
    const auto alone = made();
    session.resize({31, 4, 1024, 1024});
    session.resize({30, 4, 1024, 1024});
    CHECK(made() - alone == 2);

    // Little memory: what is kept for other shapes goes before a shape is refused.
    for (std::int64_t n = 1; n <= 6; ++n) session.resize({n, 4, 1024, 1024});
    const Tensor ballast = Tensor::empty({memory->largest_available() - 64 * MiB}, DType::u8, Layout::contiguous, Device::cuda());
    session.resize({11, 4, 1024, 1024});
    CHECK(message_of<OutOfMemory>([&] { session.resize({100, 4, 1024, 1024}); }).find("a session for inputs [100, 4, 1024, 1024] needs") != std::string::npos);
    session.resize({2, 4, 1024, 1024});
  }
  CHECK(memory->device_stats().live == 0);
}

TEST_CASE("1,000 random sizes leave memory flat", "[infer]") {
  const Net net = all_nets().back();
  const auto own = set_cpu_allocator(make_caching_allocator(0));
  {
    infer::Session session(plan_of(net, {.any_size = true}));
    const auto many_sizes = [&] {
      std::mt19937 random(3);
      for (int i = 0; i < 1000; ++i) {
        const auto side = [&] { return static_cast<std::int64_t>(12 + random() % 53); };
        const std::int64_t h = side(), w = side();
        session.resize({static_cast<std::int64_t>(random() % 3), 3, h, w});
      }
    };
    session.resize({2, 3, 64, 64});
    const auto largest = session.arena_bytes();
    many_sizes();
    const auto live = cpu_allocator()->stats().live, bytes = session.arena_bytes();
    CHECK(bytes < largest * 5 / 4);  // a smaller size may pack a little worse
    many_sizes();
    CHECK(session.arena_bytes() == bytes);
    CHECK(cpu_allocator()->stats().live == live);
  }
  set_cpu_allocator(own);
}

TEST_CASE("no memory for the arena: told with the sizes, and the session goes on with what fits", "[infer]") {
  const Net net = all_nets().back();
  infer::Session session(plan_of(net, {.any_size = true}));
  const Tensor small = images({3, 24, 24}, 1), large = images({3, 600, 600}, 1), expected = clone(session(small));
  const auto own = cpu_allocator();
  set_cpu_allocator(make_failing_allocator(own, 0));
  const std::string message = message_of<OutOfMemory>([&] { session.resize({large.shape()}); });
  set_cpu_allocator(own);
  CHECK(message.starts_with("infer: a session for inputs [1, 3, 600, 600] needs "));
  CHECK(message.ends_with("Use a smaller batch or picture."));
  CHECK(same_bits(session(small), expected));
  CHECK(session(large).size(2) == 295);
}

TEST_CASE("the pyramid: other sizes without a new trace", "[infer]") {
  const Net net = all_nets().back();
  int calls = 0;
  const auto counted_forward = [&](std::span<const Tensor> x) {
    ++calls;
    return net.forward(x);
  };
  for (const bool fuse : {false, true}) {
    calls = 0;
    infer::Session session(infer::compile(counted_forward, {images({3, 12, 12}, 1)}, {.fuse = fuse, .layout = fuse, .any_size = true}));
    for (const Shape& size : {Shape{3, 31, 47}, Shape{3, 12, 200}, Shape{3, 13, 12}}) {
      const Tensor x = images(size, 2);
      const auto expected = eager(net.forward, x);
      const auto got = session.run({&x, 1});
      for (std::size_t i = 0; i < got.size(); ++i) {
        REQUIRE(got[i].shape() == expected[i].shape());
        CHECK(got[i].is_contiguous() == expected[i].is_contiguous());
        if (!fuse) CHECK(same_bits(got[i], expected[i]));
      }
    }
    CHECK(calls == 1);
    CHECK_THROWS_WITH(session(images({3, 5, 12}, 1)),
                      Catch::Matchers::Contains("compiled for f32[1, 3, 12, 12]") && Catch::Matchers::Contains("f32[1, 3, 5, 12]"));
  }
}

TEST_CASE("a plan refuses shapes it was not compiled for and names both", "[infer]") {
  const Net net = all_nets()[5];
  infer::Session session(plan_of(net));
  CHECK_THROWS_WITH(session(images({3, 64, 64}, 2)), Catch::Matchers::Contains("compiled for f32[1, 3, 48, 48] or other batches, got f32[2, 3, 64, 64]"));
  CHECK_THROWS_AS(session(images({3, 48}, 1)), ShapeError);
  CHECK_THROWS_AS(session(cast(images(net.input, 1), DType::f64)), DTypeError);
  const Tensor x = images(net.input, 2);  // and works afterwards
  CHECK(same_bits(session(x), eager(net.forward, x)[0]));
}

TEST_CASE("a plan refuses sizes that a reshape or an expand cannot follow", "[infer]") {
  infer::Session split(infer::compile(one([](const Tensor& t) { return relu(reshape(t, {2, 2, 3})); }), {images({3}, 4)}, exact));
  CHECK_THROWS_WITH(split(images({3}, 3)), Catch::Matchers::Contains("compiled for f32[4, 3]") &&
                                               Catch::Matchers::Contains("reshape: expects a shape of 9 elements, got [2, 2, 3] for f32[3, 3]"));
  CHECK(split(images({3}, 8)).shape() == Shape{4, 2, 3});
  infer::Session copied(infer::compile(one([](const Tensor& t) { return relu(reshape(slice(t, 1, 0, 3), {2, 2, 3})); }), {images({4}, 4)}, exact));
  CHECK_THROWS_AS(copied(images({4}, 5)), ShapeError);
  CHECK(copied(images({4}, 4)).shape() == Shape{2, 2, 3});
  infer::Session repeat(infer::compile(one([](const Tensor& t) { return relu(expand(t, {4, 3})); }), {images({3}, 1)}, exact));
  CHECK_THROWS_WITH(repeat(images({3}, 2)), Catch::Matchers::Contains("expand: f32[2, 3] does not expand to [4, 3]"));
  CHECK(repeat(images({3}, 1)).shape() == Shape{4, 3});
}

TEST_CASE("a session does not read its own outputs", "[infer]") {
  const auto half = one([](const Tensor& t) { return t * .5; });
  infer::Session session(infer::compile(half, {images({6}, 2)}, exact));
  const Tensor x = images({6}, 4), once = eager(half, x)[0], &y = session(x);
  CHECK_THROWS_WITH(session(y), Catch::Matchers::Contains("infer: input 0 f32[4, 6] lies in the session's own memory") && Catch::Matchers::Contains("clone()"));
  CHECK_THROWS_AS(session(slice(y, 0, 1, 3)), ValueError);  // would be sized anew
  CHECK(same_bits(y, once));                                 // nothing has changed
  CHECK(same_bits(session(clone(y)), eager(half, once)[0]));
  CHECK(same_bits(session(x), once));
}

TEST_CASE("a call works in place only where its output lies as its input does", "[infer]") {
  // The first two channels of a map of three become the last two of another.
  const auto f = one([](const Tensor& x) {
    const Tensor high = relu(slice(exp(x), 1, 0, 2));
    return exp(concat({neg(slice(x, 1, 2, 3)), high}, 1));
  });
  const Tensor x = channels_last(images({3, 4, 4}, 1));
  infer::Graph g = infer::trace(f, {x});
  const auto concat = std::find_if(g.nodes.begin(), g.nodes.end(), [](const infer::Node& n) { return n.op == &op_concat; });
  REQUIRE(concat != g.nodes.end());
  for (std::size_t i = 0; i < 2; ++i) {
    g.value(concat->in[i]).inside = concat->out[0];
    g.value(concat->in[i]).channel = static_cast<std::int64_t>(i);
  }
  g.nodes.erase(concat);
  infer::Program program(g, std::make_shared<const infer::Sizes>(infer::size_graph(g, std::vector<Shape>{x.shape()})), 0, g.node_count());
  const Tensor arena = zeros({program.arena_bytes()}, {.dtype = DType::u8}), y = channels_last(zeros(x.shape()));
  program.bind_arena(arena.raw_data());
  program.bind_external(g.inputs[0], x.raw_data());
  program.bind_external(g.outputs[0], y.raw_data());
  program.run();
  CHECK(same_bits(y, eager(f, x)[0]));
}

TEST_CASE("a batch of 0 gives empty outputs", "[infer]") {
  for (const Net& net : all_nets())
    for (const auto& options : {exact, infer::Options{}}) {
      INFO(net.name);
      infer::Session session(plan_of(net, options));
      const Tensor x = images(net.input, 0);
      const auto expected = eager(net.forward, images(net.input, 1));
      const auto got = session.run({&x, 1});
      for (std::size_t i = 0; i < got.size(); ++i) {
        Shape shape = expected[i].shape();
        shape[0] = 0;
        CHECK(got[i].shape() == shape);
      }
    }
}

TEST_CASE("two threads in one session are told", "[infer]") {
  const Net net = all_nets()[6];
  infer::Session session(plan_of(net, exact));
  const Tensor x = images({3, 37, 50}, 1);
  session(x);
  std::atomic<int> refused{0}, inside{0};
  const auto loop = [&] {
    ++inside;
    while (inside < 2) {
    }
    for (int i = 0; i < 300; ++i) {
      try {
        session(x);
      } catch (const ValueError& e) {
        if (std::string(e.what()).find("two threads at once") != std::string::npos) ++refused;
      }
    }
  };
  std::thread other(loop);
  loop();
  other.join();
  CHECK(refused > 0);
}

TEST_CASE("a pool lends sessions to threads", "[infer]") {
  const Net net = all_nets()[2];
  infer::SessionPool pool(plan_of(net, {}));
  const Tensor x = images(net.input, 2);
  const Tensor expected = clone((*pool.take())(x));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const auto session = pool.take();
        if (!same_bits((*session)(x), expected)) ++wrong;
      }
    });
  for (auto& t : threads) t.join();
  CHECK(wrong == 0);
}

TEST_CASE("what cannot be traced is refused by name", "[infer]") {
  const Tensor x = images({4}, 3);
  CHECK_THROWS_WITH(infer::compile(one([](const Tensor& t) { return dropout(t, .5, true); }), {x}), Catch::Matchers::Contains("random"));
  CHECK_THROWS_WITH(infer::compile(one([](const Tensor& t) {
                                     return index_select(zeros({2, 2}), cast(t, DType::i64));
                                   }),
                                   {zeros({2})}),
                    Catch::Matchers::Contains("index_select"));
  CHECK_THROWS_WITH(infer::compile(one([](const Tensor& t) {
                                     const Tensor y = zeros({3, 4});
                                     copy_into(y, t);
                                     return y;
                                   }),
                                   {x}),
                    Catch::Matchers::Contains("in place"));
  CHECK_THROWS_WITH(infer::compile(one([](const Tensor&) { return zeros({2}); }), {x}), Catch::Matchers::Contains("does not depend on any input"));
  CHECK_THROWS_WITH(infer::compile(one([](const Tensor& t) { return t.as_strided({2}, {1}, 1) * 2; }), {x}), Catch::Matchers::Contains("as_strided"));
  PnetWeights weights;
  const Shape shapes[13] = {{10, 3, 3, 3}, {10}, {10}, {16, 10, 3, 3}, {16}, {16}, {32, 16, 3, 3}, {32}, {32}, {2, 32, 1, 1}, {2}, {4, 32, 1, 1}, {4}};
  for (std::size_t k = 0; k < 13; ++k) weights[k] = zeros(shapes[k]);
  CHECK_THROWS_WITH(infer::compile(one([&](const Tensor& sizes) { return pnet_candidates(zeros({3, 20, 20}, {.dtype = DType::u8}), sizes, weights, .5f).values; }),
                                   {full({1, 2}, 12, {.dtype = DType::i64})}),
                    Catch::Matchers::Contains("pnet_candidates checks or sizes its result by the values of input 1"));
  LeNet net;
  CHECK_THROWS_WITH(infer::compile(net, images({1, 28, 28}, 1)), Catch::Matchers::Contains("eval"));
}

TEST_CASE("odd forwards: inputs returned, views, constants, several inputs, sums over the batch", "[infer]") {
  const auto check = [](const infer::Forward& f, const std::vector<Tensor>& x) {
    for (const auto& options : {exact, infer::Options{}}) {
      infer::Session session(infer::compile(f, x, options));
      const NoGrad guard;
      const auto expected = f(x);
      for (int k = 0; k < 2; ++k) {
        const auto got = session.run(x);
        for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
      }
    }
  };
  const Tensor x = images({2, 3, 4}, 3), y = images({2, 3, 4}, 3, 8), w = images({3, 4}, 2);
  check([](std::span<const Tensor> in) { return std::vector<Tensor>{in[0], permute(in[0], {0, 3, 1, 2}), in[1].detach()}; }, {x, y});
  check([&](std::span<const Tensor> in) { return std::vector<Tensor>{relu(in[0] + in[1] * w) * 3., in[1] - in[0]}; }, {x, y});
  check([](std::span<const Tensor> in) { return std::vector<Tensor>{softmax(reshape(in[0], {3, 24}), 0), slice(exp(in[0]), 0, 1)}; }, {x});
  check(
      [](std::span<const Tensor> in) {
        const Tensor h = exp(in[0]);
        return std::vector<Tensor>{h + expand(slice(h, 1, 0, 1), h.shape()), concat({h, relu(h), in[0]}, 1), h};
      },
      {x});
  check(
      [](std::span<const Tensor> in) {  // in place would read what it overwrote
        const Tensor h = exp(in[0]);
        return std::vector<Tensor>{h * expand(slice(h, 1, 1, 2), h.shape())};
      },
      {x});
}

TEST_CASE("reports: sharing memory helps, text and picture name the calls", "[infer]") {
  const Net net = all_nets()[4];
  const auto plan = plan_of(net, exact);
  const infer::Report r = plan->report();
  CHECK(r.peak < r.unplanned / 4);
  CHECK(r.weights > 0);
  CHECK(plan->dump().find("conv2d(") != std::string::npos);
  CHECK(plan->svg().find("</svg>") != std::string::npos);
  const auto failing = set_cpu_allocator(make_caching_allocator(0, 1 << 17));
  infer::Session session(plan);
  CHECK_THROWS_WITH(session.resize({64, 3, 96, 96}), Catch::Matchers::Contains("bytes"));
  set_cpu_allocator(failing);
}

}  // namespace mien::test
