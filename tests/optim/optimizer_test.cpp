// Optimizers step by step against PyTorch's numbers, schedules, and the moving average of weights.
#include "mien/optim/optimizer.h"

#include "mien/autograd/autograd.h"
#include "mien/layers/layers.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/reduce.h"
#include "mien/ops/unary.h"
#include "mien/optim/ema.h"
#include "ops/values.h"

namespace mien::test {
namespace {

// Three steps down the sum of squares from (1, -2), in f64 (and f32 within its digits).
void trace(const std::function<std::unique_ptr<Optimizer>()>& make, const Values& expected) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Tensor p = cast(f64({1, -2}), dtype);
    set_requires_grad(p);
    const auto optimizer = make();
    optimizer->add_group({{"p", p}});
    for (int i = 0; i < 3; ++i) {
      backward(sum(square(p)));
      optimizer->step();
      optimizer->zero_grad();
    }
    CHECK(optimizer->steps() == 3);
    check_close(p.detach(), expected, dtype == DType::f64 ? 5e-12 : 1e-6);
  }
}
template <class O, class Options>
std::function<std::unique_ptr<Optimizer>()> with(const Options& options) {
  return [options] { return std::make_unique<O>(options); };
}

}  // namespace

TEST_CASE("three steps of each optimizer equal PyTorch's", "[optim]") {
  trace(with<Sgd>(SgdOptions{.lr = .1}), {.512, -1.024});
  trace(with<Sgd>(SgdOptions{.lr = .1, .momentum = .9}), {.062, -.124});
  trace(with<Sgd>(SgdOptions{.lr = .1, .momentum = .9, .weight_decay = .01, .nesterov = true}), {-.111651094259, .223302188518});
  trace(with<Adam>(AdamOptions{.lr = .1}), {.701586272946, -1.700623392046});
  trace(with<Adam>(AdamOptions{.lr = .1, .weight_decay = .01, .decoupled = true}), {.698911183158, -1.694944514385});
  trace(with<Adagrad>(AdagradOptions{.lr = .1}), {.780456181357, -1.775821515013});
}

TEST_CASE("Adagrad's other options, by hand", "[optim]") {
  // One parameter, gradient 2p. Accumulator from .1, the rate falls as 1 / (1 + .5 t), weight decay .2: the formulas in their plain form.
  Tensor p = f64({1.5});
  set_requires_grad(p);
  Adagrad optimizer({.lr = .1, .lr_decay = .5, .weight_decay = .2, .eps = 1e-10, .initial_accumulator = .1});
  optimizer.add_group({{"p", p}});
  double value = 1.5, total = .1;
  for (int t = 0; t < 5; ++t) {
    backward(sum(square(p)));
    optimizer.step();
    optimizer.zero_grad();
    const double g = 2 * value + .2 * value;
    total += g * g;
    value -= .1 / (1 + .5 * t) * g / (std::sqrt(total) + 1e-10);
    CHECK(p.detach().item() == Approx(value).epsilon(1e-13));
  }
  // A run that goes on from saved state takes the same steps.
  Tensor q = f64({p.detach().item()});
  set_requires_grad(q);
  Adagrad resumed({.lr = .1, .lr_decay = .5, .weight_decay = .2, .initial_accumulator = .1});
  resumed.add_group({{"p", q}});
  resumed.load_state_dict(optimizer.state_dict(), optimizer.steps());
  CHECK(resumed.state_dict()[0].name == "sum.p");
  for (int t = 0; t < 2; ++t) {
    for (auto* o : {&optimizer, &resumed}) o->zero_grad();
    backward(sum(square(p)));
    backward(sum(square(q)));
    optimizer.step();
    resumed.step();
    CHECK(p.detach().item() == q.detach().item());
  }
}

TEST_CASE("schedules are functions of the step", "[optim]") {
  CHECK(cosine_lr(.1, 0, 100) == Approx(.1));
  CHECK(cosine_lr(.1, 50, 100) == Approx(.05));
  CHECK(cosine_lr(.1, 25, 100, .02) == Approx(.02 + .08 * (1 + std::sqrt(.5)) / 2));
  CHECK(cosine_lr(.1, 100, 100, .02) == Approx(.02));
  CHECK(cosine_lr(.1, 1000, 100, .02) == Approx(.02));
  CHECK(poly_lr(.1, 0, 10) == Approx(.1));
  CHECK(poly_lr(.1, 5, 10) == Approx(.05));
  CHECK(poly_lr(.1, 5, 10, 2) == Approx(.025));
  CHECK(poly_lr(.1, 5, 10, 2, .02) == Approx(.04));
  CHECK(poly_lr(.1, 99, 10, 2) == 0);
  CHECK(warm_up_lr(.4, 0, 4) == Approx(.1));
  CHECK(warm_up_lr(.4, 2, 4) == Approx(.3));
  CHECK(warm_up_lr(.4, 3, 4) == .4);
  CHECK(warm_up_lr(.4, 4, 4) == .4);
  CHECK(warm_up_lr(.4, 0, 0) == .4);
  CHECK(warm_up_lr(cosine_lr(.1, 50, 100), 50, 100) == Approx(.05 * .51));
  CHECK(message_of<ValueError>([] { cosine_lr(.1, 0, 0); }) == "cosine_lr: expects total >= 1, got 0");
}

TEST_CASE("the moving average follows the weights, comes in and goes out", "[optim]") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const bool warm_up : {false, true}) {
      const Tensor p = cast(f64({1, -2, 3}), dtype);
      Ema ema({{"p", p}}, {.decay = .8, .warm_up = warm_up});
      Values shadow{1, -2, 3};
      for (int t = 0; t < 40; ++t) {
        fill(p, .25 * t);
        ema.update();
        const double decay = warm_up ? std::min(.8, (1.0 + t) / (10.0 + t)) : .8;
        for (double& s : shadow) s = decay * s + (1 - decay) * .25 * t;
      }
      const double tolerance = dtype == DType::f32 ? 1e-6 : 1e-13;
      check_close(ema.state_dict()[0].value, shadow, tolerance);
      CHECK(ema.updates() == 40);
      const Values last = p.to_vector();
      ema.swap();
      CHECK(ema.swapped());
      check_close(p, shadow, tolerance);
      check_close(ema.state_dict()[0].value, shadow, tolerance);  // the averages, wherever they are
      CHECK(message_of<ValueError>([&] { ema.update(); }) == "Ema: update while the averages are in the model. Call swap() first.");
      ema.swap();
      CHECK(p.to_vector() == last);

      const Tensor other = cast(f64({0, 0, 0}), dtype);
      Ema resumed({{"p", other}}, {.decay = .8, .warm_up = warm_up});
      resumed.load_state_dict(ema.state_dict(), ema.updates());
      fill(p, 7);
      fill(other, 7);
      ema.update();
      resumed.update();
      CHECK(resumed.state_dict()[0].value.to_vector() == ema.state_dict()[0].value.to_vector());
    }
}

TEST_CASE("the moving average of a whole net with its running statistics", "[optim]") {
  BatchNorm2d norm({.channels = 3});
  norm.require_grad();
  Ema ema(norm.state_dict());
  CHECK(ema.state_dict().size() == 4);
  CHECK(ema.state_dict()[2].name == "ema.running_mean");
  ema.update();
  ema.swap();  // in place, outside NoGrad, on parameters that require gradients
  ema.swap();
  CHECK(message_of<ValueError>([&] { ema.load_state_dict({}, 0); }) == "Ema: the saved state has no ema.weight. Was it saved by another model?");
  auto state = ema.state_dict();
  state.push_back({"ema.other", zeros({1})});
  CHECK(message_of<ValueError>([&] { ema.load_state_dict(state, 0); }) == "Ema: the saved state ema.other belongs to no value here. Was it saved by another model?");
  state = {{"ema.weight", zeros({4})}};
  CHECK(message_of<ValueError>([&] { ema.load_state_dict(state, 0); }) == "Ema: the saved state ema.weight is f32[4], the model's is f32[3]");
  CHECK(message_of<ValueError>([] { Ema({}, {.decay = 1}); }) == "Ema: expects 0 <= decay < 1, got 1.000000");
}

}  // namespace mien::test
