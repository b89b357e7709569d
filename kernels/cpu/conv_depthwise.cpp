// Depthwise convolution in channels_last: every channel has its own kernel, so lanes run along channels and taps are added one after the other.
// Weights are first laid out as [tap][channel].
#include <algorithm>

#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/simd.h"
#include "mien/kernels/cpu/windows.h"

namespace mien::MIEN_LEVEL {
namespace {

const char* decline(const KernelArgs& a, const View& x, const View& w, const View& y) {
  if (!all_f32(a)) return "f32 only";
  const auto& p = a.get<ConvParams>();
  if (p.groups != x.size(1) || w.size(0) != p.groups || p.groups < 2) return "not depthwise";
  if (!x.is_channels_last() || !y.is_channels_last()) return "not channels_last";
  return x.numel() > 0 && y.numel() > 0 ? nullptr : "empty";
}

// w[c, 0, i, j] as [i][j][c]; `turned` reads the kernel backwards.
void lay_out_weights(const View& w, bool turned, float* out) {
  const std::int64_t kh = w.size(2), kw = w.size(3);
  for (std::int64_t i = 0; i < kh; ++i)
    for (std::int64_t j = 0; j < kw; ++j, out += w.size(0)) {
      const float* from = w.ptr<float>() + (turned ? kh - 1 - i : i) * w.stride(2) + (turned ? kw - 1 - j : j) * w.stride(3);
      for (std::int64_t c = 0; c < w.size(0); ++c) out[c] = from[c * w.stride(0)];
    }
}

// y[c] = bias[c] + sum of x[tap][c] * w[tap][c] for any list of taps.
void pixel_of_taps(const Tap* taps, std::int64_t count, std::int64_t channels, const float* bias, float* y) {
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    Vec sum = bias ? Load(bias + c) : Set(0);
    for (std::int64_t t = 0; t < count; ++t) sum = MulAdd(Load(taps[t].x + c), Load(taps[t].w + c), sum);
    Store(sum, y + c);
  }
  for (; c < channels; ++c) {
    float sum = bias ? bias[c] : 0;
    for (std::int64_t t = 0; t < count; ++t) sum += taps[t].x[c] * taps[t].w[c];
    y[c] = sum;
  }
}

// Four neighbouring output pixels whose taps all lie on the picture: each weight is read once for the four. `taps` are those of the first pixel.
void four_pixels(const Tap* taps, std::int64_t count, std::int64_t channels, std::int64_t step, const float* bias, float* y) {
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    Vec s0, s1, s2, s3;
    s0 = s1 = s2 = s3 = bias ? Load(bias + c) : Set(0);
    for (std::int64_t t = 0; t < count; ++t) {
      const Vec w = Load(taps[t].w + c);
      const float* x = taps[t].x + c;
      s0 = MulAdd(Load(x), w, s0);
      s1 = MulAdd(Load(x + step), w, s1);
      s2 = MulAdd(Load(x + 2 * step), w, s2);
      s3 = MulAdd(Load(x + 3 * step), w, s3);
    }
    Store(s0, y + c);
    Store(s1, y + channels + c);
    Store(s2, y + 2 * channels + c);
    Store(s3, y + 3 * channels + c);
  }
  for (; c < channels; ++c)
    for (std::int64_t p = 0; p < 4; ++p) {
      float sum = bias ? bias[c] : 0;
      for (std::int64_t t = 0; t < count; ++t) sum += taps[t].x[p * step + c] * taps[t].w[c];
      y[p * channels + c] = sum;
    }
}

// Workspace: the weights, then a list of taps for each share.
std::int64_t weight_floats(const View& w) { return (w.numel() + 15) / 16 * 16; }
std::int64_t list_bytes(const View& w) { return (w.size(2) * w.size(3) * static_cast<std::int64_t>(sizeof(Tap)) + 63) / 64 * 64; }
std::int64_t bytes(const View& w) { return 4 * weight_floats(w) + max_shares * list_bytes(w); }
Tap* list_of(const KernelArgs& a, const View& w, std::int64_t share) {
  return reinterpret_cast<Tap*>(static_cast<std::byte*>(a.workspace) + 4 * weight_floats(w) + share * list_bytes(w));
}

void convolve(const KernelArgs& a, const float* x, const ConvSizes& s, const float* bias, float* y) {
  const auto* weights = static_cast<const float*>(a.workspace);
  const WholeWindows whole(s.ow, s.w, s.pw, s.sw, (s.kw - 1) * s.dw);
  for_shares(s.n * s.oh, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    Tap* taps = list_of(a, a.in[1], share);
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t n = row / s.oh, y0 = row % s.oh * s.sh - s.ph;
      float* to = y + row * s.ow * s.c;
      for (std::int64_t ox = 0; ox < s.ow;) {
        std::int64_t count = 0;
        each_tap(s, y0, ox * s.sw - s.pw, [&](std::int64_t tap, std::int64_t pixel) { taps[count++] = {x + (n * s.h * s.w + pixel) * s.c, weights + tap * s.c}; });
        if (ox < whole.first || ox >= whole.last) {
          pixel_of_taps(taps, count, s.c, bias, to + ox++ * s.c);
          continue;
        }
        for (; ox + 4 <= whole.last; ox += 4) {
          four_pixels(taps, count, s.c, s.sw * s.c, bias, to + ox * s.c);
          for (std::int64_t t = 0; t < count; ++t) taps[t].x += 4 * s.sw * s.c;
        }
        for (; ox < whole.last; ++ox) {
          pixel_of_taps(taps, count, s.c, bias, to + ox * s.c);
          for (std::int64_t t = 0; t < count; ++t) taps[t].x += s.sw * s.c;
        }
      }
    }
  });
}

// --- forward ---------------------------------------------------------------------------------------------------------
void run_forward(const KernelArgs& a) {
  lay_out_weights(a.in[1], false, static_cast<float*>(a.workspace));
  convolve(a, a.in[0].ptr<float>(), conv_sizes(a.in[0], a.in[1], a.out[0], a.get<ConvParams>()), a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr, a.out[0].ptr<float>());
}
const char* decline_forward(const KernelArgs& a) { return strided_bias(a) ? "the bias is strided" : decline(a, a.in[0], a.in[1], a.out[0]); }
std::int64_t workspace(const KernelArgs& a) { return bytes(a.in[1]); }

// --- gradient of the input -------------------------------------------------------------------------------------------
// Strides: an input pixel collects from the outputs that read it.
void run_strided_grad_input(const KernelArgs& a) {
  const View &gy = a.in[0], &w = a.in[1], &gx = a.out[0];
  const ConvSizes s = conv_sizes(gx, w, gy, a.get<ConvParams>());
  const auto* weights = static_cast<const float*>(a.workspace);
  for_shares(s.n * s.h, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    Tap* taps = list_of(a, w, share);
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t x = 0; x < s.w; ++x) {
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < s.kh; ++i) {
          const std::int64_t oy = row % s.h + s.ph - i * s.dh;
          if (oy < 0 || oy % s.sh || oy / s.sh >= s.oh) continue;
          for (std::int64_t j = 0; j < s.kw; ++j) {
            const std::int64_t ox = x + s.pw - j * s.dw;
            if (ox < 0 || ox % s.sw || ox / s.sw >= s.ow) continue;
            taps[count++] = {gy.ptr<float>() + ((row / s.h * s.oh + oy / s.sh) * s.ow + ox / s.sw) * s.c, weights + (i * s.kw + j) * s.c};
          }
        }
        pixel_of_taps(taps, count, s.c, nullptr, gx.ptr<float>() + (row * s.w + x) * s.c);
      }
  });
}
void run_grad_input(const KernelArgs& a) {
  const bool turned = unit_stride(a.get<ConvParams>());
  lay_out_weights(a.in[1], turned, static_cast<float*>(a.workspace));
  if (!turned) return run_strided_grad_input(a);
  convolve(a, a.in[0].ptr<float>(), turned_sizes(a.in[0], a.in[1], a.out[0], a.get<ConvParams>()), nullptr, a.out[0].ptr<float>());
}
const char* decline_grad_input(const KernelArgs& a) { return decline(a, a.out[0], a.in[1], a.in[0]); }

// --- gradient of the weights -----------------------------------------------------------------------------------------
// sums[tap][c] += gy[c] * x[tap][c] for the taps of one output pixel.
struct SumTap {
  const float* x;
  float* sum;
};
void sum_pixel(const float* gy, const SumTap* taps, std::int64_t count, std::int64_t channels) {
  for (std::int64_t t = 0; t < count; ++t) {
    const float* __restrict g = gy;
    const float* __restrict x = taps[t].x;
    float* __restrict sum = taps[t].sum;
    for (std::int64_t c = 0; c < channels; ++c) sum[c] += g[c] * x[c];
  }
}
// A run of output pixels whose taps all lie on the picture, TAPS of them in registers; x moves by `step` from pixel to pixel.
template <int TAPS>
void sum_run(const float* gy, std::int64_t pixels, const SumTap* taps, std::int64_t step, std::int64_t channels) {
  std::int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    Vec acc[TAPS];
    const float* x[TAPS];
#pragma GCC unroll 3
    for (int t = 0; t < TAPS; ++t) {
      acc[t] = Load(taps[t].sum + c);
      x[t] = taps[t].x + c;
    }
    const float* g = gy + c;
    for (std::int64_t p = 0, at = 0; p < pixels; ++p, g += channels, at += step) {
      const Vec v = Load(g);
#pragma GCC unroll 9
      for (int t = 0; t < TAPS; ++t) acc[t] = MulAdd(v, Load(x[t] + at), acc[t]);
    }
#pragma GCC unroll 9
    for (int t = 0; t < TAPS; ++t) Store(acc[t], taps[t].sum + c);
  }
  for (; c < channels; ++c)
    for (int t = 0; t < TAPS; ++t) {
      float sum = taps[t].sum[c];
      for (std::int64_t p = 0; p < pixels; ++p) sum += gy[p * channels + c] * taps[t].x[p * step + c];
      taps[t].sum[c] = sum;
    }
}

std::int64_t grad_weight_workspace(const KernelArgs& a) { return max_shares * (4 * weight_floats(a.out[0]) + list_bytes(a.out[0])); }
void run_grad_weight(const KernelArgs& a) {
  const View &gy = a.in[0], &vx = a.in[1], &gw = a.out[0];
  const ConvSizes s = conv_sizes(vx, gw, gy, a.get<ConvParams>());
  auto* sums = static_cast<float*>(a.workspace);
  const std::int64_t share_floats = weight_floats(gw), rows = s.n * s.oh;
  const WholeWindows whole(s.ow, s.w, s.pw, s.sw, (s.kw - 1) * s.dw);
  for_shares(rows, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float* mine = sums + share * share_floats;
    auto* taps = reinterpret_cast<SumTap*>(static_cast<std::byte*>(a.workspace) + 4 * max_shares * share_floats + share * list_bytes(gw));
    std::fill_n(mine, share_floats, 0.f);
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t y0 = row % s.oh * s.sh - s.ph;
      for (std::int64_t ox = 0; ox < s.ow;) {
        std::int64_t count = 0;
        each_tap(s, y0, ox * s.sw - s.pw, [&](std::int64_t tap, std::int64_t pixel) {
          taps[count++] = {vx.ptr<float>() + (row / s.oh * s.h * s.w + pixel) * s.c, mine + tap * s.c};
        });
        const float* g = gy.ptr<float>() + (row * s.ow + ox) * s.c;
        const std::int64_t run = whole.last - ox;
        if (ox < whole.first || run <= 1) {
          sum_pixel(g, taps, count, s.c);
          ++ox;
          continue;
        }
        std::int64_t t = 0;
        for (; t + 9 <= count; t += 9) sum_run<9>(g, run, taps + t, s.sw * s.c, s.c);
        for (; t + 3 <= count; t += 3) sum_run<3>(g, run, taps + t, s.sw * s.c, s.c);
        for (; t < count; ++t) sum_run<1>(g, run, taps + t, s.sw * s.c, s.c);
        ox = whole.last;
      }
    }
  });
  // The shares are added in order: the same bits for any number of threads.
  for (std::int64_t tap = 0; tap < s.taps(); ++tap)
    for (std::int64_t c = 0; c < s.c; ++c) {
      float sum = 0;
      for (std::int64_t share = 0; share < shares_of(rows); ++share) sum += sums[share * share_floats + tap * s.c + c];
      gw.ptr<float>()[c * gw.stride(0) + tap / s.kw * gw.stride(2) + tap % s.kw * gw.stride(3)] = sum;
    }
}
const char* decline_grad_weight(const KernelArgs& a) { return decline(a, a.in[1], a.out[0], a.in[0]); }

}  // namespace

extern const KernelEntry depthwise_forward{run_forward, decline_forward, workspace};
extern const KernelEntry depthwise_grad_input{run_grad_input, decline_grad_input, workspace};
extern const KernelEntry depthwise_grad_weight{run_grad_weight, decline_grad_weight, grad_weight_workspace};

}  // namespace mien::MIEN_LEVEL
