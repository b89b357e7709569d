// Convolution of the maps of some pictures, and the gradient of its weights, by Winograd: what direct_maps.h does with two to three times the multiplications.
// For one thread, which has other work on the same maps.
#pragma once

#include "mien/kernels/cpu/direct_maps.h"
#include "mien/kernels/cpu/winograd.h"

namespace mien::MIEN_LEVEL {

enum class WinogradForm { none, three, four };
// What f makes of the form; without one a zero, or nothing.
template <class F>
auto with_form(WinogradForm form, const F& f) {
  using Result = decltype(f(WinogradFour{}));
  if (form == WinogradForm::three) return f(WinogradThree{});
  if (form == WinogradForm::four) return f(WinogradFour{});
  return Result();
}

// The form with the fewest products for maps of height x width, if they are few beside the `direct` pixels that a direct sum comes to, and channels enough that
// they outweigh the transforms.
inline WinogradForm winograd_form(std::int64_t height, std::int64_t width, std::int64_t direct, std::int64_t channels, std::int64_t cols) {
  const std::int64_t three = winograd_products<WinogradThree>(height, width), four = winograd_products<WinogradFour>(height, width);
  if (channels < 16 || cols < 16 || 3 * std::min(three, four) > 2 * 9 * direct) return WinogradForm::none;
  return three <= four ? WinogradForm::three : WinogradForm::four;
}

// --- the convolution ----------------------------------------------------------------------------------------------------
// For any number of pictures.
inline std::int64_t winograd_map_floats(WinogradForm form, std::int64_t channels) {
  using namespace winograd_detail;
  return with_form(form, [&](auto f) { return round_up(channels, 16) + block_of<decltype(f)>(most_patches<decltype(f)>(channels), channels).floats; });
}
inline std::int64_t winograd_weight_floats(WinogradForm form, std::int64_t cols, std::int64_t channels) {
  return with_form(form, [&](auto f) { return winograd_weight_floats<decltype(f)>(cols, channels); });
}
inline void pack_winograd(WinogradForm form, const WinogradWeights& w, float* out) {
  with_form(form, [&](auto f) { pack_winograd<decltype(f)>(w, out); });
}
// y[pixel, cols] of all pictures; pixels lie x_pixel and y_pixel floats apart. bias: null, or a value for each column.
inline void winograd_maps(WinogradForm form, const WinogradSizes& s, const float* x, std::int64_t x_pixel, const float* weights, const float* bias, std::int64_t cols, float* y,
                          std::int64_t y_pixel, float* scratch) {
  with_form(form, [&](auto f) {
    using F = decltype(f);
    using namespace winograd_detail;
    const Block block = block_of<F>(most_patches<F>(s.c), s.c);
    float *zeros = scratch, *input = zeros + round_up(s.c, 16), *products = input + F::products * block.input_step;
    std::fill_n(zeros, s.c, 0.f);
    const auto out_of = [&](std::int64_t panel) { return plain_panel(panel, y, y_pixel, cols, bias); };
    for (std::int64_t first = 0; first < patches<F>(s); first += block.patches) {
      const std::int64_t count = std::min(block.patches, patches<F>(s) - first);
      for (std::int64_t t = 0; t < count; ++t) transform_input<F>(s, x, x_pixel, patch_at<F>(s, first + t), zeros, input + t * s.c, block.input_step);
      finish_block<F>(s, block, first, count, input, 0, s.panels, weights, out_of, products);
    }
  });
}

// --- the gradient of the weights ----------------------------------------------------------------------------------------
inline constexpr std::int64_t weight_block = 48;  // patches
inline std::int64_t winograd_sum_floats(WinogradForm form, std::int64_t channels, std::int64_t padded) {
  return with_form(form, [&](auto f) { return f.products * channels * padded; });
}
inline std::int64_t winograd_gradient_floats(WinogradForm form, std::int64_t channels) {
  return with_form(form, [&](auto f) { return round_up(channels, 16) + f.products * (weight_block * (channels + gemm_cols) + 32); });
}
// sums[product][C][padded] += what the pictures give: (B^T X B) * (A gY A^T), summed over patches. gy has zeros up to `padded` channels.
inline void winograd_weights(WinogradForm form, const WinogradSizes& s, const float* x, const float* gy, const Maps& gy_steps, std::int64_t padded, float* sums, float* scratch) {
  with_form(form, [&](auto f) {
    using F = decltype(f);
    using namespace winograd_detail;
    const std::int64_t x_step = weight_block * s.c + 16, gy_step = weight_block * gemm_cols + 16;
    float *zeros = scratch, *turned_x = zeros + round_up(s.c, 16), *turned_gy = turned_x + F::products * x_step;
    std::fill_n(zeros, s.c, 0.f);
    for (std::int64_t first = 0; first < patches<F>(s); first += weight_block) {
      const std::int64_t count = std::min(weight_block, patches<F>(s) - first);
      for (std::int64_t t = 0; t < count; ++t) transform_input<F>(s, x, s.c, patch_at<F>(s, first + t), zeros, turned_x + t * s.c, x_step);
      for (std::int64_t col = 0; col < padded; col += gemm_cols) {
        const std::int64_t cols = std::min<std::int64_t>(gemm_cols, padded - col);
        for (std::int64_t t = 0; t < count; ++t) {
          const Patch patch = patch_at<F>(s, first + t);
          const float* from = gy + patch.image * gy_steps.image + patch.y * gy_steps.line + patch.x * gy_steps.pixel + col;
          for (std::int64_t at = 0; at < cols; at += lanes)
            transform_gradient<F, false>(from + at, gy_steps.line, gy_steps.pixel, s.oh - patch.y, s.ow - patch.x, lanes, turned_gy + t * gemm_cols + at, gy_step);
        }
        const DirectPixels pixels{1, 1, count, 0, 0, s.c, 0, 0, gemm_cols};
        for (std::int64_t k = 0; k < F::products; ++k) {
          float* to = sums + k * s.c * padded + col;
          if (cols == gemm_cols) direct_weight_run<Number, 2>(pixels, s.c, turned_x + k * x_step, turned_gy + k * gy_step, to, padded);
          else direct_weight_run<Number, 1>(pixels, s.c, turned_x + k * x_step, turned_gy + k * gy_step, to, padded);
        }
      }
    }
  });
}
// gw = G^T sums G, the sums of `number` shares, `step` floats apart, added in order: the same bits for any number of threads.
inline void add_winograd_sums(WinogradForm form, const float* sums, std::int64_t number, std::int64_t step, std::int64_t padded, const View& gw) {
  with_form(form, [&](auto f) {
    using F = decltype(f);
    const std::int64_t channels = gw.size(1);
    parallel_for(channels, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c)
        for (std::int64_t o = 0; o < gw.size(0); o += lanes)
          both_axes<F::side, 3>(
              F::weight_gradient,
              [&](int i, int j) {
                const float* from = sums + ((i * F::side + j) * channels + c) * padded + o;
                Vec sum = Set(0);
                for (std::int64_t share = 0; share < number; ++share) sum = Add(sum, Load(from + share * step));
                return sum;
              },
              [&](int i, int j, Vec v) {
                float* to = gw.ptr<float>() + o * gw.stride(0) + c * gw.stride(1) + i * gw.stride(2) + j * gw.stride(3);
                store_apart(v, std::min<std::int64_t>(lanes, gw.size(0) - o), to, gw.stride(0));
              });
    });
  });
}

}  // namespace mien::MIEN_LEVEL
