// What the network ops refuse and in which words: one row a refusal, the whole message pinned. Those of the basic ops stand beside their values.
#include <functional>

#include "mien/ops/conv.h"
#include "mien/ops/conv_block.h"
#include "mien/ops/factory.h"
#include "mien/ops/loss.h"
#include "mien/ops/matmul.h"
#include "mien/ops/nms.h"
#include "mien/ops/norm.h"
#include "mien/ops/pool.h"
#include "mien/ops/prelu.h"
#include "mien/ops/resize.h"
#include "mien/ops/softmax.h"
#include "values.h"

namespace mien::test {
namespace {

Tensor t(const Shape& shape, DType dtype = DType::f32) { return zeros(shape, {.dtype = dtype}); }

struct Refusal {
  const char* expected;
  std::function<void()> call;
};

void check(const std::vector<Refusal>& rows) {
  for (const auto& [expected, call] : rows) {
    std::string got = "nothing was thrown";
    try {
      call();
    } catch (const Error& e) {
      got = e.what();
    }
    CHECK(got == expected);
  }
}

}  // namespace

TEST_CASE("convolutions name the shapes that do not fit", "[ops][error]") {
  const Tensor x = t({2, 3, 8, 9}), w = t({4, 3, 3, 3});
  check({
      {"conv2d: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { conv2d(t({3, 8, 9}), w); }},
      {"conv2d: weight expects 4 dimensions, got f32[4, 3, 3]",
       [&] { conv2d(x, t({4, 3, 3})); }},
      {"conv2d: weight expects 2 input channels, input has 3 (input f32[2, 3, 8, 9], weight f32[4, 2, 3, 3], groups 1).",
       [&] { conv2d(x, t({4, 2, 3, 3})); }},
      {"conv2d: groups must divide the 4 output channels (input f32[2, 3, 8, 9], weight f32[4, 1, 3, 3], groups 3)",
       [&] { conv2d(x, t({4, 1, 3, 3}), {}, {.groups = 3}); }},
      {"conv2d: bias expects [4], got f32[3] (input f32[2, 3, 8, 9], weight f32[4, 3, 3, 3], groups 1)",
       [&] { conv2d(x, w, t({3})); }},
      {"conv2d: bias expects [4], got f32[4, 1] (input f32[2, 3, 8, 9], weight f32[4, 3, 3, 3], groups 1)",
       [&] { conv2d(x, w, t({4, 1})); }},
      {"conv2d: the kernel is larger than the padded input (input f32[2, 3, 2, 9], weight f32[4, 3, 3, 3], groups 1). Pad the input or use a larger picture.",
       [&] { conv2d(t({2, 3, 2, 9}), w); }},
      {"conv2d: the kernel is larger than the padded input (input f32[2, 3, 8, 9], weight f32[4, 3, 3, 3], groups 1). Pad the input or use a larger picture.",
       [&] { conv2d(x, w, {}, {.dilation = {4, 1}}); }},
      {"conv2d: stride, dilation and groups must be at least 1, got 0",
       [&] { conv2d(x, w, {}, {.stride = {0, 1}}); }},
      {"conv2d: stride, dilation and groups must be at least 1, got 0",
       [&] { conv2d(x, w, {}, {.groups = 0}); }},
      {"conv2d: padding must not be negative, got -1. Cut with mien::slice.",
       [&] { conv2d(x, w, {}, {.padding = {-1, 0, 0, 0}}); }},
      {"conv2d: expects operands of one dtype, got f32[2, 3, 8, 9], f64[4, 3, 3, 3]. Cast with mien::cast(x, DType::f32).",
       [&] { conv2d(x, t({4, 3, 3, 3}, DType::f64)); }},
      {"conv2d: expects f32 or f64, got u8[2, 3, 8, 9]. Cast with mien::cast(x, DType::f32).",
       [&] { conv2d(t({2, 3, 8, 9}, DType::u8), t({4, 3, 3, 3}, DType::u8)); }},
      {"conv2d: an undefined tensor was given. Give it a value first.",
       [&] { conv2d(Tensor(), w); }},
      {"conv_transpose2d: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { conv_transpose2d(t({3, 8, 9}), w); }},
      {"conv_transpose2d: weight expects 4 input channels that the groups divide, input has 3 (input f32[2, 3, 8, 9], weight f32[4, 3, 3, 3], groups 1)",
       [&] { conv_transpose2d(x, w); }},
      {"conv_transpose2d: weight expects 3 input channels that the groups divide, input has 3 (input f32[2, 3, 8, 9], weight f32[3, 4, 3, 3], groups 2)",
       [&] { conv_transpose2d(x, t({3, 4, 3, 3}), {}, {.groups = 2}); }},
      {"conv_transpose2d: bias expects [4], got f32[3]",
       [&] { conv_transpose2d(x, t({3, 4, 3, 3}), t({3})); }},
      {"conv_transpose2d: output_padding must be below the larger of stride and dilation, got 1",
       [&] { conv_transpose2d(x, t({3, 4, 3, 3}), {}, {.output_padding = {1, 0}}); }},
      {"conv_transpose2d: the output would be empty (input f32[2, 3, 1, 1], weight f32[3, 4, 3, 3], groups 1). Use less padding.",
       [&] { conv_transpose2d(t({2, 3, 1, 1}), t({3, 4, 3, 3}), {}, {.padding = {2, 2}}); }},
  });
}

TEST_CASE("a convolution block names the shapes that do not fit", "[ops][error]") {
  const Tensor x = t({2, 3, 8, 9}), w = t({4, 3, 3, 3}), four = t({4});
  check({
      {"conv_block: the input expects 4 dimensions, got f32[3, 8, 9]", [&] { conv_block(t({3, 8, 9}), w, four, four); }},
      {"conv_block: weight expects 5 input channels, input has 3 (f32[2, 3, 8, 9], f32[4, 5, 3, 3], f32[4], f32[4])", [&] { conv_block(x, t({4, 5, 3, 3}), four, four); }},
      {"conv_block: bias and slope expect a value for each of 4 output channels, got f32[2, 3, 8, 9], f32[4, 3, 3, 3], f32[4], f32[3]. One slope for all is allowed, too.",
       [&] { conv_block(x, w, four, t({3})); }},
      {"conv_block: the kernel is larger than the input (f32[2, 3, 2, 9], f32[4, 3, 3, 3], f32[4], f32[4])", [&] { conv_block(t({2, 3, 2, 9}), w, four, four); }},
      {"conv_block: the window [7, 2] is larger than the padded input map f32[2, 4, 6, 7]. Pad the input or use a smaller window.",
       [&] { conv_block(x, w, four, four, {.kernel = {7, 2}}); }},
      {"conv_block: expects a window without padding and dilation and with at most 255 places. Compose conv2d, prelu and max_pool2d instead.",
       [&] { conv_block(x, w, four, four, {.kernel = {2, 2}, .padding = {1, 1}}); }},
  });
}

TEST_CASE("pooling and resizing name the shapes that do not fit", "[ops][error]") {
  const Tensor x = t({2, 3, 8, 9});
  check({
      {"max_pool2d: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { max_pool2d(t({3, 8, 9}), {.kernel = {2, 2}}); }},
      {"max_pool2d: kernel, stride and dilation must be at least 1, got 0",
       [&] { max_pool2d(x, {.kernel = {0, 2}}); }},
      {"max_pool2d: the window [9, 2] is larger than the padded input f32[2, 3, 8, 9]. Pad the input or use a smaller window.",
       [&] { max_pool2d(x, {.kernel = {9, 2}}); }},
      {"max_pool2d: padding must be at most half of the kernel, got 2 for a kernel of 3",
       [&] { max_pool2d(x, {.kernel = {3, 3}, .padding = {2, 0}}); }},
      {"max_pool2d: expects f32 or f64, got i64[2, 3, 8, 9]. Cast with mien::cast(x, DType::f32).",
       [&] { max_pool2d(t({2, 3, 8, 9}, DType::i64), {.kernel = {2, 2}}); }},
      {"avg_pool2d: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { avg_pool2d(t({3, 8, 9}), {.kernel = {2, 2}}); }},
      {"avg_pool2d: the window [2, 10] is larger than the padded input f32[2, 3, 8, 9]. Pad the input or use a smaller window.",
       [&] { avg_pool2d(x, {.kernel = {2, 10}}); }},
      {"adaptive_avg_pool2d: the input expects 4 dimensions, got f32[3, 8]",
       [&] { global_avg_pool2d(t({3, 8})); }},
      {"adaptive_avg_pool2d: the output size must be at least 1x1, got 0x3",
       [&] { adaptive_avg_pool2d(x, {0, 3}); }},
      {"adaptive_avg_pool2d: the input has no pixels: f32[2, 3, 0, 9]",
       [&] { adaptive_avg_pool2d(t({2, 3, 0, 9}), {2, 2}); }},
      {"adaptive_avg_pool2d: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { adaptive_avg_pool2d(t({3, 8, 9}), {2, 2}); }},
      {"resize_bilinear: the input expects 4 dimensions, got f32[3, 8, 9]",
       [&] { resize_bilinear(t({3, 8, 9}), {2, 2}); }},
      {"resize_bilinear: the output size must be at least 1x1, got 4x-1",
       [&] { resize_bilinear(x, {4, -1}); }},
      {"resize_bilinear: expects f32 or f64, got u8[2, 3, 8, 9]. Cast with mien::cast(x, DType::f32).",
       [&] { resize_bilinear(t({2, 3, 8, 9}, DType::u8), {4, 4}); }},
      {"crop_resize_area: the picture expects 3 dimensions, got f32[2, 3, 8, 9]",
       [&] { crop_resize_area(x, t({1, 4}, DType::i64), {4, 4}); }},
      {"crop_resize_area: boxes must be i64[K, 4], got i64[1, 5]",
       [&] { crop_resize_area(t({3, 8, 9}), t({1, 5}, DType::i64), {4, 4}); }},
      {"crop_resize_area: boxes expects 2 dimensions, got i64[4]",
       [&] { crop_resize_area(t({3, 8, 9}), t({4}, DType::i64), {4, 4}); }},
      {"crop_resize_area: boxes must be i64[K, 4], got f32[1, 4]",
       [&] { crop_resize_area(t({3, 8, 9}), t({1, 4}), {4, 4}); }},
      {"crop_resize_area: box 0 [0, 0, 10, 8) is empty or leaves the picture f32[3, 8, 9]",
       [&] { crop_resize_area(t({3, 8, 9}), Tensor::from<std::int64_t>({0, 0, 10, 8}, {1, 4}), {4, 4}); }},
      {"crop_resize_area: the picture must be u8 or f32, got f64[3, 8, 9]",
       [&] { crop_resize_area(t({3, 8, 9}, DType::f64), t({1, 4}, DType::i64), {4, 4}); }},
      {"warp_affine: the picture expects 3 dimensions, got f32[2, 3, 8, 9]",
       [&] { warp_affine(x, t({1, 2, 3}, DType::f64), {4, 4}); }},
      {"warp_affine: matrices must be f64[K, 2, 3], got f32[1, 2, 3]",
       [&] { warp_affine(t({3, 8, 9}), t({1, 2, 3}), {4, 4}); }},
  });
}

TEST_CASE("activations and normalisation name the shapes that do not fit", "[ops][error]") {
  const Tensor x = t({2, 3, 8, 9}), c = t({3});
  check({
      {"prelu: weight expects 1 value or one for each of 3 channels, got f32[2, 3, 8, 9], f32[2]",
       [&] { prelu(x, t({2})); }},
      {"prelu: weight expects 1 dimension, got f32[3, 1]",
       [&] { prelu(x, t({3, 1})); }},
      {"prelu: expects operands of one dtype, got f32[2, 3, 8, 9], f64[3]. Cast with mien::cast(x, DType::f32).",
       [&] { prelu(x, t({3}, DType::f64)); }},
      {"softmax: dimension 4 is out of range for a tensor of rank 4",
       [&] { softmax(x, 4); }},
      {"log_softmax: expects f32 or f64, got i64[2, 3]. Cast with mien::cast(x, DType::f32).",
       [&] { log_softmax(t({2, 3}, DType::i64), 1); }},
      {"batch_norm: expects at least 2 dimensions [N, C, ...], got f32[3]",
       [&] { batch_norm(t({3}), c, c, c, c); }},
      {"batch_norm: expects one value for each of 3 channels, got f32[2, 3, 8, 9], f32[2], f32[3], f32[3], f32[3]",
       [&] { batch_norm(x, t({2}), c, c, c); }},
      {"batch_norm: expects one value for each of 3 channels, got f32[2, 3, 8, 9], f32[3], f32[3], f32[3], f32[4]",
       [&] { batch_norm(x, c, c, c, t({4})); }},
      {"batch_norm: training needs more than one value per channel, got f32[1, 3]. Use a larger batch or eval mode.",
       [&] { batch_norm(t({1, 3}), c, c, t({3}), t({3}), {.training = true}); }},
      {"dropout: expects 0 <= p < 1, got 1.000000",
       [&] { dropout(x, 1, true); }},
      {"linear: weight expects 6 inputs, the input has 5 (f32[2, 5], f32[4, 6])",
       [&] { linear(t({2, 5}), t({4, 6})); }},
      {"linear: bias expects [4], got f32[5]",
       [&] { linear(t({2, 5}), t({4, 5}), t({5})); }},
      {"linear: weight expects 2 dimensions, got f32[5]",
       [&] { linear(t({2, 5}), t({5})); }},
      {"matmul: columns of the first (3) and rows of the second (4) differ: f32[2, 3], f32[4, 5]",
       [&] { matmul(t({2, 3}), t({4, 5})); }},
      {"matmul: expects at least 2 dimensions, got f32[3], f32[3, 5]",
       [&] { matmul(t({3}), t({3, 5})); }},
  });
}

TEST_CASE("losses and nms name the shapes that do not fit", "[ops][error]") {
  const Tensor x = t({4, 3}), y = t({4}, DType::i64);
  check({
      {"cross_entropy: logits expects 2 dimensions, got f32[4, 3, 2]",
       [&] { cross_entropy(t({4, 3, 2}), y); }},
      {"nll_loss: expects one target per row, got f32[4, 3], i64[3]",
       [&] { cross_entropy(x, t({3}, DType::i64)); }},
      {"nll_loss: target expects 1 dimension, got i64[4, 1]",
       [&] { cross_entropy(x, t({4, 1}, DType::i64)); }},
      {"nll_loss: target must be i64, got f32[4]. Cast with mien::cast(target, DType::i64).",
       [&] { cross_entropy(x, t({4})); }},
      {"nll_loss: target 3 is 3, expected 0..2. Is the number of classes right?",
       [&] { cross_entropy(x, Tensor::from<std::int64_t>({0, 1, 2, 3}, {4})); }},
      {"nll_loss: target 2 is -1, expected 0..2. Is the number of classes right?",
       [&] { cross_entropy(x, Tensor::from<std::int64_t>({0, 1, -1, 2}, {4})); }},
      {"nll_loss: expects one weight per class, got f32[4, 3], i64[4], f32[2]",
       [&] { cross_entropy(x, y, {.weight = t({2})}); }},
      {"cross_entropy: expects 0 <= label_smoothing < 1, got 1.000000",
       [&] { cross_entropy(x, y, {.label_smoothing = 1}); }},
      {"nll_loss: log-probabilities expects 2 dimensions, got f32[4]",
       [&] { nll_loss(t({4}), y); }},
      {"binary_cross_entropy: expects equal shapes, got f32[4, 3] and f32[4]",
       [&] { binary_cross_entropy(x, t({4})); }},
      {"binary_cross_entropy_with_logits: expects equal shapes, got f32[4, 3] and f32[3, 4]",
       [&] { binary_cross_entropy_with_logits(x, t({3, 4})); }},
      {"smooth_l1_loss: expects equal shapes, got f32[4, 3] and f32[4, 1]",
       [&] { smooth_l1_loss(x, t({4, 1})); }},
      {"smooth_l1_loss: expects beta >= 0, got -1.000000",
       [&] { smooth_l1_loss(x, x, -1); }},
      {"mse_loss: expects equal shapes, got f32[4, 3] and f32[4, 2]",
       [&] { mse_loss(x, t({4, 2})); }},
      {"masked_mean: expects equal shapes, got f32[4, 3] and bool[4]",
       [&] { masked_mean(x, t({4}, DType::boolean)); }},
      {"topk_mean: losses expects 1 dimension, got f32[4, 3]",
       [&] { topk_mean(x, t({4, 3}, DType::boolean), .7); }},
      {"topk_mean: the mask must be bool, got f32[4]. Make it with a comparison such as mien::equal.",
       [&] { topk_mean(t({4}), t({4}), .7); }},
      {"topk_mean: expects 0 < keep <= 1, got 0.000000",
       [&] { topk_mean(t({4}), t({4}, DType::boolean), 0); }},
      {"nms: expects boxes [K, 4] and scores [K], got f32[4, 5], f32[4]",
       [&] { nms(t({4, 5}), t({4}), .5); }},
      {"nms: expects boxes [K, 4] and scores [K], got f32[4, 4], f32[3]",
       [&] { nms(t({4, 4}), t({3}), .5); }},
      {"nms: expects a threshold >= 0, got -1.000000",
       [&] { nms(t({4, 4}), t({4}), -1); }},
      {"nms: expects operands of one dtype, got f32[4, 4], f64[4]. Cast with mien::cast(x, DType::f32).",
       [&] { nms(t({4, 4}), t({4}, DType::f64), .5); }},
  });
}

}  // namespace mien::test
