// conv_block for few channels, a vector of pictures at a time: maps are [line][pixel][channel][lane], so 10 channels cost 10 and not 16. A group's map stays in the
// second cache. The forward pass sums in the same order as vectors of channels do: y has the same bits.
#include <array>
#include <utility>

#include "mien/kernels/cpu/conv_block.h"
#include "mien/kernels/cpu/direct.h"
#include "mien/kernels/cpu/lane_conv.h"
#include "mien/kernels/cpu/lane_pictures.h"
#include "mien/kernels/cpu/pool_window.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Sizes : BlockSizes {
  std::int64_t groups() const { return ceil_div(n, lanes); }
  std::int64_t pictures(std::int64_t group) const { return std::min<std::int64_t>(lanes, n - group * lanes); }
  std::int64_t run() const { return kw * c; }
  std::int64_t taps() const { return kh * run(); }
  // Values of one picture; those of a group are `lanes` times as many.
  std::int64_t picture() const { return h * w * c; }
  std::int64_t map() const { return oh * ow * o; }
  std::int64_t pooled() const { return ph * pw * o; }
  std::int64_t weights() const { return taps() * o; }
  // Floats of a group: its pictures, their map, and three values for each pooled one.
  std::int64_t room() const { return (picture() + map() + 3 * pooled()) * lanes; }
};
Sizes sizes_of(const View& x, const View& w, const View& pooled) { return {block_sizes(x, w, pooled)}; }
// Of tap k, counted through lines, columns and input channels, and output channel o.
std::int64_t offset_of(const View& w, std::int64_t o, std::int64_t k) {
  return o * w.stride(0) + k % w.size(1) * w.stride(1) + k / w.size(1) / w.size(3) * w.stride(2) + k / w.size(1) % w.size(3) * w.stride(3);
}

constexpr std::int64_t largest_kernel = 8;  // lines
const char* decline(const Sizes& s) {
  if (s.picture() == 0 || s.o == 0) return "no values";
  if (s.n < lanes) return "fewer pictures than lanes";
  if (4 * round_up(s.o, lanes) * s.n < 5 * s.o * round_up(s.n, lanes)) return "vectors of channels are full enough";
  if (s.kh > largest_kernel) return "the kernel is tall";
  return s.room() > 3 << 15 ? "a group of pictures would not stay in the second cache" : nullptr;
}

// Pictures of a group; lanes without one hold zeros.
void load_pictures(const View& x, const Sizes& s, std::int64_t group, float* to) {
  const std::int64_t count = s.pictures(group), planes = x.is_channels_last() ? 1 : s.c, plane = s.picture() / planes;
  const float* first = x.ptr<float>() + group * lanes * s.picture();
  for (std::int64_t c = 0; c < planes; ++c)
    to_lanes(plane, to + c * lanes, planes * lanes, [=, &s](std::int64_t k, std::int64_t i, auto n) {
      return k < count ? Load(first + k * s.picture() + c * plane + i, n) : Set(0);
    });
}

// --- forward ------------------------------------------------------------------------------------------------------------
// Channels and pixels of a tile: one broadcast serves two multiplications; P-Net's 10 channels are one tile or two.
#if MIEN_LEVEL_IS_avx512
constexpr std::int64_t tile_outputs = 12;
#else
constexpr std::int64_t tile_outputs = 5;
#endif
constexpr int tile_pixels = 2;  // convolve() says which two

using Tile = void (*)(const float* const (*)[tile_pixels], const LaneTaps&, const float*, const float*, const float*, float* const*, std::int64_t, std::int64_t);
template <std::size_t... I>
constexpr std::array<Tile, sizeof...(I)> tiles(std::index_sequence<I...>) {
  return {&lane_tile<static_cast<int>(I) + 1, tile_pixels>...};
}
constexpr auto tile_of = tiles(std::make_index_sequence<tile_outputs>());

// Lines [begin, end) of the map. packed: [tap][channel]. An odd pixel at the end of a line is summed twice.
void convolve(const Sizes& s, const float* x, std::int64_t begin, std::int64_t end, const float* packed, const float* bias, float* map) {
  const LaneTaps taps{s.kh, s.run(), lanes, s.o};
  const std::int64_t cuts = ceil_div(s.o, tile_outputs), x_pixel = s.c * lanes, x_line = s.w * x_pixel, y_pixel = s.o * lanes;
  for (std::int64_t line = begin; line < end; ++line)
    for (std::int64_t column = 0; column < s.ow; column += tile_pixels) {
      const std::int64_t next = std::min(column + 1, s.ow - 1);
      const float* at[largest_kernel][tile_pixels];
      for (std::int64_t i = 0; i < s.kh; ++i) {
        at[i][0] = x + (line + i) * x_line + column * x_pixel;
        at[i][1] = x + (line + i) * x_line + next * x_pixel;
      }
      float *y = map + line * s.ow * y_pixel, *const to[tile_pixels] = {y + column * y_pixel, y + next * y_pixel};
      for (std::int64_t cut = 0; cut < cuts; ++cut) {
        const std::int64_t first = s.o * cut / cuts, some = s.o * (cut + 1) / cuts - first;
        float* const part[tile_pixels] = {to[0] + first * lanes, to[1] + first * lanes};
        tile_of[static_cast<std::size_t>(some - 1)](at, taps, packed + first, bias + first, nullptr, part, lanes, some);
      }
    }
}

struct PooledLanes {
  float *y, *raw, *place;  // [line][pixel][channel][lane]; place holds whole numbers
};

// Line `py` of the pooled map. SIZE: of a square window, 0 for any other.
template <int SIZE>
void activate_and_pool(const Sizes& s, const ConvBlockParams& q, std::int64_t py, const float* map, const float* slopes, const PooledLanes& to) {
  const std::int64_t pixel = s.o * lanes, line = s.ow * pixel, top = py * q.stride[0];
  for (std::int64_t px = 0; px < s.pw; ++px) {
    const std::int64_t left = px * q.stride[1];
    const Window window{std::min(q.kernel[0], s.oh - top), std::min(q.kernel[1], s.ow - left), line, pixel, static_cast<std::int32_t>(q.kernel[1]), 1};
    for (std::int64_t c = 0; c < s.o; ++c) {
      const float* corner = map + top * line + left * pixel + c * lanes;
      const Winner best = prelu_winner<SIZE>(corner, window, Set(slopes[c]), slopes[c] > 0);
      const std::int64_t at = ((py * s.pw + px) * s.o + c) * lanes;
      Store(best.value, to.y + at);
      Store(best.raw, to.raw + at);
      Store(reinterpret_cast<Vec>(best.at), to.place + at);
    }
  }
}

struct Forward {
  explicit Forward(const KernelArgs& a) : s(sizes_of(a.in[0], a.in[1], a.out[0])), parameters(round_up(s.weights() + 2 * s.o, 16)) {}
  Sizes s;
  std::int64_t parameters;  // floats: weights, bias and slopes
};
std::int64_t forward_workspace(const KernelArgs& a) {
  const Forward f(a);
  return 4 * (f.parameters + shares_of(f.s.groups()) * f.s.room());
}
void run_forward(const KernelArgs& a) {
  const Forward f(a);
  const Sizes& s = f.s;
  const View &x = a.in[0], &w = a.in[1];
  const auto& q = a.get<ConvBlockParams>();
  auto* packed = static_cast<float*>(a.workspace);
  float *bias = packed + s.weights(), *slopes = bias + s.o, *rooms = packed + f.parameters;
  for (std::int64_t k = 0; k < s.taps(); ++k)
    for (std::int64_t o = 0; o < s.o; ++o)
      packed[k * s.o + o] = w.ptr<float>()[offset_of(w, o, k)];
  for (std::int64_t o = 0; o < s.o; ++o) bias[o] = value_of(a.in[2], o), slopes[o] = value_of(a.in[3], o);
  const auto pool = for_window(q.kernel, activate_and_pool<0>, activate_and_pool<1>, activate_and_pool<2>, activate_and_pool<3>);
  ScratchSlots slots(shares_of(s.groups()));
  for_shares(s.groups(), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *pictures = rooms + slot.number() * s.room(), *map = pictures + s.picture() * lanes, *y = map + s.map() * lanes;
    const PooledLanes pooled{y, y + s.pooled() * lanes, y + 2 * s.pooled() * lanes};
    for (std::int64_t group = begin; group < end; ++group) {
      load_pictures(x, s, group, pictures);
      std::int64_t made = 0;
      for (std::int64_t py = 0; py < s.ph; ++py) {  // lines of the map are pooled as soon as they are there
        const std::int64_t wanted = std::min(py * q.stride[0] + q.kernel[0], s.oh);
        convolve(s, pictures, std::max(made, py * q.stride[0]), wanted, packed, bias, map);
        made = wanted;
        pool(s, q, py, map, slopes, pooled);
      }
      const std::int64_t first = group * lanes * s.pooled();
      const auto put = [&](const View& out) {
        return [&s, to = out.ptr<float>() + first](std::int64_t k, std::int64_t i, Vec v, auto n) { Store(v, to + k * s.pooled() + i, n); };
      };
      from_lanes(pooled.y, s.pooled(), s.pictures(group), put(a.out[0]));
      from_lanes(pooled.raw, s.pooled(), s.pictures(group), put(a.out[1]));
      from_lanes(pooled.place, s.pooled(), s.pictures(group), [&, to = a.out[2].ptr<std::uint8_t>() + first](std::int64_t k, std::int64_t i, Vec v, auto n) {
        StoreBytes(reinterpret_cast<Ints>(v), to + k * s.pooled() + i, n);
      });
    }
  });
}
const char* decline_forward(const KernelArgs& a) {
  if (const char* reason = decline_block(a)) return reason;
  return decline(sizes_of(a.in[0], a.in[1], a.out[0]));
}

// --- gradient -----------------------------------------------------------------------------------------------------------
// Line `py` of the pooled map: what PReLU lets through goes to the winners, sums of it and of the slopes' gradient to `sums` [2][channel][lane]. SIZE: of a square
// window, 0 for any other. WRITES: windows do not overlap; otherwise it is added.
template <int SIZE, bool WRITES>
void spread(const Sizes& s, const ConvBlockParams& q, std::int64_t py, const PooledLanes& from, const float* slopes, float* map, float* sums) {
  const std::int64_t pixel = s.o * lanes, line = s.ow * pixel, rows = std::min(q.kernel[0], s.oh - py * q.stride[0]);
  for (std::int64_t c = 0; c < s.o; ++c) {
    PreluGradient gradient{Set(slopes[c]), Load(sums + c * lanes), Load(sums + (s.o + c) * lanes)};
    for (std::int64_t px = 0; px < s.pw; ++px) {
      const std::int64_t at = ((py * s.pw + px) * s.o + c) * lanes, cols = std::min(q.kernel[1], s.ow - px * q.stride[1]);
      const Vec d = gradient.pass(Load(from.y + at), Load(from.raw + at));
      float* corner = map + py * q.stride[0] * line + px * q.stride[1] * pixel + c * lanes;
      spread_window<SIZE, WRITES>(corner, line, pixel, rows, cols, q.kernel[1], d, reinterpret_cast<Ints>(Load(from.place + at)));
    }
    Store(gradient.bias_sum, sums + c * lanes);
    Store(gradient.slope_sum, sums + (s.o + c) * lanes);
  }
}
struct Spread {
  void (*line)(const Sizes&, const ConvBlockParams&, std::int64_t, const PooledLanes&, const float*, float*, float*);
  bool writes;  // all of the map; otherwise it must hold zeros
};
Spread spread_for(const Sizes& s, const ConvBlockParams& q) {
  const bool apart = q.kernel == q.stride && s.ph * q.stride[0] >= s.oh && s.pw * q.stride[1] >= s.ow;
  if (apart && q.kernel == Pair{1, 1}) return {spread<1, true>, true};
  if (apart && q.kernel == Pair{2, 2}) return {spread<2, true>, true};
  return {spread<0, false>, false};
}

struct Backward {
  explicit Backward(const KernelArgs& a)
      : s(sizes_of(a.in[1], a.in[2], a.in[0])), share(s.weights() * lanes + round_up(4 * s.o, 16)), room(s.room() + 2 * s.o * lanes), slopes(round_up(s.o, 16)) {}
  Sizes s;
  std::int64_t share, room, slopes;  // floats: of each share sums of weights, and of bias and slope in double; of each that runs; of the slopes
};
std::int64_t backward_workspace(const KernelArgs& a) {
  const Backward b(a);
  return 4 * (b.slopes + shares_of(b.s.groups()) * (b.share + b.room));
}
void run_backward(const KernelArgs& a) {
  const Backward b(a);
  const Sizes& s = b.s;
  const View &gy = a.in[0], &raw = a.in[4], &places = a.in[5], &gw = a.out[1], &gb = a.out[2], &ga = a.out[3];
  const auto& q = a.get<ConvBlockParams>();
  const std::int64_t number = shares_of(s.groups());
  auto* slopes = static_cast<float*>(a.workspace);
  float *shares = slopes + b.slopes, *rooms = shares + number * b.share;
  const auto doubles = [&](std::int64_t share) { return reinterpret_cast<double*>(shares + share * b.share + s.weights() * lanes); };  // of bias, then of slope
  for (std::int64_t o = 0; o < s.o; ++o) slopes[o] = value_of(a.in[3], o);
  const Spread spread = spread_for(s, q);
  ScratchSlots slots(number);
  for_shares(s.groups(), [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *sums = shares + share * b.share, *pictures = rooms + slot.number() * b.room, *map = pictures + s.picture() * lanes, *kept = map + s.map() * lanes;
    const PooledLanes pooled{kept, kept + s.pooled() * lanes, kept + 2 * s.pooled() * lanes};
    float* small = kept + 3 * s.pooled() * lanes;
    double* exact = doubles(share);
    std::fill_n(sums, s.weights() * lanes, 0.f);
    std::fill_n(exact, 2 * s.o, 0.0);
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t count = s.pictures(group), first = group * lanes * s.pooled();
      const auto take = [&](const View& in, float otherwise) {
        return [&s, count, otherwise, from = in.ptr<float>() + first](std::int64_t k, std::int64_t i, auto n) {
          return k < count ? Load(from + k * s.pooled() + i, n) : Set(otherwise);
        };
      };
      to_lanes(s.pooled(), pooled.y, lanes, take(gy, 0));  // no gradient, and none of a slope
      to_lanes(s.pooled(), pooled.raw, lanes, take(raw, 1));
      to_lanes(s.pooled(), pooled.place, lanes, [&, from = places.ptr<std::uint8_t>() + first](std::int64_t k, std::int64_t i, auto n) {
        return k < count ? reinterpret_cast<Vec>(LoadBytes(from + k * s.pooled() + i, n)) : Set(0);
      });
      load_pictures(a.in[1], s, group, pictures);
      if (!spread.writes) std::fill_n(map, s.map() * lanes, 0.f);
      std::fill_n(small, 2 * s.o * lanes, 0.f);
      for (std::int64_t py = 0; py < s.ph; ++py) spread.line(s, q, py, pooled, slopes, map, small);
      for (std::int64_t i = 0; i < 2 * s.o * lanes; ++i) exact[i / lanes] += static_cast<double>(small[i]);
      const std::int64_t x_pixel = s.c * lanes, x_line = s.w * x_pixel, pixel = s.o * lanes;
      direct_weights<Pictures>({1, s.oh, s.ow, 0, x_line, x_pixel, 0, s.ow * pixel, pixel}, s.kh, x_line, s.run(), pixel, pictures, map, sums);
    }
  });
  // Shares in order, then lanes in order: the same bits for any number of threads.
  const auto total = [](Vec v) {
    float values[lanes], sum = 0;
    Store(v, values);
    for (const float x : values) sum += x;
    return sum;
  };
  for (std::int64_t k = 0; k < s.taps(); ++k)
    for (std::int64_t o = 0; o < s.o; ++o) {
      Vec sum = Set(0);
      for (std::int64_t share = 0; share < number; ++share) sum = Add(sum, Load(shares + share * b.share + (k * s.o + o) * lanes));
      gw.ptr<float>()[offset_of(gw, o, k)] = total(sum);
    }
  double all_slopes = 0;
  for (std::int64_t o = 0; o < s.o; ++o) {
    double bias_sum = 0, slope_sum = 0;
    for (std::int64_t share = 0; share < number; ++share) bias_sum += doubles(share)[o], slope_sum += doubles(share)[s.o + o];
    gb.ptr<float>()[o * gb.stride(0)] = static_cast<float>(bias_sum);
    all_slopes += slope_sum;
    if (ga.size(0) > 1) ga.ptr<float>()[o * ga.stride(0)] = static_cast<float>(slope_sum);
  }
  if (ga.size(0) == 1) *ga.ptr<float>() = static_cast<float>(all_slopes);
}
const char* decline_backward(const KernelArgs& a) {
  if (const char* reason = decline_block_backward(a)) return reason;
  if (a.get<ConvBlockParams>().input_gradient) return "the input's gradient is wanted";
  if (!a.in[0].is_channels_last()) return "the gradient is not channels_last";
  const Sizes s = sizes_of(a.in[1], a.in[2], a.in[0]);
  // Every tile loads and stores sums for each group: that must not outweigh the pixels that it sums. Measured: slower where there are more sums than values.
  if (s.weights() > s.picture() + s.map()) return "more weights than pixels";
  return decline(s);
}

}  // namespace

extern const KernelEntry conv_block_of_pictures{run_forward, decline_forward, forward_workspace};
extern const KernelEntry conv_block_backward_of_pictures{run_backward, decline_backward, backward_workspace};

}  // namespace mien::MIEN_LEVEL
