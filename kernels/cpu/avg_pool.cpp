// Average pooling and its gradient: each window is a sum of rows. Lanes run along the columns of contiguous planes, or along the channels of channels_last
// pictures. Semantics: kernels/ref/pool.cpp.
#include "mien/kernels/cpu/channels.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Span {
  std::int64_t begin, end, padded;  // on the picture, half-open; how long with the padding
};
Span span_of(std::int64_t o, std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t padding) {
  const std::int64_t begin = o * stride - padding, end = std::min(begin + kernel, size + padding);
  return {std::max<std::int64_t>(begin, 0), std::min(end, size), end - begin};
}

// A picture as rows of `columns` places of `channels` values each: planes have one channel.
struct Layout {
  std::int64_t pictures, channels, h, w, oh, ow;
};
bool planes(const View& large, const View& small) { return large.is_contiguous() && small.is_contiguous(); }
Layout layout(const View& large, const View& small) {
  const bool last = !planes(large, small);
  return {last ? large.size(0) : large.size(0) * large.size(1), last ? large.size(1) : 1, large.size(2), large.size(3), small.size(2), small.size(3)};
}

// f(place in the large picture, place in the small one, 1 / divisor) for every pair that meets, small place by small place.
template <class F, class Begin>
void each_pair(const Layout& l, const PoolParams& q, std::int64_t picture, const Begin& begin, const F& f) {
  for (std::int64_t y = 0; y < l.oh; ++y) {
    const Span v = span_of(y, l.h, q.kernel[0], q.stride[0], q.padding[0]);
    for (std::int64_t x = 0; x < l.ow; ++x) {
      const Span h = span_of(x, l.w, q.kernel[1], q.stride[1], q.padding[1]);
      const std::int64_t to = ((picture * l.oh + y) * l.ow + x) * l.channels, cells = q.count_include_pad ? v.padded * h.padded : (v.end - v.begin) * (h.end - h.begin);
      begin(to);
      if (v.begin >= v.end || h.begin >= h.end) continue;
      const float share = 1.f / static_cast<float>(q.divisor_override ? q.divisor_override : cells);
      for (std::int64_t i = v.begin; i < v.end; ++i)
        for (std::int64_t j = h.begin; j < h.end; ++j) f(((picture * l.h + i) * l.w + j) * l.channels, to, share);
    }
  }
}

void run(const KernelArgs& args) {
  const auto& q = args.get<PoolParams>();
  const Layout l = layout(args.in[0], args.out[0]);
  parallel_for(l.pictures, std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, l.h * l.w * l.channels)), [&](std::int64_t first, std::int64_t last) {
    const float* x = args.in[0].ptr<float>();
    float* y = args.out[0].ptr<float>();
    for (std::int64_t p = first; p < last; ++p)
      each_pair(l, q, p, [&](std::int64_t to) { std::fill_n(y + to, l.channels, 0.f); },
                [&](std::int64_t from, std::int64_t to, float share) {
                  const float* __restrict a = x + from;
                  float* __restrict b = y + to;
                  for (std::int64_t c = 0; c < l.channels; ++c) b[c] += a[c] * share;
                });
  });
}

void run_backward(const KernelArgs& args) {
  const auto& q = args.get<PoolParams>();
  const Layout l = layout(args.out[0], args.in[0]);
  const std::int64_t size = l.h * l.w * l.channels;
  parallel_for(l.pictures, std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, size)), [&](std::int64_t first, std::int64_t last) {
    const float* gy = args.in[0].ptr<float>();
    float* gx = args.out[0].ptr<float>();
    std::fill_n(gx + first * size, (last - first) * size, 0.f);
    for (std::int64_t p = first; p < last; ++p)
      each_pair(l, q, p, [](std::int64_t) {},
                [&](std::int64_t to, std::int64_t from, float share) {
                  const float* __restrict a = gy + from;
                  float* __restrict b = gx + to;
                  for (std::int64_t c = 0; c < l.channels; ++c) b[c] += a[c] * share;
                });
  });
}

const char* decline(const KernelArgs& args) {
  if (!all_f32(args)) return "f32 only";
  const View &a = args.in[0], &b = args.out[0];
  return planes(a, b) || (a.is_channels_last() && b.is_channels_last()) ? nullptr : "neither contiguous nor channels_last";
}

}  // namespace

extern const KernelEntry avg_pool2d_entry{run, decline};
extern const KernelEntry avg_pool2d_backward_entry{run_backward, decline};

}  // namespace mien::MIEN_LEVEL
