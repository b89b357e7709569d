#include "../ops/values.h"
#include "mien/autograd/autograd.h"
#include "mien/autograd/checkpoint.h"
#include "mien/layers/layers.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

struct Block : Module {
  Conv2d conv{{.in = 8, .out = 8, .kernel = {3, 3}, .padding = {1, 1, 1, 1}, .bias = false}};
  BatchNorm2d bn{{.channels = 8}};
  PReLU act{8};
  Dropout drop{.25};
  Tensor forward(const Tensor& x) { return drop(act(bn(conv(x)))) + x; }
  void visit(Visitor& v) override {
    v("conv", conv);
    v("bn", bn);
    v("act", act);
  }
};

// One training step of four blocks: all gradients, running statistics, and the next random number.
std::vector<Values> step(bool with_checkpoints, std::int64_t* live_bytes = nullptr) {
  manual_seed(3);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int i = 0; i < 4; ++i) {
    blocks.push_back(std::make_unique<Block>());
    blocks.back()->require_grad();
  }
  Tensor x = randn({4, 8, 24, 24});
  set_requires_grad(x);
  Tensor h = x;
  for (auto& b : blocks) h = with_checkpoints ? checkpoint([&](const Tensor& t) { return b->forward(t); }, h) : b->forward(h);
  if (live_bytes) *live_bytes = cpu_allocator()->stats().live;
  backward(sum(square(h)));
  std::vector<Values> out{grad(x).to_vector(), rand({1}).to_vector()};
  for (auto& b : blocks) {
    for (const auto& p : b->parameters()) out.push_back(grad(p.value).to_vector());
    out.push_back(b->bn.running_mean.to_vector());
    out.push_back(b->bn.running_var.to_vector());
  }
  return out;
}

}  // namespace

TEST_CASE("checkpointing changes no bit of a training step and keeps less", "[autograd][checkpoint]") {
  std::int64_t plain = 0, checkpointed = 0;
  const auto wanted = step(false, &plain), got = step(true, &checkpointed);
  CHECK(got == wanted);
  CHECK(checkpointed * 2 < plain);
}

TEST_CASE("a checkpointed region whose inputs changed says so", "[autograd][checkpoint]") {
  Tensor w = ones({3}), x = ones({3});
  set_requires_grad(w);
  set_requires_grad(x);
  const auto f = [&](const Tensor& t) { return square(mul(t, w)); };
  {
    const Tensor y = checkpoint(f, x);
    {
      const NoGrad guard;
      copy_into(w, zeros({3}));
    }
    CHECK(message_of<ValueError>([&] { backward(sum(y)); }).find("changed in place") != std::string::npos);
  }
  const Tensor y = checkpoint(f, x);
  {
    const NoGrad guard;
    copy_into(x, zeros({3}));
  }
  CHECK(message_of<ValueError>([&] { backward(sum(y)); }).find("its input") != std::string::npos);
  int runs = 0;
  const Tensor z = checkpoint([&](const Tensor& t) { return ++runs == 1 ? square(mul(t, w)) : mul(t, w); }, x);
  CHECK(message_of<ValueError>([&] { backward(sum(z)); }).find("the second run saved") != std::string::npos);
}

TEST_CASE("checkpointed regions are not nested; without gradients they are plain calls", "[autograd][checkpoint]") {
  Tensor x = ones({2});
  set_requires_grad(x);
  const auto inner = [](const Tensor& t) { return square(t); };
  CHECK_THROWS_AS(checkpoint([&](const Tensor& t) { return checkpoint(inner, t); }, x), ValueError);
  const NoGrad guard;
  CHECK(checkpoint([&](const Tensor& t) { return checkpoint(inner, t); }, x).to_vector() == Values{1, 1});
}

TEST_CASE("gradients() works through checkpointed regions", "[autograd][checkpoint]") {
  Tensor x = f64({1, 2, 3});
  set_requires_grad(x);
  const Tensor y = sum(checkpoint([](const Tensor& t) { return square(square(t)); }, x));
  CHECK(gradients({&y, 1}, {&x, 1})[0].to_vector() == Values{4, 32, 108});
}

}  // namespace mien::test
