// Convolution of whole maps by the products of direct.h, line by line.
#pragma once

#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/direct.h"

namespace mien::MIEN_LEVEL {

// Images whose maps, `floats` each, stay in the second cache.
inline std::int64_t images_at_once(std::int64_t floats) { return std::clamp<std::int64_t>((std::int64_t{1} << 16) / std::max<std::int64_t>(floats, 1), 1, 24); }

// Maps of a few images: steps in floats to the next image, line and pixel.
struct Maps {
  std::int64_t image, line, pixel;
};
// y[images, lines, pixels, cols] of maps of height x width pixels of `channels`. `above` lines of zeros come first, and `left` pixels.
struct Convolution {
  std::int64_t images, lines, pixels, cols;
  std::int64_t kernel_rows, kernel_cols, channels;
  std::int64_t height, width, above, left;
  std::int64_t run() const { return kernel_cols * channels; }
  std::int64_t depth() const { return kernel_rows * run(); }
};
// Lines of few pixels would make tiles of few rows: then what each pixel sees is gathered, and all pixels are rows of one product.
inline constexpr std::int64_t narrow = 5, gathered_rows = 4 * gemm_rows;
inline std::int64_t gathered_step(const Convolution& c) { return round_up(c.depth(), 16) + 16; }  // no power of two
inline std::int64_t gathered_floats(const Convolution& c) { return c.pixels <= narrow ? gathered_rows * gathered_step(c) : 0; }

inline void gather(const Convolution& c, const float* image, const Maps& xs, std::int64_t line, std::int64_t pixel, float* to) {
  for (std::int64_t i = 0; i < c.kernel_rows; ++i, to += c.run()) {
    const std::int64_t y = line - c.above + i, x = pixel - c.left;
    const float* from = image + y * xs.line + x * xs.pixel;
    if (y < 0 || y >= c.height) {
      std::fill_n(to, c.run(), 0.f);
    } else if (x >= 0 && x + c.kernel_cols <= c.width) {
      std::copy_n(from, c.run(), to);
    } else {
      for (std::int64_t j = 0; j < c.kernel_cols; ++j) {
        if (x + j >= 0 && x + j < c.width) std::copy_n(from + j * xs.pixel, c.channels, to + j * c.channels);
        else std::fill_n(to + j * c.channels, c.channels, 0.f);
      }
    }
  }
}

// y lies densely. Zeros at the left must lie in memory unless the lines are narrow; those above never do.
inline void convolve(const Convolution& c, const float* x, const Maps& xs, const float* packed, const float* bias, float* y, std::int64_t y_pixel, float* room) {
  if (c.pixels > narrow) {
    for (std::int64_t col = 0; col < c.cols; col += gemm_cols) {  // outside: a panel of the weights stays in the first cache
      float* to = y;
      for (std::int64_t n = 0; n < c.images; ++n)
        for (std::int64_t line = 0; line < c.lines; ++line, to += c.pixels * y_pixel) {
          const std::int64_t first = std::max<std::int64_t>(0, c.above - line), end = std::min(c.kernel_rows, c.height + c.above - line);
          const float* from = x + n * xs.image + (line - c.above + first) * xs.line;
          direct_columns({from, xs.pixel, xs.line, end - first, c.run(), to, y_pixel}, c.pixels, col, c.cols, packed, c.kernel_rows, first, bias);
        }
    }
    return;
  }
  const std::int64_t pixels = c.images * c.lines * c.pixels, step = gathered_step(c);
  for (std::int64_t first = 0; first < pixels; first += gathered_rows) {
    const std::int64_t rows = std::min(gathered_rows, pixels - first);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t p = first + r;
      gather(c, x + p / (c.lines * c.pixels) * xs.image, xs, p / c.pixels % c.lines, p % c.pixels, room + r * step);
    }
    direct_product({room, step, 0, 1, c.depth(), y + first * y_pixel, y_pixel}, rows, c.cols, packed, bias);
  }
}

// Weights of the convolution that gives gx from gy: turned by 180 degrees, inputs and outputs swapped. gy ends with zeros after its O channels: `padded`.
inline std::int64_t turned_floats(const View& w) { return round_up(w.size(2) * w.size(3) * padded_channels(w.size(0)) * padded_channels(w.size(1)), 16); }
inline void pack_turned(const View& w, std::int64_t padded, float* out) {
  const std::int64_t taps = w.size(2) * w.size(3), kw = w.size(3);
  std::fill_n(out, turned_floats(w), 0.f);
  const float* last = w.ptr<float>() + (w.size(2) - 1) * w.stride(2) + (kw - 1) * w.stride(3);
  for (std::int64_t first = 0; first < w.size(1); first += gemm_cols) {
    const std::int64_t width = std::min<std::int64_t>(gemm_cols, padded_channels(w.size(1)) - first), some = std::min(width, w.size(1) - first);
    float* panel = out + first * taps * padded;
    for (std::int64_t tap = 0; tap < taps; ++tap)
      for (std::int64_t o = 0; o < w.size(0); ++o)
        for (std::int64_t k = 0; k < some; ++k)
          panel[(tap * padded + o) * width + k] = last[o * w.stride(0) + (first + k) * w.stride(1) - tap / kw * w.stride(2) - tap % kw * w.stride(3)];
  }
}
// The other way to gx, for narrow maps, whose pixels mostly see the zeros around gy: what a pixel of gy gives to all that it saw, W^T gy, is added where it
// came from. W as [panel][O, padded][(i, j, c)].
inline std::int64_t scatter_weights(const View& w) { return round_up(padded_channels(w.size(0)) * padded_channels(w.size(1) * w.size(2) * w.size(3)), 16); }
inline void pack_scatter(const View& w, float* out) {
  const std::int64_t channels = w.size(1), kw = w.size(3), depth = channels * w.size(2) * kw, padded = padded_channels(w.size(0));
  std::fill_n(out, scatter_weights(w), 0.f);
  for (std::int64_t k = 0; k < depth; ++k) {
    const std::int64_t first = k / gemm_cols * gemm_cols, width = std::min<std::int64_t>(gemm_cols, padded_channels(depth) - first);
    const float* from = w.ptr<float>() + k % channels * w.stride(1) + k / channels / kw * w.stride(2) + k / channels % kw * w.stride(3);
    for (std::int64_t o = 0; o < w.size(0); ++o) out[first * padded + o * width + k - first] = from[o * w.stride(0)];
  }
}
inline std::int64_t scattered_step(const Convolution& c) { return round_up(c.depth(), 16) + 16; }
inline std::int64_t scattered_floats(const Convolution& c) { return gathered_rows * scattered_step(c); }
// c describes the forward convolution; gy [images, lines, pixels, padded] and gx [images, height, width, channels] lie densely.
inline void scatter(const Convolution& c, const float* gy, std::int64_t padded, const float* packed, float* gx, float* room) {
  const std::int64_t pixels = c.images * c.lines * c.pixels, step = scattered_step(c), line = c.width * c.channels;
  std::fill_n(gx, c.images * c.height * line, 0.f);
  for (std::int64_t first = 0; first < pixels; first += gathered_rows) {
    const std::int64_t rows = std::min(gathered_rows, pixels - first);
    direct_product({gy + first * padded, padded, 0, 1, padded, room, step}, rows, padded_channels(c.depth()), packed, nullptr);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t p = first + r, y = p / c.pixels % c.lines, x = p % c.pixels;
      for (std::int64_t i = 0; i < c.kernel_rows; ++i) {
        float* __restrict to = gx + (p / (c.lines * c.pixels) * c.height + y + i) * line + x * c.channels;
        const float* __restrict from = room + r * step + i * c.run();
        for (std::int64_t k = 0; k < c.run(); ++k) to[k] += from[k];
      }
    }
  }
}
inline DirectWeights straight(const View& w) { return {w.ptr<float>(), w.size(0), w.size(2), w.size(3), w.size(1), w.stride(0), w.stride(2), w.stride(3), w.stride(1)}; }

// The first `count` lanes, `step` floats apart. The empty statement keeps the compiler from scattered stores, which cost more than one after the other.
inline void store_apart(Vec v, std::int64_t count, float* to, std::int64_t step) {
  float values[lanes];
  Store(v, values);
  for (std::int64_t k = 0; k < count; ++k, to += step) {
    asm("" : "+r"(to));
    *to = values[k];
  }
}
// gw[o, c, i, j] = sum over `number` shares, `step` floats apart, of sums[(i * kw + j) * C + c][o]: added in order, the same bits for any number of threads.
inline void add_weight_sums(const float* sums, std::int64_t number, std::int64_t step, std::int64_t padded, const View& gw) {
  const std::int64_t channels = gw.size(1), kw = gw.size(3);
  parallel_for(gw.size(2) * kw * channels, std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(padded, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      float* to = gw.ptr<float>() + k % channels * gw.stride(1) + k / channels / kw * gw.stride(2) + k / channels % kw * gw.stride(3);
      for (std::int64_t o = 0; o < gw.size(0); o += lanes) {
        Vec sum = Set(0);
        for (std::int64_t share = 0; share < number; ++share) sum = Add(sum, Load(sums + share * step + k * padded + o));
        store_apart(sum, std::min<std::int64_t>(lanes, gw.size(0) - o), to + o * gw.stride(0), gw.stride(0));
      }
    }
  });
}

}  // namespace mien::MIEN_LEVEL
