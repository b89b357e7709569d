// Batch normalisation with the statistics of the batch, and its gradient. Semantics: kernels/ref/norm.cpp.
//
// Sums are made in floats over a chunk that stays in the first cache, the variance about the chunk's own mean; chunks are joined in doubles
// (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), share by share, in order.
#include <cmath>

#include "mien/kernels/cpu/channels.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t chunk_floats = 1 << 13;

// --- what one channel needs to know --------------------------------------------------------------------------------------
struct Moments {
  double mean = 0, squares = 0;  // squares: sum of squared distances from the mean
};
void join(Moments& a, double count_a, const Moments& b, double count_b) {
  const double d = b.mean - a.mean, share = count_b / (count_a + count_b);
  a.mean += d * share;
  a.squares += b.squares + d * d * share * count_a;
}

// y = (x - mean) * scale + shift, and with RELU max(y, 0), which lets NaN through.
struct Normal {
  float mean, scale, shift;
};
template <bool RELU>
inline float normal(float x, float mean, float scale, float shift) {
  const float y = (x - mean) * scale + shift;
  return RELU && y <= 0 ? 0.f : y;
}
Normal finish(const KernelArgs& a, std::int64_t c, const Moments& m, std::int64_t count) {
  const double invstd = 1 / std::sqrt(m.squares / static_cast<double>(count) + a.get<NormParams>().eps);
  const View &w = a.in[1], &b = a.in[2];
  a.out[1].ptr<float>()[c * a.out[1].stride(0)] = static_cast<float>(m.mean);
  a.out[2].ptr<float>()[c * a.out[2].stride(0)] = static_cast<float>(invstd);
  return {static_cast<float>(m.mean), static_cast<float>(invstd * static_cast<double>(w.ptr<float>()[c * w.stride(0)])), b.ptr<float>()[c * b.stride(0)]};
}

// What reaches the normalised value: with RELU nothing where the output was 0.
template <bool RELU>
inline float gradient(float g, float x, float mean, float scale, float shift) {
  return RELU && (x - mean) * scale + shift <= 0 ? 0.f : g;
}

// gx = g * by_g + (x - mean) * by_x + rest. y = (x - mean) * by_g + shift.
struct Slope {
  float mean, by_g, by_x, rest;
};
float scale_of(const KernelArgs& a, std::int64_t c) {
  return static_cast<float>(static_cast<double>(a.in[2].ptr<float>()[c * a.in[2].stride(0)]) * static_cast<double>(a.in[4].ptr<float>()[c * a.in[4].stride(0)]));
}
Slope finish_backward(const KernelArgs& a, std::int64_t c, double sum_g, double sum_gd, std::int64_t count) {  // sum_gd: of g * (x - mean)
  const auto value = [&](std::size_t k) { return static_cast<double>(a.in[k].ptr<float>()[c * a.in[k].stride(0)]); };
  const double w = value(2), invstd = value(4), n = static_cast<double>(count), by_g = w * invstd;
  a.out[1].ptr<float>()[c * a.out[1].stride(0)] = static_cast<float>(sum_gd * invstd);
  a.out[2].ptr<float>()[c * a.out[2].stride(0)] = static_cast<float>(sum_g);
  return {static_cast<float>(value(3)), static_cast<float>(by_g), static_cast<float>(-by_g * invstd * invstd * sum_gd / n), static_cast<float>(-by_g * sum_g / n)};
}

// --- channels_last and [N, C] -------------------------------------------------------------------------------------------
// Scratch: for each share two doubles a channel, then for each share two floats a channel, then five floats a channel for all.
struct Scratch {
  Scratch(void* workspace, std::int64_t channels)
      : sums(static_cast<double*>(workspace)), parts(reinterpret_cast<float*>(sums + max_shares * 2 * channels)), table(parts + max_shares * 2 * channels) {}
  static std::int64_t bytes(std::int64_t channels) { return channels * (max_shares * 24 + 20); }
  double* sums;
  float *parts, *table;
};
std::int64_t chunk_pixels(const PixelRows& r) { return std::max<std::int64_t>(4, chunk_floats / r.channels); }

// f(share, first chunk?, first pixel, pixels) chunk by chunk.
template <class F>
void for_chunks(const PixelRows& r, const F& f) {
  const std::int64_t step = chunk_pixels(r);
  for_shares((r.pixels + step - 1) / step, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) f(share, k == begin, k * step, std::min(step, r.pixels - k * step));
  });
}
std::int64_t chunk_shares(const PixelRows& r) { return shares_of((r.pixels + chunk_pixels(r) - 1) / chunk_pixels(r)); }

template <bool RELU>
void rows_forward(const KernelArgs& a) {
  const PixelRows r = pixel_rows(a.in[0]);
  const std::int64_t channels = r.channels, step = chunk_pixels(r), shares = chunk_shares(r), chunks = (r.pixels + step - 1) / step;
  const Scratch s(a.workspace, channels);
  const float* x = a.in[0].ptr<float>();
  for_chunks(r, [&](std::int64_t share, bool first, std::int64_t pixel, std::int64_t pixels) {
    float *mean = s.parts + share * 2 * channels, *squares = mean + channels;
    const float* rows = x + pixel * channels;
    sum_rows(pixels, channels, mean, [=](std::int64_t row, std::int64_t c) { return rows[row * channels + c]; });
    const float scale = 1.f / static_cast<float>(pixels);
    for (std::int64_t c = 0; c < channels; ++c) mean[c] *= scale;
    sum_rows(pixels, channels, squares, [=](std::int64_t row, std::int64_t c) {
      const float d = rows[row * channels + c] - mean[c];
      return d * d;
    });
    double *total_mean = s.sums + share * 2 * channels, *total_squares = total_mean + channels;
    const double before = first ? 0 : static_cast<double>(pixel - chunks * share / shares * step), now = static_cast<double>(pixels);
    for (std::int64_t c = 0; c < channels; ++c) {
      Moments m = first ? Moments{} : Moments{total_mean[c], total_squares[c]};
      join(m, before, {static_cast<double>(mean[c]), static_cast<double>(squares[c])}, now);
      total_mean[c] = m.mean;
      total_squares[c] = m.squares;
    }
  });
  float *mean = s.table, *scale = mean + channels, *shift = scale + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    Moments m;
    double before = 0;
    for (std::int64_t share = 0; share < shares; ++share) {
      const double now = static_cast<double>(std::min(chunks * (share + 1) / shares * step, r.pixels) - chunks * share / shares * step);
      join(m, before, {s.sums[share * 2 * channels + c], s.sums[(share * 2 + 1) * channels + c]}, now);
      before += now;
    }
    const Normal n = finish(a, c, m, r.pixels);
    mean[c] = n.mean;
    scale[c] = n.scale;
    shift[c] = n.shift;
  }
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const float* __restrict from = x + p * channels;
      float* __restrict to = a.out[0].ptr<float>() + p * channels;
      for (std::int64_t c = 0; c < channels; ++c) to[c] = normal<RELU>(from[c], mean[c], scale[c], shift[c]);
    }
  });
}

template <bool RELU>
void rows_backward(const KernelArgs& a) {
  const PixelRows r = pixel_rows(a.in[1]);
  const std::int64_t channels = r.channels, shares = chunk_shares(r), step = pixel_step(a.in[0]);
  const Scratch s(a.workspace, channels);
  const float *g = a.in[0].ptr<float>(), *x = a.in[1].ptr<float>();
  float *mean = s.table, *by_g = mean + channels, *shift = by_g + channels, *by_x = shift + channels, *rest = by_x + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[c] = a.in[3].ptr<float>()[c * a.in[3].stride(0)];
    by_g[c] = scale_of(a, c);
    shift[c] = RELU ? a.in[5].ptr<float>()[c * a.in[5].stride(0)] : 0;
  }
  for_chunks(r, [&](std::int64_t share, bool first, std::int64_t pixel, std::int64_t pixels) {
    float *sum_g = s.parts + share * 2 * channels, *sum_gd = sum_g + channels;
    const float *gs = g + pixel * step, *xs = x + pixel * channels;
    const auto masked = [=](std::int64_t row, std::int64_t c) { return gradient<RELU>(gs[row * step + c], xs[row * channels + c], mean[c], by_g[c], shift[c]); };
    sum_rows(pixels, channels, sum_g, masked);
    sum_rows(pixels, channels, sum_gd, [=](std::int64_t row, std::int64_t c) { return masked(row, c) * (xs[row * channels + c] - mean[c]); });
    double* total = s.sums + share * 2 * channels;
    for (std::int64_t k = 0; k < 2 * channels; ++k) total[k] = (first ? 0 : total[k]) + static_cast<double>(sum_g[k]);
  });
  for (std::int64_t c = 0; c < channels; ++c) {
    double sum_g = 0, sum_gd = 0;
    for (std::int64_t share = 0; share < shares; ++share) {
      sum_g += s.sums[share * 2 * channels + c];
      sum_gd += s.sums[(share * 2 + 1) * channels + c];
    }
    const Slope k = finish_backward(a, c, sum_g, sum_gd, r.pixels);
    by_x[c] = k.by_x;
    rest[c] = k.rest;
  }
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const float *__restrict gs = g + p * step, *__restrict xs = x + p * channels;
      float* __restrict to = a.out[0].ptr<float>() + p * channels;
      for (std::int64_t c = 0; c < channels; ++c)
        to[c] = gradient<RELU>(gs[c], xs[c], mean[c], by_g[c], shift[c]) * by_g[c] + ((xs[c] - mean[c]) * by_x[c] + rest[c]);
    }
  });
}

// --- contiguous [N, C, ...]: one thread has a whole channel -----------------------------------------------------------------
template <bool RELU>
void planes_forward(const KernelArgs& a) {
  const View &x = a.in[0], &y = a.out[0];
  const std::int64_t n = x.size(0), channels = x.size(1), size = x.numel() / (n * channels);
  parallel_for(channels, 1, [&](std::int64_t c, std::int64_t) {
    Moments m;
    std::int64_t seen = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k < size; k += chunk_floats) {
        const float* p = x.ptr<float>() + (i * channels + c) * size + k;
        const std::int64_t count = std::min(chunk_floats, size - k);
        const float mean = sum_run(count, [=](std::int64_t t) { return p[t]; }) / static_cast<float>(count);
        const float squares = sum_run(count, [=](std::int64_t t) { return (p[t] - mean) * (p[t] - mean); });
        join(m, static_cast<double>(seen), {static_cast<double>(mean), static_cast<double>(squares)}, static_cast<double>(count));
        seen += count;
      }
    const Normal f = finish(a, c, m, n * size);
    for (std::int64_t i = 0; i < n; ++i) {
      const float* __restrict from = x.ptr<float>() + (i * channels + c) * size;
      float* __restrict to = y.ptr<float>() + (i * channels + c) * size;
      for (std::int64_t t = 0; t < size; ++t) to[t] = normal<RELU>(from[t], f.mean, f.scale, f.shift);
    }
  });
}

template <bool RELU>
void planes_backward(const KernelArgs& a) {
  const View &g = a.in[0], &x = a.in[1];
  const std::int64_t n = x.size(0), channels = x.size(1), size = x.numel() / (n * channels);
  parallel_for(channels, 1, [&](std::int64_t c, std::int64_t) {
    const float mean = a.in[3].ptr<float>()[c * a.in[3].stride(0)], scale = scale_of(a, c), shift = RELU ? a.in[5].ptr<float>()[c * a.in[5].stride(0)] : 0;
    double sum_g = 0, sum_gd = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k < size; k += chunk_floats) {
        const std::int64_t at = (i * channels + c) * size + k, count = std::min(chunk_floats, size - k);
        const float *gs = g.ptr<float>() + at, *xs = x.ptr<float>() + at;
        const auto masked = [=](std::int64_t t) { return gradient<RELU>(gs[t], xs[t], mean, scale, shift); };
        sum_g += static_cast<double>(sum_run(count, masked));
        sum_gd += static_cast<double>(sum_run(count, [=](std::int64_t t) { return masked(t) * (xs[t] - mean); }));
      }
    const Slope f = finish_backward(a, c, sum_g, sum_gd, n * size);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = (i * channels + c) * size;
      const float *__restrict gs = g.ptr<float>() + at, *__restrict xs = x.ptr<float>() + at;
      float* __restrict to = a.out[0].ptr<float>() + at;
      for (std::int64_t t = 0; t < size; ++t) to[t] = gradient<RELU>(gs[t], xs[t], f.mean, f.by_g, shift) * f.by_g + ((xs[t] - f.mean) * f.by_x + f.rest);
    }
  });
}

// --- channel_affine ---------------------------------------------------------------------------------------------------------
void run_affine(const KernelArgs& a) {
  const View &x = a.in[0], &y = a.out[0];
  const std::int64_t channels = x.size(1);
  auto* scale = static_cast<float*>(a.workspace);
  float* shift = scale + channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    scale[c] = a.in[1].ptr<float>()[c * a.in[1].stride(0)];
    shift[c] = a.in[2].ptr<float>()[c * a.in[2].stride(0)];
  }
  if (all_pixel_rows(x, y)) {
    const PixelRows r = pixel_rows(x);
    parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const float *__restrict from = x.ptr<float>() + p * channels, *__restrict by = scale, *__restrict plus = shift;
        float* __restrict to = y.ptr<float>() + p * channels;
        for (std::int64_t c = 0; c < channels; ++c) to[c] = from[c] * by[c] + plus[c];
      }
    });
    return;
  }
  const std::int64_t planes = x.size(0) * channels, size = x.numel() / planes;
  parallel_for(planes, std::max<std::int64_t>(1, (1 << 15) / size), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const float* __restrict from = x.ptr<float>() + p * size;
      float* __restrict to = y.ptr<float>() + p * size;
      const float by = scale[p % channels], plus = shift[p % channels];
      for (std::int64_t t = 0; t < size; ++t) to[t] = from[t] * by + plus;
    }
  });
}

// --- entries --------------------------------------------------------------------------------------------------------------
const char* decline_forward(const KernelArgs& a) { return decline_layout(a, a.in[0], a.out[0]); }
// The gradient may be a slice of the channels of a wider picture, as the parts of a concat get it.
bool rows_of_backward(const KernelArgs& a) { return all_pixel_rows(a.in[1], a.out[0]) && pixel_step(a.in[0]) > 0; }
const char* decline_backward(const KernelArgs& a) {
  if (const char* reason = decline_layout(a, a.in[1], a.out[0])) return reason;
  return rows_of_backward(a) || (a.in[1].is_contiguous() && a.out[0].is_contiguous() && a.in[0].is_contiguous()) ? nullptr : "neither all channels_last nor all contiguous";
}
std::int64_t workspace_forward(const KernelArgs& a) { return Scratch::bytes(a.in[0].size(1)); }
std::int64_t workspace_backward(const KernelArgs& a) { return Scratch::bytes(a.in[1].size(1)); }
std::int64_t workspace_affine(const KernelArgs& a) { return 8 * a.in[0].size(1); }
template <bool RELU>
void forward(const KernelArgs& a) {
  all_pixel_rows(a.in[0], a.out[0]) ? rows_forward<RELU>(a) : planes_forward<RELU>(a);
}
template <bool RELU>
void backward(const KernelArgs& a) {
  rows_of_backward(a) ? rows_backward<RELU>(a) : planes_backward<RELU>(a);
}
void run_forward(const KernelArgs& a) { a.get<NormParams>().relu ? forward<true>(a) : forward<false>(a); }
void run_backward(const KernelArgs& a) { a.get<NormParams>().relu ? backward<true>(a) : backward<false>(a); }

}  // namespace

extern const KernelEntry batch_norm_entry{run_forward, decline_forward, workspace_forward};
extern const KernelEntry batch_norm_backward_entry{run_backward, decline_backward, workspace_backward};
extern const KernelEntry channel_affine_entry{run_affine, decline_forward, workspace_affine};

}  // namespace mien::MIEN_LEVEL
