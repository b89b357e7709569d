// Gradient-check rows of convolution, pooling, resizing, activation with weights, normalisation and the losses.
#include "gradcheck_rows.h"
#include "mien/autograd/autograd.h"
#include "mien/ops/binary.h"
#include "mien/ops/conv.h"
#include "mien/ops/conv_block.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/norm.h"
#include "mien/ops/pool.h"
#include "mien/ops/prelu.h"
#include "mien/ops/reduce.h"
#include "mien/ops/residual.h"
#include "mien/ops/resize.h"
#include "mien/ops/softmax.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

using In = std::span<const Tensor>;

struct Adder {
  std::vector<GradRow>& rows;
  Generator generator{11};

  Tensor in(const Shape& shape, double low = -1, double high = 1) { return uniform(shape, low, high, {.dtype = DType::f64, .generator = &generator}); }
  // All values differ by at least 1/n: no ties for the step of the difference to cross.
  Tensor distinct(const Shape& shape) {
    const Tensor t = Tensor::empty(shape, DType::f64);
    const auto n = t.numel();
    auto v = t.span<double>();
    for (std::int64_t i = 0; i < n; ++i) v[static_cast<std::size_t>(i)] = static_cast<double>((i * 7919 + 13) % n) / static_cast<double>(n) - .5;
    return t;
  }
  Tensor away_from_zero(const Shape& shape) {
    const Tensor t = in(shape);
    for (double& v : t.span<double>()) v += v < 0 ? -.01 : .01;
    return t;
  }
  void row(const char* op, const std::string& variant, std::function<Tensor(In)> f, std::vector<Tensor> inputs, bool twice = false) {
    rows.push_back({op, variant, std::move(f), std::move(inputs), twice});
  }
};

void add_conv(Adder& a) {
  struct Case {
    const char* name;
    Shape x, w;
    ConvParams p;
  };
  const Case cases[] = {{"plain", {2, 2, 5, 5}, {3, 2, 3, 3}, {}},
                        {"stride 2", {1, 2, 6, 7}, {2, 2, 3, 3}, {.stride = {2, 2}}},
                        {"padding", {1, 2, 4, 4}, {2, 2, 3, 3}, {.padding = {1, 1, 1, 1}}},
                        {"asymmetric padding", {1, 1, 4, 5}, {2, 1, 3, 2}, {.padding = {0, 2, 1, 0}}},
                        {"dilation", {1, 1, 7, 8}, {2, 1, 3, 3}, {.dilation = {2, 3}}},
                        {"groups", {1, 4, 4, 4}, {6, 2, 2, 2}, {.groups = 2}},
                        {"depthwise", {2, 3, 5, 5}, {3, 1, 3, 3}, {.padding = {1, 1, 1, 1}, .groups = 3}},
                        {"depthwise, multiplier 2", {1, 3, 4, 4}, {6, 1, 3, 3}, {.groups = 3}},
                        {"rectangular kernel and stride", {1, 2, 7, 6}, {2, 2, 2, 3}, {.stride = {3, 1}, .padding = {1, 0, 0, 1}}},
                        {"1x1", {2, 3, 3, 3}, {2, 3, 1, 1}, {}},
                        {"kernel as large as the picture", {1, 2, 3, 3}, {2, 2, 3, 3}, {}},
                        {"batch of none", {0, 2, 4, 4}, {2, 2, 3, 3}, {}}};
  for (const auto& c : cases) {
    const ConvParams p = c.p;
    a.row("conv2d", c.name, [p](In in) { return conv2d(in[0], in[1], in[2], p); }, {a.in(c.x), a.in(c.w), a.in({c.w[0]})}, true);
    a.row("conv2d", std::string(c.name) + ", channels_last", [p](In in) { return conv2d(channels_last(in[0]), in[1], {}, p); }, {a.in(c.x), a.in(c.w)});
  }
  // The gradient ops by themselves: conv2d's second derivatives reach them, and the transposed convolution is one of them.
  const ConvTransposeOptions transposed[] = {{}, {.stride = {2, 2}, .padding = {1, 1}, .output_padding = {1, 0}}, {.stride = {1, 2}, .dilation = {2, 1}}, {.groups = 2}};
  for (const auto& o : transposed)
    a.row("conv2d_grad_input", "transposed, groups " + std::to_string(o.groups), [o](In in) { return conv_transpose2d(in[0], in[1], in[2], o); },
          {a.in({1, 2, 3, 4}), a.in({2, o.groups == 2 ? 1 : 2, 3, 3}), a.in({2})}, true);
  a.row("conv2d_grad_weight", "the derivative of conv2d by its weights",
        [](In in) {
          const GradMode on(true);
          Tensor w = zeros({2, 2, 2, 2}, {.dtype = DType::f64, .device = in[0].device()});
          set_requires_grad(w);
          const Tensor y = conv2d(in[1], w);
          return gradients({&y, 1}, {&w, 1}, {&in[0], 1}, {.create_graph = true})[0];
        },
        {a.in({1, 2, 3, 3}), a.in({1, 2, 4, 4})}, true);
}

void add_pool(Adder& a) {
  const PoolParams pools[] = {{}, {.kernel = {3, 3}, .stride = {2, 2}, .ceil_mode = true}, {.kernel = {3, 2}, .stride = {1, 2}, .padding = {1, 1}}, {.kernel = {2, 2}, .stride = {2, 1}, .dilation = {2, 1}},
                              {.kernel = {2, 2}, .stride = {2, 2}, .ceil_mode = true}};
  for (const auto& p : pools) {
    const std::string name = std::to_string(p.kernel[0]) + "x" + std::to_string(p.kernel[1]) + (p.ceil_mode ? ", ceil" : "") + (p.padding[0] ? ", padded" : "");
    a.row("max_pool2d", name, [p](In in) { return max_pool2d(in[0], p); }, {a.distinct({2, 2, 5, 6})});
    a.row("max_pool2d_with_indices", name, [p](In in) { return max_pool2d_with_indices(in[0], p).first; }, {a.distinct({2, 2, 5, 6})});
  }
  for (const auto& p : {PoolParams{.kernel = {1, 1}, .stride = {1, 1}}, PoolParams{.kernel = {3, 3}, .stride = {2, 2}, .ceil_mode = true}, PoolParams{.kernel = {2, 2}, .stride = {2, 2}}})
    for (const std::int64_t slopes : {2, 1})
      a.row("conv_block", "window " + std::to_string(p.kernel[0]) + (slopes == 1 ? ", one slope" : ""), [p](In in) { return conv_block(in[0], in[1], in[2], in[3], p); },
            {a.distinct({2, 3, 5, 6}), a.in({2, 3, 2, 3}), a.in({2}), a.in({slopes})});
  a.row("conv_block", "channels_last", [](In in) { return conv_block(channels_last(in[0]), in[1], in[2], in[3], {.kernel = {2, 2}, .stride = {2, 2}, .ceil_mode = true}); },
        {a.distinct({1, 3, 4, 4}), a.in({2, 3, 2, 2}), a.in({2}), a.in({2})});
  for (const bool include : {true, false})
    for (const bool ceil : {true, false}) {
      const PoolParams p{.kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 1}, .ceil_mode = ceil, .count_include_pad = include};
      a.row("avg_pool2d", std::string(include ? "padding counts" : "padding does not count") + (ceil ? ", ceil" : ""), [p](In in) { return avg_pool2d(in[0], p); }, {a.in({1, 2, 5, 5})}, true);
    }
  a.row("avg_pool2d", "divisor", [](In in) { return avg_pool2d(in[0], {.divisor_override = 3}); }, {a.in({1, 2, 4, 4})}, true);
  a.row("avg_pool2d_backward", "2x2", pulled_back({1, 2, 4, 4}, [](const Tensor& x) { return avg_pool2d(x, {}); }), {a.in({1, 2, 2, 2})}, true);
  for (const Pair size : {Pair{1, 1}, Pair{2, 3}, Pair{7, 5}}) {
    const std::string name = std::to_string(size[0]) + "x" + std::to_string(size[1]);
    a.row("adaptive_avg_pool2d", name, [size](In in) { return adaptive_avg_pool2d(in[0], size); }, {a.in({2, 2, 5, 4})}, true);
    for (const bool corners : {false, true})
      a.row("resize_bilinear", name + (corners ? ", corners" : ""), [=](In in) { return resize_bilinear(in[0], size, corners); }, {a.in({1, 2, 5, 4})}, true);
  }
  a.row("adaptive_avg_pool2d_backward", "to 2x3", pulled_back({1, 2, 5, 4}, [](const Tensor& x) { return adaptive_avg_pool2d(x, {2, 3}); }), {a.in({1, 2, 2, 3})}, true);
  a.row("resize_bilinear_backward", "to 7x3", pulled_back({1, 2, 5, 4}, [](const Tensor& x) { return resize_bilinear(x, {7, 3}); }), {a.in({1, 2, 7, 3})}, true);
}

void add_rest(Adder& a) {
  a.row("prelu", "a slope per channel", [](In in) { return prelu(in[0], in[1]); }, {a.away_from_zero({2, 3, 4}), a.in({3})});
  a.row("prelu", "one slope", [](In in) { return prelu(in[0], in[1]); }, {a.away_from_zero({2, 3, 2, 2}), a.in({1})});
  a.row("prelu", "channels_last", [](In in) { return prelu(channels_last(in[0]), in[1]); }, {a.away_from_zero({2, 3, 2, 4}), a.in({3})});
  for (const std::int64_t dim : {0, 1, -1}) {
    a.row("softmax", "dim " + std::to_string(dim), [dim](In in) { return softmax(in[0], dim); }, {a.in({3, 4, 2})}, true);
    a.row("softmax", "log, dim " + std::to_string(dim), [dim](In in) { return log_softmax(in[0], dim); }, {a.in({3, 4, 2})}, true);
  }
  for (const bool log : {false, true})
    a.row("softmax_backward", log ? "log" : "plain",
          [log](In in) {
            const GradMode on(true);
            Tensor x = in[1];
            if (!requires_grad(x)) {
              x = x.detach();
              set_requires_grad(x);
            }
            const Tensor y = log ? log_softmax(x, 1) : softmax(x, 1);
            return gradients({&y, 1}, {&x, 1}, {&in[0], 1}, {.create_graph = true})[0];
          },
          {a.in({2, 4}), a.in({2, 4})});
  for (const Shape& shape : {Shape{5, 3}, Shape{3, 2, 3, 2}}) {
    const std::int64_t c = shape[1];
    a.row("batch_norm", "training, " + to_string(shape),
          [c](In in) { return batch_norm(in[0], in[1], in[2], zeros({c}, {.dtype = DType::f64, .device = in[0].device()}), ones({c}, {.dtype = DType::f64, .device = in[0].device()}), {.training = true, .eps = 1e-3}); },
          {a.in(shape), a.in({c}), a.in({c})});
    a.row("batch_norm", "training with relu, " + to_string(shape),
          [c](In in) { return batch_norm(in[0], in[1], in[2], zeros({c}, {.dtype = DType::f64, .device = in[0].device()}), ones({c}, {.dtype = DType::f64, .device = in[0].device()}), {.training = true, .eps = 1e-3, .activation = Activation::relu}); },
          {a.in(shape), a.in({c}), a.in({c})});
    a.row("batch_norm", "training with prelu, " + to_string(shape),
          [c](In in) {
            return batch_norm(in[0], in[1], in[2], zeros({c}, {.dtype = DType::f64, .device = in[0].device()}), ones({c}, {.dtype = DType::f64, .device = in[0].device()}), {.training = true, .eps = 1e-3, .activation = Activation::prelu}, in[3]);
          },
          {a.in(shape), a.in({c}), a.in({c}), a.in({c})});
    a.row("channel_affine", "as batch_norm in eval mode, " + to_string(shape), [](In in) { return batch_norm(in[0], in[1], in[2], in[3], in[4]); },
          {a.in(shape), a.in({c}), a.in({c}), a.in({c}), a.in({c}, .5, 2)});
    a.row("batch_norm", "eval, " + to_string(shape), [](In in) { return batch_norm(in[0], in[1], in[2], in[3], in[4]); }, {a.in(shape), a.in({c}), a.in({c}), a.in({c}), a.in({c}, .5, 2)}, true);
  }
  // The loss sees the map and both moments.
  const auto all_of = [](const MomentMap& y) { return add(y.map, reshape(mul(y.mean, y.invstd), {1, y.mean.size(0), 1, 1})); };
  for (const ConvParams& p : {ConvParams{}, ConvParams{.stride = {2, 2}, .padding = {1, 1, 1, 1}, .groups = 3}}) {
    const std::string how = p.groups == 1 ? "1x1, " : "depthwise, ";
    const Shape w = p.groups == 1 ? Shape{4, 3, 1, 1} : Shape{3, 1, 3, 3};
    a.row("norm_conv", how + "x as it is", [=](In in) { return all_of(norm_conv({in[0], {}, {}}, {}, in[1], p, 1e-3)); }, {a.in({2, 3, 3, 4}), a.in(w)});
    for (const Activation act : {Activation::none, Activation::relu, Activation::prelu}) {
      std::vector<Tensor> inputs{a.in({2, 3, 3, 4}), a.in(w), a.in({3}), a.in({3}, .5, 2), a.in({3}), a.in({3})};
      if (act == Activation::prelu) inputs.push_back(a.in({3}));
      a.row("norm_conv", how + "activation " + std::to_string(static_cast<int>(act)),
            [=](In in) { return all_of(norm_conv({in[0], in[2], in[3]}, {in[4], in[5], in.size() > 6 ? in[6] : Tensor(), act}, in[1], p, 1e-3)); }, inputs);
    }
  }
  for (const bool added : {false, true}) {
    std::vector<Tensor> inputs{a.in({2, 3, 2, 3}), a.in({3}), a.in({3}, .5, 2), a.in({3}), a.in({3})};
    if (added) inputs.push_back(a.in({2, 3, 2, 3}));
    a.row("norm_add", added ? "and another map" : "alone", [](In in) { return norm_add({in[0], in[1], in[2]}, in[3], in[4], in.size() > 5 ? in[5] : Tensor()); }, inputs);
  }
  for (const bool relu : {false, true})
    a.row("residual", relu ? "relu" : "plain", [relu](In in) { return residual(in[0], in[1], .17, relu); }, {a.in({2, 3, 2, 2}), a.in({2, 3, 2, 2})}, true);
  const Tensor target = Tensor::from({std::int64_t{1}, std::int64_t{0}, std::int64_t{-100}, std::int64_t{2}}, {4});
  for (const Reduction r : {Reduction::none, Reduction::mean, Reduction::sum})
    for (const bool weighted : {false, true})
      for (const double smoothing : {0.0, .1}) {
        const Tensor weight = weighted ? Tensor::from({.5, 2.0, 1.5}, {3}) : Tensor();
        a.row("nll_loss", "cross entropy, smoothing " + std::to_string(smoothing) + (weighted ? ", weights" : "") + ", reduction " + std::to_string(static_cast<int>(r)),
              [=](In in) { return cross_entropy(in[0], beside(in, target), {.reduction = r, .label_smoothing = smoothing, .weight = beside(in, weight)}); }, {a.in({4, 3})}, true);
      }
  a.row("nll_backward", "through the derivative of nll",
        [target](In in) {
          const GradMode on(true);
          Tensor x = zeros({4, 3}, {.dtype = DType::f64, .device = in[0].device()});
          set_requires_grad(x);
          const Tensor y = nll_loss(x, beside(in, target), {.reduction = Reduction::none});
          return gradients({&y, 1}, {&x, 1}, {&in[0], 1}, {.create_graph = true})[0];
        },
        {a.in({4})}, true);
  const auto pair = [&](double low, double high) { return std::vector<Tensor>{a.in({3, 4}, low, high), a.in({3, 4}, .1, .9)}; };
  a.row("binary", "binary cross entropy", [](In in) { return binary_cross_entropy(in[0], in[1]); }, pair(.1, .9));
  a.row("binary", "binary cross entropy with logits", [](In in) { return binary_cross_entropy_with_logits(in[0], in[1]); }, pair(.1, 2));
  a.row("binary", "the same with negative logits and weights", [](In in) { return binary_cross_entropy_with_logits(in[0], in[1], Reduction::sum, in[2]); },
        {a.in({3, 4}, -2, -.1), a.in({3, 4}, .1, .9), a.in({4}, .5, 2)});
  a.row("binary", "mean squared error", [](In in) { return mse_loss(in[0], in[1]); }, pair(-1, 1), true);
  a.row("where", "smooth L1, near", [](In in) { return smooth_l1_loss(in[0], in[1], 2.5); }, pair(1, 2));
  a.row("where", "smooth L1, far", [](In in) { return smooth_l1_loss(in[0], in[1], .3); }, pair(2, 3));
  const Tensor mask = Tensor::from({true, false, true, true, false, true}, {6});
  a.row("where", "masked mean", [mask](In in) { return masked_mean(in[0], beside(in, mask)); }, {a.in({6})});
  a.row("where", "the hardest 70 %", [mask](In in) { return topk_mean(in[0], beside(in, mask), .7); }, {a.distinct({6})});
}

}  // namespace

void add_rows_nn(std::vector<GradRow>& rows) {
  Adder a{rows};
  add_conv(a);
  add_pool(a);
  add_rest(a);
}

}  // namespace mien::test
