// A block of a small network at once: convolution, PReLU and max pooling, and its gradients, with vectors of channels. A few images at a time: their map, the largest thing of all
// passes, is made in the second cache and never goes to memory; what is kept for the gradient has the size of the pooled map. 3x3 kernels of enough channels go by
// Winograd.
#include "mien/kernels/cpu/channels.h"
#include "mien/kernels/cpu/conv_block.h"
#include "mien/kernels/cpu/direct_maps.h"
#include "mien/kernels/cpu/pool_window.h"
#include "mien/kernels/cpu/scratch.h"
#include "mien/kernels/cpu/winograd_maps.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Sizes : BlockSizes {
  std::int64_t padded;    // channels of the map in scratch memory
  std::int64_t edge = 0;  // zeros beside each line of the map's gradient
  std::int64_t run() const { return kw * c; }
  std::int64_t picture() const { return h * w * c; }
  std::int64_t map() const { return oh * ow * padded; }
  std::int64_t wide() const { return (ow + 2 * edge) * padded; }
  std::int64_t gradient() const { return oh * wide(); }
  std::int64_t images() const { return images_at_once(map()); }
  std::int64_t chunks() const { return (n + images() - 1) / images(); }
  std::int64_t weights() const { return kh * run() * padded; }
  // Of the convolution that makes `height` x `width` pixels from `channels`.
  WinogradForm form(std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t cols) const {
    return kh == 3 && kw == 3 ? winograd_form(height, width, oh * ow, channels, cols) : WinogradForm::none;
  }
};
Sizes sizes_of(const View& x, const View& w, const View& pooled) { return {block_sizes(x, w, pooled), padded_channels(w.size(0))}; }

// Images [first, first + count) as channels_last: where they lie, or copied to `room`.
template <int C>
void interleave(const float* planes, std::int64_t plane, float* to) {
  for (std::int64_t p = 0; p < plane; ++p)
    for (int c = 0; c < C; ++c) to[p * C + c] = planes[c * plane + p];
}
const float* as_pixels(const View& x, const Sizes& s, std::int64_t first, std::int64_t count, float* room) {
  const float* from = x.ptr<float>() + first * s.picture();
  if (x.is_channels_last()) return from;
  const std::int64_t plane = s.h * s.w;
  for (std::int64_t n = 0; n < count; ++n, from += s.picture()) {
    float* to = room + n * s.picture();
    if (s.c == 3) {
      interleave<3>(from, plane, to);
      continue;
    }
    for (std::int64_t c = 0; c < s.c; ++c)
      for (std::int64_t p = 0; p < plane; ++p) to[p * s.c + c] = from[c * plane + p];
  }
  return room;
}

// --- forward ------------------------------------------------------------------------------------------------------------
struct Pooled {
  float *y, *raw;
  std::uint8_t* index;
};

// Activation and pooling of one image's map. SIZE: of a square window, 0 for any other.
template <int SIZE>
void activate_and_pool(const float* map, const Sizes& s, const ConvBlockParams& q, const float* slopes, Pooled to) {
  const std::int64_t line_step = s.ow * s.padded;
  for (std::int64_t py = 0; py < s.ph; ++py)
    for (std::int64_t px = 0; px < s.pw; ++px) {
      const std::int64_t top = py * q.stride[0], left = px * q.stride[1];
      const Window window{std::min(q.kernel[0], s.oh - top), std::min(q.kernel[1], s.ow - left), line_step, s.padded, static_cast<std::int32_t>(q.kernel[1]), 1};
      const float* corner = map + top * line_step + left * s.padded;
      for (std::int64_t c = 0; c < s.o; c += lanes) {
        const Vec slope = Load(slopes + c);
        const std::int64_t some = std::min<std::int64_t>(lanes, s.o - c);
        const Winner best = prelu_winner<SIZE>(corner + c, window, slope, All(Positive(slope)));
        Store(best.value, to.y + c, some);
        Store(best.raw, to.raw + c, some);
        StoreBytes(best.at, to.index + c, some);
      }
      to.y += s.o;
      to.raw += s.o;
      to.index += s.o;
    }
}

// A value per channel, laid out with `rest` behind them; one for all is repeated.
void lay_out(const View& v, const Sizes& s, float rest, float* out) {
  for (std::int64_t c = 0; c < s.padded; ++c) out[c] = c < s.o ? value_of(v, c) : rest;
}

// Workspace: weights, bias, slopes; for each share that runs a copy of the pictures and their maps.
struct ForwardPlan {
  Sizes s;
  WinogradForm form;
  std::int64_t weights, pictures, room;
};
WinogradSizes winograd_sizes(const Sizes& s, std::int64_t images) { return {images, s.h, s.w, s.c, s.oh, s.ow, 0, 0, ceil_div(s.o, panel_cols)}; }
Convolution forward_convolution(const Sizes& s, std::int64_t images) { return {images, s.oh, s.ow, s.padded, s.kh, s.kw, s.c, s.h, s.w, 0, 0}; }
ForwardPlan forward_plan(const KernelArgs& a) {
  ForwardPlan p{sizes_of(a.in[0], a.in[1], a.out[0]), WinogradForm::none, 0, 0, 0};
  const Sizes& s = p.s;
  p.form = s.form(s.oh, s.ow, s.c, s.o);
  const bool winograd = p.form != WinogradForm::none;
  p.weights = winograd ? winograd_weight_floats(p.form, s.o, s.c) : s.weights();
  if (!a.in[0].is_channels_last()) p.pictures = round_up(s.images() * s.picture(), 16);
  p.room = p.pictures + s.images() * s.map() + (winograd ? winograd_map_floats(p.form, s.c) : gathered_floats(forward_convolution(s, 1)));
  return p;
}
std::int64_t forward_workspace(const KernelArgs& a) {
  const ForwardPlan p = forward_plan(a);
  return 4 * (p.weights + 2 * p.s.padded + shares_of(p.s.chunks()) * p.room);
}
void run_forward(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1];
  const ForwardPlan plan = forward_plan(a);
  const Sizes& s = plan.s;
  auto* packed = static_cast<float*>(a.workspace);
  float *bias = packed + plan.weights, *slopes = bias + s.padded, *rooms = slopes + s.padded;
  if (plan.form == WinogradForm::none) pack_direct(straight(w), packed);
  else pack_winograd(plan.form, {w.ptr<float>(), s.o, s.c, w.stride(0), w.stride(2), w.stride(3), w.stride(1)}, packed);
  lay_out(a.in[2], s, 0, bias);
  lay_out(a.in[3], s, 1, slopes);
  const auto pool = for_window(a.get<ConvBlockParams>().kernel, activate_and_pool<0>, activate_and_pool<1>, activate_and_pool<2>, activate_and_pool<3>);
  ScratchSlots slots(shares_of(s.chunks()));
  for_shares(s.chunks(), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *room = rooms + slot.number() * plan.room, *maps = room + plan.pictures, *gathered = maps + s.images() * s.map();
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * s.images(), images = std::min(s.images(), s.n - first);
      const float* pixels = as_pixels(x, s, first, images, room);
      if (plan.form == WinogradForm::none)
        convolve(forward_convolution(s, images), pixels, {s.picture(), s.w * s.c, s.c}, packed, bias, maps, s.padded, gathered);
      else
        winograd_maps(plan.form, winograd_sizes(s, images), pixels, s.c, packed, bias, s.padded, maps, s.padded, gathered);
      for (std::int64_t i = 0; i < images; ++i) {
        const std::int64_t at = (first + i) * s.ph * s.pw * s.o;
        pool(maps + i * s.map(), s, a.get<ConvBlockParams>(), slopes, {a.out[0].ptr<float>() + at, a.out[1].ptr<float>() + at, a.out[2].ptr<std::uint8_t>() + at});
      }
    }
  });
}

// --- gradient -----------------------------------------------------------------------------------------------------------
void add_to(double* sums, Vec v) {
  float values[lanes];
  Store(v, values);
  for (int i = 0; i < lanes; ++i) sums[i] += static_cast<double>(values[i]);
}

struct Kept {
  const float *gy, *raw;
  const std::uint8_t* index;
  Maps gy_steps;
};
// Of a few channels: what the activation lets through to the winner of each window.
struct Channels {
  Channels(const Kept& kept, const Sizes& sizes, const float* slopes, std::int64_t channel)
      : k(kept), s(sizes), c(channel), some(std::min<std::int64_t>(lanes, sizes.o - channel)), gradient{Load(slopes + channel), Set(0), Set(0)} {}
  struct Passed {
    Vec d;
    Ints at;
    Vec where(int number) const { return Select(Equal(at, SetInt(number)), d, Set(0)); }
  };
  Passed pass(std::int64_t py, std::int64_t px) {
    const std::int64_t pooled = (py * s.pw + px) * s.o + c;
    __builtin_prefetch(k.gy + (py + 1) * k.gy_steps.line + px * k.gy_steps.pixel + c);  // they come from memory, and line by line in steps
    __builtin_prefetch(k.raw + pooled + s.pw * s.o);
    const Vec g = Load(k.gy + py * k.gy_steps.line + px * k.gy_steps.pixel + c, some), raw = Load(k.raw + pooled, some);
    return {gradient.pass(g, raw), LoadBytes(k.index + pooled, some)};
  }
  const Kept& k;
  const Sizes& s;
  const std::int64_t c, some;
  PreluGradient gradient;
};
struct Sums {
  double *bias, *slope;
};

// The map's gradient of one image, added to zeros; or written, where windows do not overlap. SIZE: of a square window, 0 for any other.
template <int SIZE, bool WRITES>
void spread(const Kept& k, const Sizes& s, const ConvBlockParams& q, const float* slopes, float* map, const Sums& sums) {
  const std::int64_t line_step = s.wide();
  for (std::int64_t py = 0; py < s.ph; ++py) {
    const std::int64_t rows = std::min(q.kernel[0], s.oh - py * q.stride[0]);
    for (std::int64_t c = 0; c < s.o; c += lanes) {
      Channels channels(k, s, slopes, c);
      for (std::int64_t px = 0; px < s.pw; ++px) {
        const Channels::Passed passed = channels.pass(py, px);
        const std::int64_t cols = std::min(q.kernel[1], s.ow - px * q.stride[1]);
        float* corner = map + py * q.stride[0] * line_step + (px * q.stride[1] + s.edge) * s.padded + c;
        spread_window<SIZE, WRITES>(corner, line_step, s.padded, rows, cols, q.kernel[1], passed.d, passed.at);
      }
      add_to(sums.bias + c, channels.gradient.bias_sum);
      add_to(sums.slope + c, channels.gradient.slope_sum);
    }
  }
}

// The same for windows of 3 x 3 two apart, which share a line and a column with the next: the map is written once, the column waits in registers.
void spread_threes(const Kept& k, const Sizes& s, const ConvBlockParams&, const float* slopes, float* map, const Sums& sums) {
  const std::int64_t line_step = s.wide();
  for (std::int64_t py = 0; py < s.ph; ++py) {
    const std::int64_t rows = std::min<std::int64_t>(3, s.oh - 2 * py);
    for (std::int64_t c = 0; c < s.o; c += lanes) {
      Channels channels(k, s, slopes, c);
      float* line = map + 2 * py * line_step + s.edge * s.padded + c;
      const auto put = [=](std::int64_t i, std::int64_t x, Vec v) {
        float* to = line + i * line_step + x * s.padded;
        Store(i == 0 && py > 0 ? Add(Load(to), v) : v, to);
      };
      Vec column[3] = {Set(0), Set(0), Set(0)};
      for (std::int64_t px = 0; px < s.pw; ++px) {
        const Channels::Passed passed = channels.pass(py, px);
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
          if (i < rows) {
            put(i, 2 * px, Add(column[i], passed.where(3 * i)));
            if (2 * px + 1 < s.ow) put(i, 2 * px + 1, passed.where(3 * i + 1));
          }
          column[i] = passed.where(3 * i + 2);
        }
      }
      if (2 * s.pw < s.ow)
        for (std::int64_t i = 0; i < rows; ++i) put(i, 2 * s.pw, column[i]);
      add_to(sums.bias + c, channels.gradient.bias_sum);
      add_to(sums.slope + c, channels.gradient.slope_sum);
    }
  }
}

using SpreadFunction = void (*)(const Kept&, const Sizes&, const ConvBlockParams&, const float*, float*, const Sums&);
struct Spread {
  SpreadFunction run;
  bool writes;  // all of the map; otherwise it must hold zeros
};
Spread spread_for(const Sizes& s, const ConvBlockParams& q) {
  const bool whole = (s.ph - 1) * q.stride[0] + q.kernel[0] >= s.oh && (s.pw - 1) * q.stride[1] + q.kernel[1] >= s.ow;
  const auto apart = [&](std::int64_t size, std::int64_t step) { return q.kernel == Pair{size, size} && q.stride == Pair{step, step} && whole; };
  if (apart(1, 1)) return {spread<1, true>, true};
  if (apart(2, 2)) return {spread<2, true>, true};
  if (apart(3, 2)) return {spread_threes, true};
  return {q.kernel == Pair{2, 2} ? spread<2, false> : spread<0, false>, false};
}

// Workspace: weights for gx, slopes; for each share sums of the weights, and of bias and slope in double; for each that runs a copy of the pictures and the maps'
// gradients.
struct BackwardPlan {
  Sizes s;
  bool input;  // gx is wanted
  WinogradForm input_form, weight_form;
  bool narrow_input() const { return input && input_form == WinogradForm::none && s.w <= narrow; }
  std::int64_t turned, pictures, sums, share, room;
};
Convolution input_convolution(const Sizes& s, std::int64_t images) { return {images, s.h, s.w, s.c, s.kh, s.kw, s.padded, s.oh, s.ow, s.kh - 1, s.kw - 1}; }
WinogradSizes input_winograd(const Sizes& s, std::int64_t images) { return {images, s.oh, s.ow, s.o, s.h, s.w, s.kh - 1, s.kw - 1, ceil_div(s.c, panel_cols)}; }
BackwardPlan backward_plan(const KernelArgs& a) {
  BackwardPlan p{};
  p.s = sizes_of(a.in[1], a.in[2], a.in[0]);
  p.input = a.get<ConvBlockParams>().input_gradient;
  const Sizes& s = p.s;
  p.weight_form = s.form(s.oh, s.ow, s.c, s.o);
  p.input_form = p.input ? s.form(s.h, s.w, s.o, s.c) : WinogradForm::none;
  std::int64_t scratch = p.weight_form == WinogradForm::none ? 0 : winograd_gradient_floats(p.weight_form, s.c);
  if (p.input_form != WinogradForm::none) {
    p.turned = winograd_weight_floats(p.input_form, s.c, s.o);
    scratch = std::max(scratch, winograd_map_floats(p.input_form, s.o));
  } else if (p.narrow_input()) {
    p.turned = scatter_weights(a.in[2]);
    scratch = std::max(scratch, scattered_floats(forward_convolution(s, 1)));
  } else if (p.input) {
    p.turned = turned_floats(a.in[2]);
    p.s.edge = s.kw - 1;
  }
  if (!a.in[1].is_channels_last()) p.pictures = round_up(s.images() * s.picture(), 16);
  p.sums = p.weight_form == WinogradForm::none ? s.weights() : winograd_sum_floats(p.weight_form, s.c, s.padded);
  p.share = round_up(p.sums + 4 * s.padded, 16);
  p.room = round_up(p.pictures + s.images() * s.gradient() + scratch, 16);
  return p;
}
std::int64_t backward_workspace(const KernelArgs& a) {
  const BackwardPlan p = backward_plan(a);
  return 4 * (p.turned + round_up(p.s.padded, 16) + shares_of(p.s.chunks()) * (p.share + p.room));
}

void run_backward(const KernelArgs& a) {
  const View &gy = a.in[0], &x = a.in[1], &w = a.in[2], &slope = a.in[3];
  const auto& q = a.get<ConvBlockParams>();
  const BackwardPlan plan = backward_plan(a);
  const Sizes& s = plan.s;
  auto* turned = static_cast<float*>(a.workspace);
  float *slopes = turned + plan.turned, *shares = slopes + round_up(s.padded, 16), *rooms = shares + shares_of(s.chunks()) * plan.share;
  const float* last = w.ptr<float>() + (s.kh - 1) * w.stride(2) + (s.kw - 1) * w.stride(3);
  if (plan.input_form != WinogradForm::none) pack_winograd(plan.input_form, {last, s.c, s.o, w.stride(1), -w.stride(2), -w.stride(3), w.stride(0)}, turned);
  else if (plan.narrow_input()) pack_scatter(w, turned);
  else if (plan.input) pack_turned(w, s.padded, turned);
  lay_out(slope, s, 0, slopes);
  const std::int64_t maps_floats = s.images() * s.gradient();
  const Spread spread = spread_for(s, q);
  ScratchSlots slots(shares_of(s.chunks()));
  for_shares(s.chunks(), [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *sums = shares + share * plan.share, *room = rooms + slot.number() * plan.room, *maps = room + plan.pictures, *scratch = maps + maps_floats;
    auto* small = reinterpret_cast<double*>(sums + plan.sums);
    if (spread.writes && s.edge > 0) std::fill_n(maps, maps_floats, 0.f);  // all but the edges will be written
    std::fill_n(sums, plan.sums, 0.f);
    std::fill_n(small, 2 * s.padded, 0.0);
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * s.images(), images = std::min(s.images(), s.n - first), pooled = s.ph * s.pw * s.o;
      if (!spread.writes) std::fill_n(maps, images * s.gradient(), 0.f);
      for (std::int64_t i = 0; i < images; ++i)
        spread.run({gy.ptr<float>() + (first + i) * gy.stride(0), a.in[4].ptr<float>() + (first + i) * pooled, a.in[5].ptr<std::uint8_t>() + (first + i) * pooled,
                      {gy.stride(0), gy.stride(2), gy.stride(3)}},
                     s, q, slopes, maps + i * s.gradient(), {small, small + s.padded});
      const float* from = as_pixels(x, s, first, images, room);
      const float* gradient = maps + s.edge * s.padded;
      if (plan.weight_form != WinogradForm::none) {
        winograd_weights(plan.weight_form, winograd_sizes(s, images), from, gradient, {s.gradient(), s.wide(), s.padded}, s.padded, sums, scratch);
      } else {
        DirectPixels d{images, s.oh, s.ow, s.picture(), s.w * s.c, s.c, s.gradient(), s.wide(), s.padded};
        if (s.oh == 1 && s.ow == 1) d = {1, 1, images, 0, 0, s.picture(), 0, 0, s.gradient()};
        direct_weights(d, s.kh, s.w * s.c, s.run(), s.padded, from, gradient, sums);
      }
      if (!plan.input) continue;
      float* gx = a.out[0].ptr<float>() + first * s.picture();
      if (plan.input_form != WinogradForm::none) winograd_maps(plan.input_form, input_winograd(s, images), maps, s.padded, turned, nullptr, s.c, gx, s.c, scratch);
      else if (plan.narrow_input()) scatter(forward_convolution(s, images), maps, s.padded, turned, gx, scratch);
      else convolve(input_convolution(s, images), maps, {s.gradient(), s.wide(), s.padded}, turned, nullptr, gx, s.c, scratch);
    }
  });
  // The shares are added in order: the same bits for any number of threads.
  const std::int64_t number = s.chunks() > 0 ? shares_of(s.chunks()) : 0;
  const View &gw = a.out[1], &gb = a.out[2], &ga = a.out[3];
  if (plan.weight_form == WinogradForm::none) add_weight_sums(shares, number, plan.share, s.padded, gw);
  else add_winograd_sums(plan.weight_form, shares, number, plan.share, s.padded, gw);
  double all_slopes = 0;
  for (std::int64_t o = 0; o < s.o; ++o) {
    double bias_sum = 0, slope_sum = 0;
    for (std::int64_t share = 0; share < number; ++share) {
      const auto* small = reinterpret_cast<const double*>(shares + share * plan.share + plan.sums);
      bias_sum += small[o];
      slope_sum += small[s.padded + o];
    }
    gb.ptr<float>()[o * gb.stride(0)] = static_cast<float>(bias_sum);
    all_slopes += slope_sum;
    if (ga.size(0) > 1 || s.o == 1) ga.ptr<float>()[o * ga.stride(0)] = static_cast<float>(slope_sum);
  }
  if (ga.size(0) == 1) *ga.ptr<float>() = static_cast<float>(all_slopes);
}

}  // namespace

extern const KernelEntry conv_block_of_channels{run_forward, decline_block, forward_workspace};
extern const KernelEntry conv_block_backward_of_channels{run_backward, decline_block_backward, backward_workspace};
extern const KernelEntry conv_block_entry = FirstOf<conv_block_of_pictures, conv_block_of_channels>::entry;
extern const KernelEntry conv_block_backward_entry = FirstOf<conv_block_backward_of_pictures, conv_block_backward_of_channels>::entry;

}  // namespace mien::MIEN_LEVEL
