// Convolution of a map that is normalised and activated while it is read, with the moments of what comes out; and its gradient. In between, neither the
// normalised map nor the whole gradient is ever written: both are made for a band of pixels that stays in the second cache.
// Here 1x1 convolutions, as matrix products. Bands are in panels of gemm_cols channels, [panel][pixel][gemm_cols]: rows of the left side and columns of the right
// side can both be read from there.
#include "mien/kernels/cpu/norm_conv.h"
#include "mien/kernels/cpu/panel_rows.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t band = 112;  // pixels: two panels of it fit into the first cache
constexpr std::int64_t tile_rows = rows_for(2);
// Tiles of the gradient of the weights: parts of a panel's channels.
constexpr std::int64_t parts = (gemm_cols + tile_rows - 1) / tile_rows;

struct Sizes {
  std::int64_t pixels, in, out;
  std::int64_t bands() const { return ceil_div(pixels, band); }
  std::int64_t in_panels() const { return in / gemm_cols; }
  std::int64_t out_panels() const { return out / gemm_cols; }
  // Pixels of a share of the bands.
  std::int64_t rows(std::int64_t share) const {
    const std::int64_t n = shares_of(bands());
    return std::min(pixels, bands() * (share + 1) / n * band) - bands() * share / n * band;
  }
};
Sizes sizes(const View& x, const View& y) { return {y.numel() / y.size(1), x.size(1), y.size(1)}; }

// Rows [0, count) of C = A * B; A in `panels` panels, B packed by pack_columns.
void multiply(std::int64_t panels, const float* a, const float* b, std::int64_t count, float* c, std::int64_t ldc, CallUps& ahead) {
  const std::int64_t tiles = ceil_div(count, tile_rows);
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t first = count * t / tiles, rows = count * (t + 1) / tiles - first;
    pixel_kernels[static_cast<std::size_t>(rows - 1)]({panels, gemm_cols, band * gemm_cols, a + first * gemm_cols, b, c + first * ldc, ldc, false},
                                                      ahead.take(panels * gemm_cols, b));
  }
}
// `count` pixels into panels; make(c) gives what turns the offset of a vector of channels c into its value.
template <class F>
void fill_panels(std::int64_t count, std::int64_t channels, float* out, const F& make) {
  for (std::int64_t c = 0; c < channels; c += gemm_cols) {
    const auto low = make(c), high = make(c + lanes);
    float* to = out + c * band;
    for (std::int64_t p = 0, at = c; p < count; ++p, at += channels, to += gemm_cols) {
      Store(low(at), to);
      Store(high(at + lanes), to + lanes);
    }
  }
}
template <Activation A>
void fill_normal(const NormTable& norm, std::int64_t count, std::int64_t channels, const float* x, float* out) {
  fill_panels(count, channels, out, [&](std::int64_t c) { return [x, n = Normal<A>(norm, c)](std::int64_t at) { return n(x + at); }; });
}
void pack(const float* w, std::int64_t k_step, std::int64_t col_step, std::int64_t depth, std::int64_t cols, float* out) {
  parallel_for(cols / gemm_cols, 1, [&](std::int64_t panel, std::int64_t) {
    pack_columns(w, k_step, col_step, panel * gemm_cols, cols, depth, out + panel * gemm_cols * depth);
  });
}

const char* decline_pointwise(const ConvParams& p, const View& w) {
  return p.groups == 1 && w.size(2) == 1 && w.size(3) == 1 && p.stride == Pair{1, 1} && p.padding == Padding4{0, 0, 0, 0} ? nullptr : "not 1x1";
}

// --- forward: workspace holds moments of the shares, packed weights, the table, a band for each share that runs ------------------
std::int64_t workspace(const KernelArgs& a) {
  const Sizes s = sizes(a.in[0], a.out[0]);
  return ShareSums::bytes(2, s.out) + 4 * (s.in * s.out + NormTable::floats(s.in) + max_shares * s.in * band);
}
template <Activation A>
void forward(const KernelArgs& a) {
  const Sizes s = sizes(a.in[0], a.out[0]);
  const ShareSums sums{static_cast<double*>(a.workspace), 2, s.out};
  float *weights = reinterpret_cast<float*>(sums.data + max_shares * 2 * s.out), *table = weights + s.in * s.out, *bands = table + NormTable::floats(s.in);
  const NormTable norm(table, s.in);
  fill(norm, a, forward_norm, s.in, A == Activation::prelu);
  pack(a.in[1].ptr<float>(), 1, s.in, s.in, s.out, weights);
  ScratchSlots slots(shares_of(s.bands()));
  for_shares(s.bands(), [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float* v = bands + slot.number() * s.in * band;
    sums.clear(share);
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t pixel = b * band, count = std::min(band, s.pixels - pixel);
      const float* x = a.in[0].ptr<float>() + pixel * s.in;
      float* y = a.out[0].ptr<float>() + pixel * s.out;
      fill_normal<A>(norm, count, s.in, x, v);
      CallUps ahead;
      const std::int64_t later = std::clamp<std::int64_t>(s.pixels - pixel - band, 0, band);  // the band after this one
      ahead.add(x + band * s.in, later * s.in);
      ahead.add(y + band * s.out, later * s.out);
      for (std::int64_t o = 0; o < s.out; o += gemm_cols) {
        multiply(s.in_panels(), v, weights + o * s.in, count, y + o, s.out, ahead);
        add_moments(y + o, s.out, count, pixel - begin * band, sums.of(share, 0) + o, sums.of(share, 1) + o);
      }
    }
  });
  store_moments(a, sums, shares_of(s.bands()), [&](std::int64_t share) { return s.rows(share); });
}

// --- backward: sums of the shares, both gradients' weights, tables, sums of the weights for each share, two bands for each that runs --
std::int64_t backward_workspace(const KernelArgs& a) {
  const Sizes s = sizes(a.in[back_x], a.in[0]);
  return ShareSums::bytes(3, s.in) + 4 * (s.in * s.out + NormTable::floats(s.in) + WholeGradient::floats(s.out) + max_shares * (s.in * s.out + (s.in + s.out) * band));
}
template <Activation A>
void backward(const KernelArgs& a) {
  const Sizes s = sizes(a.in[back_x], a.in[0]);
  const ShareSums sums{static_cast<double*>(a.workspace), 3, s.in};
  float *weights = reinterpret_cast<float*>(sums.data + max_shares * 3 * s.in), *table = weights + s.in * s.out, *whole_table = table + NormTable::floats(s.in),
        *all_gw = whole_table + WholeGradient::floats(s.out), *bands = all_gw + max_shares * s.in * s.out;
  const NormTable norm(table, s.in);
  fill(norm, a, back_norm, s.in, A == Activation::prelu);
  const WholeGradient whole(whole_table, s.out);
  whole.fill(a);
  pack(a.in[back_x + 1].ptr<float>(), s.in, 1, s.out, s.in, weights);
  ScratchSlots slots(shares_of(s.bands()));
  for_shares(s.bands(), [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *v = bands + slot.number() * (s.in + s.out) * band, *g = v + s.in * band, *gw = all_gw + share * s.in * s.out;
    sums.clear(share);
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t pixel = b * band, count = std::min(band, s.pixels - pixel);
      const float *gy = a.in[0].ptr<float>() + pixel * s.out, *y = a.in[back_y].ptr<float>() + pixel * s.out, *x = a.in[back_x].ptr<float>() + pixel * s.in;
      float* gx = a.out[0].ptr<float>() + pixel * s.in;
      fill_panels(count, s.out, g, [&](std::int64_t c) { return [gy, y, w = WholeVector(whole, c)](std::int64_t at) { return w(gy + at, y + at); }; });
      fill_normal<A>(norm, count, s.in, x, v);
      CallUps ahead;
      const std::int64_t later = std::clamp<std::int64_t>(s.pixels - pixel - band, 0, band);  // the band after this one
      ahead.add(gy + band * s.out, later * s.out);
      ahead.add(y + band * s.out, later * s.out);
      ahead.add(x + band * s.in, later * s.in);
      ahead.add(gx + band * s.in, later * s.in);
      // The gradient of the weights: sums over the band's pixels.
      for (std::int64_t c = 0; c < s.in; c += gemm_cols)
        for (std::int64_t o = 0; o < s.out; o += gemm_cols)
          for (std::int64_t t = 0; t < parts; ++t) {
            const std::int64_t first = gemm_cols * t / parts, rows = gemm_cols * (t + 1) / parts - first;
            float* sum = gw + c * s.out + (o + first) * gemm_cols;
            channel_kernels[static_cast<std::size_t>(rows - 1)]({1, count, 0, g + o * band + first, v + c * band, sum, gemm_cols, b > begin}, ahead.take(count, g));
          }
      // The gradient of the normalised map, then back through the norm while a panel is in the first cache.
      for (std::int64_t c = 0; c < s.in; c += gemm_cols) {
        multiply(s.out_panels(), g, weights + c * s.out, count, gx + c, s.in, ahead);
        NormBack back[2] = {{norm, c}, {norm, c + lanes}};
        for (std::int64_t p = 0; p < count; ++p)
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            const std::int64_t offset = p * s.in + c + half * lanes;
            Store(back[half].template through<A>(Load(gx + offset), Load(x + offset)), gx + offset);
          }
        for (int half = 0; half < 2; ++half) back[half].add_to(sums.of(share, 0) + c + half * lanes, s.in);
      }
    }
  });
  const std::int64_t shares = shares_of(s.bands());
  float* gw = a.out[1].ptr<float>();
  // The shares' sums lie in panels of input channels, [panel][output][gemm_cols].
  parallel_for(s.out, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o)
      for (std::int64_t c = 0; c < s.in; c += lanes) {
        const float* from = all_gw + (c - c % gemm_cols) * s.out + o * gemm_cols + c % gemm_cols;
        Vec sum = Load(from);
        for (std::int64_t share = 1; share < shares; ++share) sum = Add(sum, Load(from + share * s.in * s.out));
        Store(sum, gw + o * s.in + c);
      }
  });
  store_norm_gradients(a, sums, shares, back_norm, 2);
}

void run_forward(const KernelArgs& a) {
  with_activation(a.get<NormConvParams>().activation, [&](auto activation) { forward<activation()>(a); });
}
const char* decline_forward(const KernelArgs& a) {
  if (const char* reason = decline_maps(a, a.in[0], a.in[1], a.out[0])) return reason;
  return decline_pointwise(a.get<NormConvParams>(), a.in[1]);
}
void run_backward(const KernelArgs& a) {
  with_activation(a.get<NormConvParams>().activation, [&](auto activation) { backward<activation()>(a); });
}
const char* decline_backward(const KernelArgs& a) {
  if (const char* reason = decline_backward_maps(a)) return reason;
  return decline_pointwise(a.get<NormConvParams>(), a.in[back_x + 1]);
}

}  // namespace

extern const KernelEntry norm_conv_pointwise{run_forward, decline_forward, workspace};
extern const KernelEntry norm_conv_backward_pointwise{run_backward, decline_backward, backward_workspace};
extern const KernelEntry norm_conv_entry = FirstOf<norm_conv_pointwise, norm_conv_depthwise>::entry;
extern const KernelEntry norm_conv_backward_entry = FirstOf<norm_conv_backward_pointwise, norm_conv_backward_depthwise>::entry;

}  // namespace mien::MIEN_LEVEL
