// Convolution with few input channels and stride 1, as first layers have it: direct products on a few images at a time, laid out as channels_last lines with
// their zeros beside them. Any memory order of picture and result.
#include "mien/kernels/cpu/conv_paths.h"
#include "mien/kernels/cpu/direct_maps.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t few = 16;

// Lines of `wide` pixels of `channels` floats: `left` zeros, the picture, zeros. All of image n.
void lay_out_lines(const View& v, std::int64_t n, std::int64_t left, std::int64_t wide, std::int64_t channels, float* to) {
  const float* image = v.ptr<float>() + n * v.stride(0);
  const std::int64_t own = v.size(1), w = v.size(3), step = v.stride(3);
  std::fill_n(to, v.size(2) * wide * channels, 0.f);
  for (std::int64_t y = 0; y < v.size(2); ++y) {
    float* line = to + (y * wide + left) * channels;
    for (std::int64_t c = 0; c < own; ++c) {
      const float* from = image + c * v.stride(1) + y * v.stride(2);
      for (std::int64_t x = 0; x < w; ++x) line[x * channels + c] = from[x * step];
    }
  }
}
void write_map(const float* map, std::int64_t padded, const View& y, std::int64_t n) {
  for (std::int64_t o = 0; o < y.size(1); ++o)
    for (std::int64_t line = 0; line < y.size(2); ++line) {
      float* to = y.ptr<float>() + n * y.stride(0) + o * y.stride(1) + line * y.stride(2);
      const float* from = map + line * y.size(3) * padded + o;
      for (std::int64_t x = 0; x < y.size(3); ++x) to[x * y.stride(3)] = from[x * padded];
    }
}

const char* decline(const KernelArgs& a, const View& w) {
  const auto& p = a.get<ConvParams>();
  if (!all_f32(a)) return "f32 only";
  if (p.groups != 1 || !unit_stride(p) || p.dilation != Pair{1, 1}) return "groups, stride or dilation";
  if (w.size(1) > few) return "many channels";
  for (const std::int64_t pad : {p.padding[0], p.padding[1]})
    if (pad >= w.size(2)) return "more padding than the kernel sees";
  for (const std::int64_t pad : {p.padding[2], p.padding[3]})
    if (pad >= w.size(3)) return "more padding than the kernel sees";
  return nullptr;
}

// y of x, both of any order, `channels` and `outputs` in scratch memory; `above` lines of zeros come first.
struct Plan {
  Convolution c;
  std::int64_t padded, lines, map, images, packed;
  std::int64_t share() const { return round_up(lines + map, 16) + gathered_floats(c); }
};
Plan plan_of(const View& x, const View& y, std::int64_t kh, std::int64_t kw, std::int64_t channels, std::int64_t above) {
  Plan p;
  p.c = {1, y.size(2), y.size(3), padded_channels(y.size(1)), kh, kw, channels, x.size(2), y.size(3) + kw - 1, above, 0};
  p.padded = padded_channels(y.size(1));
  p.lines = x.size(2) * p.c.width * channels;
  p.map = y.size(2) * y.size(3) * p.padded;
  p.packed = round_up(kh * kw * channels * p.padded, 16);
  p.images = x.size(0);
  return p;
}
std::int64_t bytes(const Plan& p) { return 4 * (p.packed + p.padded + shares_of(p.images) * p.share()); }

void convolve_images(const Plan& p, const View& x, const View& y, std::int64_t left, const float* packed, const float* bias, float* scratch) {
  ScratchSlots slots(shares_of(p.images));
  for_shares(p.images, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *lines = scratch + slot.number() * p.share(), *map = lines + p.lines, *gathered = lines + round_up(p.lines + p.map, 16);
    for (std::int64_t n = begin; n < end; ++n) {
      lay_out_lines(x, n, left, p.c.width, p.c.channels, lines);
      convolve(p.c, lines, {p.lines, p.c.width * p.c.channels, p.c.channels}, packed, bias, map, p.padded, gathered);
      write_map(map, p.padded, y, n);
    }
  });
}

// --- forward ---------------------------------------------------------------------------------------------------------
Plan forward_plan(const KernelArgs& a) {
  const View& w = a.in[1];
  return plan_of(a.in[0], a.out[0], w.size(2), w.size(3), w.size(1), a.get<ConvParams>().padding[0]);
}
std::int64_t forward_workspace(const KernelArgs& a) { return bytes(forward_plan(a)); }
void run_forward(const KernelArgs& a) {
  const Plan p = forward_plan(a);
  auto* packed = static_cast<float*>(a.workspace);
  float* bias = packed + p.packed;
  pack_direct(straight(a.in[1]), packed);
  std::fill_n(bias, p.padded, 0.f);
  if (a.in.size() > 2) std::copy_n(a.in[2].ptr<float>(), a.in[2].size(0), bias);
  convolve_images(p, a.in[0], a.out[0], a.get<ConvParams>().padding[2], packed, bias, bias + p.padded);
}
const char* decline_forward(const KernelArgs& a) { return strided_bias(a) ? "the bias is strided" : decline(a, a.in[1]); }

// --- gradient of the input -------------------------------------------------------------------------------------------
Plan input_plan(const KernelArgs& a) {
  const View& w = a.in[1];
  return plan_of(a.in[0], a.out[0], w.size(2), w.size(3), padded_channels(w.size(0)), w.size(2) - 1 - a.get<ConvParams>().padding[0]);
}
std::int64_t input_workspace(const KernelArgs& a) { return bytes(input_plan(a)); }
void run_input(const KernelArgs& a) {
  const Plan p = input_plan(a);
  auto* packed = static_cast<float*>(a.workspace);
  pack_turned(a.in[1], p.c.channels, packed);
  convolve_images(p, a.in[0], a.out[0], a.in[1].size(3) - 1 - a.get<ConvParams>().padding[2], packed, nullptr, packed + p.packed + p.padded);
}
const char* decline_input(const KernelArgs& a) { return decline(a, a.in[1]); }

// --- gradient of the weights -----------------------------------------------------------------------------------------
struct WeightPlan {
  std::int64_t padded, wide, lines, map, sums;
  std::int64_t share() const { return round_up(lines + map + sums, 16); }
};
WeightPlan weight_plan(const KernelArgs& a) {
  const View &gy = a.in[0], &x = a.in[1], &gw = a.out[0];
  const auto& p = a.get<ConvParams>();
  WeightPlan s{padded_channels(gw.size(0)), gy.size(3) + gw.size(3) - 1, 0, 0, 0};
  s.lines = (x.size(2) + p.padding[0] + p.padding[1]) * s.wide * x.size(1);
  s.map = gy.size(2) * gy.size(3) * s.padded;
  s.sums = gw.size(1) * gw.size(2) * gw.size(3) * s.padded;
  return s;
}
std::int64_t weight_workspace(const KernelArgs& a) { return 4 * shares_of(a.in[0].size(0)) * weight_plan(a).share(); }
void run_weight(const KernelArgs& a) {
  const View &gy = a.in[0], &x = a.in[1], &gw = a.out[0];
  const auto& p = a.get<ConvParams>();
  const WeightPlan s = weight_plan(a);
  auto* shares = static_cast<float*>(a.workspace);
  const std::int64_t line = s.wide * x.size(1), n = gy.size(0);
  for_shares(n, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    float *lines = shares + share * s.share(), *map = lines + s.lines, *sums = map + s.map;
    std::fill_n(lines, s.lines, 0.f);
    std::fill_n(sums, s.sums, 0.f);
    for (std::int64_t i = begin; i < end; ++i) {
      lay_out_lines(x, i, p.padding[2], s.wide, x.size(1), lines + p.padding[0] * line);
      lay_out_lines(gy, i, 0, gy.size(3), s.padded, map);
      const DirectPixels d{1, gy.size(2), gy.size(3), 0, line, x.size(1), 0, gy.size(3) * s.padded, s.padded};
      direct_weights(d, gw.size(2), line, gw.size(3) * x.size(1), s.padded, lines, map, sums);
    }
  });
  add_weight_sums(shares + s.lines + s.map, n > 0 ? shares_of(n) : 0, s.share(), s.padded, gw);
}
const char* decline_weight(const KernelArgs& a) { return decline(a, a.out[0]); }

}  // namespace

extern const KernelEntry few_forward{run_forward, decline_forward, forward_workspace};
extern const KernelEntry few_grad_input{run_input, decline_input, input_workspace};
extern const KernelEntry few_grad_weight{run_weight, decline_weight, weight_workspace};

}  // namespace mien::MIEN_LEVEL
