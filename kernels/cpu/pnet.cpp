// P-Net over all scales of a picture. One band of rows of one scale after the other: rows of the resized picture, of the pooled first layer and of the second
// layer live in short rings that stay in the L2 cache; of the third layer only one tile exists at a time, of the heads only the cells above the threshold.
// Lanes are neighbouring pixels.
//
// Note [Columns apart]: rows of the pooled first layer and of the second layer lie as their even and their odd columns, as Winograd's tiles want them. A row of the
// resized picture lies as four quarters, columns 4q, 4q + 1, 4q + 2 and 4q + 3: a lane computes two neighbours of the first layer, pooling is a maximum of two
// registers, and the even and the odd columns of the pooled layer come apart.
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "mien/kernels/cpu/area.h"
#include "mien/kernels/cpu/lane_winograd.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr int c1 = 10, c2 = 16, c3 = 32;                        // channels of the three layers
constexpr int first_outputs = lane_outputs == 8 ? 10 : 5;                  // of the first layer at once, at two columns each
constexpr int tile_vectors = lanes == 16 ? 2 : winograd_vectors;  // three of 16 lanes, transformed, would fill the first cache
constexpr int ring = 4;                                         // rows that a 3x3 convolution needs for two rows
constexpr std::int64_t least_band_rows = 36;                    // for several threads; even

// The parts of the workspace that are made once: weights in the order in which the tiles read them, [outputs / step][kh][kw][channels][step] or as Winograd's.
struct Weights {
  float first[27 * c1], second[WinogradTwo::products * c1 * c2], third[WinogradTwo::products * c2 * c3], face[2 * c3], box[4 * c3];
  float bias1[c1], slope1[c1], bias2[c2], slope2[c2], bias3[c3], slope3[c3], face_bias[2], box_bias[4];
};

void pack(const View& w, float* to, std::int64_t step) {
  for (std::int64_t o0 = 0; o0 < w.size(0); o0 += step)
    for (std::int64_t i = 0; i < w.size(2); ++i)
      for (std::int64_t j = 0; j < w.size(3); ++j)
        for (std::int64_t c = 0; c < w.size(1); ++c)
          for (std::int64_t o = o0; o < o0 + step; ++o) *to++ = w.ptr<float>()[o * w.stride(0) + c * w.stride(1) + i * w.stride(2) + j * w.stride(3)];
}
void pack_winograd(const View& w, float* to) {
  const std::int64_t channels = w.size(1), step = winograd_channels;
  for (std::int64_t o = 0; o < w.size(0); ++o)
    for (std::int64_t c = 0; c < channels; ++c) {
      double g[3][3], u[4][4];
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) g[i][j] = static_cast<double>(w.ptr<float>()[o * w.stride(0) + c * w.stride(1) + i * w.stride(2) + j * w.stride(3)]);
      winograd_kernel<WinogradTwo>(g, u);
      for (std::int64_t k = 0; k < WinogradTwo::products; ++k)
        to[((o / step * WinogradTwo::products + k) * channels + c) * step + o % step] = static_cast<float>(u[k / 4][k % 4]);
    }
}
void pack(const View& v, float* to) {
  for (std::int64_t i = 0; i < v.size(0); ++i) to[i] = v.ptr<float>()[i * v.stride(0)];
}
void pack_all(const KernelArgs& args, Weights& to) {
  const auto in = args.in.subspan(2);
  pack(in[0], to.first, first_outputs), pack_winograd(in[3], to.second), pack_winograd(in[6], to.third), pack(in[9], to.face, 2), pack(in[11], to.box, 4);
  pack(in[1], to.bias1), pack(in[2], to.slope1), pack(in[4], to.bias2), pack(in[5], to.slope2), pack(in[7], to.bias3), pack(in[8], to.slope3);
  pack(in[10], to.face_bias), pack(in[12], to.box_bias);
}

// One scale: the resized picture, the pooled first layer, and the cells (the second layer has two rows and columns more than there are cells).
struct Scale {
  std::int64_t h, w, pooled_h, pooled_w, cells_h, cells_w, first_cell, band, bands;  // rows of a band, and how many of them
};
std::int64_t scale_count(const KernelArgs& args) { return args.in[1].size(0); }
Scale scale_of(const KernelArgs& args, std::int64_t s, std::int64_t first_cell, std::int64_t threads) {
  const View& sizes = args.in[1];
  const auto side = [&](std::int64_t i) { return sizes.ptr<std::int64_t>()[s * sizes.stride(0) + i * sizes.stride(1)]; };
  Scale a{side(0), side(1), (side(0) - 1) / 2, (side(1) - 1) / 2, (side(0) - 1) / 2 - 4, (side(1) - 1) / 2 - 4, first_cell, 0, 0};
  // Every band repeats 4 rows of the pooled layer: no more bands than keep the threads busy. Results do not depend on it.
  a.band = threads == 1 ? a.cells_h : std::max(least_band_rows, round_up(ceil_div(a.cells_h, 2 * threads), 2));
  a.bands = a.cells_h ? ceil_div(a.cells_h, a.band) : 0;
  return a;
}

struct Candidate {
  std::int64_t cell;
  float values[5];
};

// Lengths of planes, in floats: whole vectors with room for the loads beyond, and an odd number of cache lines so that planes spread over the cache's sets.
std::int64_t plane_of(std::int64_t width) { return (round_up(width + 2 * lanes, 16) / 16 | 1) * 16; }
struct Sizes {
  std::int64_t quarter, pooled, second, picture_row, scratch;  // floats but for scratch, which is bytes; of quarters and halves of a plane's row
};
constexpr std::int64_t tile_floats = winograd_scratch<WinogradTwo>(c2) + c3 * 4 * winograd_vectors * lanes;
Sizes sizes_of(const Scale& s) {
  Sizes z{};
  z.quarter = plane_of((s.pooled_w + 1) / 2 + 1);
  z.pooled = plane_of((s.pooled_w + 1) / 2);
  z.second = plane_of((s.pooled_w - 1) / 2);
  z.picture_row = 3 * 4 * z.quarter;
  const std::int64_t floats = 4 * z.picture_row + ring * 2 * (c1 * z.pooled + c2 * z.second) + tile_floats + round_up(3 * (s.w + 4), 16);
  z.scratch = round_up(4 * floats, 64) + round_up(2 * s.cells_w * static_cast<std::int64_t>(sizeof(Candidate)), 64);
  return z;
}

// --- the layers ------------------------------------------------------------------------------------------------------

// One row of the first layer at 2 * lanes columns, first_outputs channels: the larger one of each pair of columns, and of what is there already in the second of
// the two rows that are pooled. column[k]: where column k of a window and its neighbours in the other lanes lie in a row; `channel` floats from channel to channel.
// `limit`: infinity, or minus infinity where the second column of a pair lies outside.
[[gnu::noinline]] void first_tile(const float* const (&rows)[3], const std::int64_t (&column)[4], std::int64_t channel, const float* w, const float* bias, const float* slope,
                                  Vec limit, bool second, float* out, std::int64_t plane) {
  Vec acc[first_outputs][2];
  start(acc, bias);
  for (std::int64_t i = 0; i < 3; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j, w += 3 * first_outputs) {
      const float* const at[2] = {rows[i] + column[j], rows[i] + column[j + 1]};
      accumulate<first_outputs, 2>(at, 3, channel, w, first_outputs, acc);
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < first_outputs; ++o) {
    const Vec a = Set(slope[o]);
    Vec best = Max(prelu_of(acc[o][0], a), Min(limit, prelu_of(acc[o][1], a)));
    if (second) best = Max(Load(out + o * plane), best);
    Store(best, out + o * plane);
  }
}

// A row of the pooled first layer out of four rows of the picture; `rows` of its two convolution rows exist. Columns of the first layer end at `columns`.
void pooled_row(const Weights& w, const float* const* picture, std::int64_t quarter, std::int64_t rows, std::int64_t columns, float* out, std::int64_t half) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::int64_t q = 0; 4 * q < columns; q += lanes)
    for (std::int64_t odd = 0; odd < 2; ++odd) {
      float limit[lanes];
      for (std::int64_t k = 0; k < lanes; ++k) limit[k] = 4 * (q + k) + 2 * odd + 1 < columns ? infinity : -infinity;
      std::int64_t column[4];
      for (std::int64_t k = 0; k < 4; ++k) column[k] = (2 * odd + k) % 4 * quarter + (2 * odd + k) / 4 + q;
      for (int o = 0; o < c1; o += first_outputs)
        for (std::int64_t row = 0; row < rows; ++row) {
          const float* const at[3] = {picture[row], picture[row + 1], picture[row + 2]};
          first_tile(at, column, 4 * quarter, w.first + 27 * o, w.bias1 + o, w.slope1 + o, Load(limit), row > 0, out + (2 * o + odd) * half + q, 2 * half);
        }
    }
}

WinogradInput<WinogradTwo> patches_at(const float* const (&rows)[ring], std::int64_t half, std::int64_t p, std::int64_t channels) {
  return {{rows[0] + p, rows[1] + p, rows[2] + p, rows[3] + p}, {0, half, 1, half + 1}, 2 * half, lanes, channels};
}
// Where the outputs of R vectors of tiles go, given where the four of the first go.
template <int R>
struct Targets {
  float* at[R][4];
  Targets(float* a, float* b, float* c, float* d) {
    for (int r = 0; r < R; ++r) at[r][0] = a + r * lanes, at[r][1] = b + r * lanes, at[r][2] = c + r * lanes, at[r][3] = d + r * lanes;
  }
};

// Softmax of two classes in float steps: see face/detector.cpp for why no other formula will do.
float face_probability(float no, float yes) {
  const float top = std::max(no, yes), a = std::exp(no - top), b = std::exp(yes - top);
  return b / (a + b);
}

struct Threshold {
  float probability, margin;  // margin: a lower bound of yes - no where the probability may reach the threshold
  explicit Threshold(float p) : probability(p) {
    const double low = static_cast<double>(p) - 1e-6;
    margin = low <= 0 ? -std::numeric_limits<float>::infinity() : static_cast<float>(std::log(low / (1 - low)) - 1e-3);
  }
};

// The heads at two rows of cells, columns 2 * (p + lane) and the odd ones beside them; third: [channel][2 * row + odd column], `step`
// floats apart. Adds the cells above the threshold to `found` (a list for each row, `count` long so far).
void heads(const Weights& w, const float* third, std::int64_t step, std::int64_t p, std::int64_t y, const Scale& s, const Threshold& threshold, Candidate* found,
           std::int64_t* count) {
  Vec face[2][4];
  const float* const at[4] = {third, third + step, third + 2 * step, third + 3 * step};
  start(face, w.face_bias);
  accumulate<2, 4>(at, c3, 4 * step, w.face, 2, face);
  for (std::int64_t r = 0; r < 2; ++r) {
    float no[2][lanes], yes[2][lanes], box[2][4][lanes];
    bool any = false;
    for (std::int64_t odd = 0; odd < 2; ++odd) {
      Store(face[0][2 * r + odd], no[odd]);
      Store(face[1][2 * r + odd], yes[odd]);
      for (std::int64_t k = 0; k < lanes; ++k) any |= yes[odd][k] - no[odd][k] >= threshold.margin;
    }
    if (!any) continue;
    Vec acc[4][2];
    const float* const here[2] = {at[2 * r], at[2 * r + 1]};
    start(acc, w.box_bias);
    accumulate<4, 2>(here, c3, 4 * step, w.box, 4, acc);
    for (int o = 0; o < 4; ++o)
      for (int odd = 0; odd < 2; ++odd) Store(acc[o][odd], box[odd][o]);
    const std::int64_t width = std::min<std::int64_t>(2 * lanes, s.cells_w - 2 * p);
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t odd = i % 2, k = i / 2;
      if (!(yes[odd][k] - no[odd][k] >= threshold.margin)) continue;
      const float probability = face_probability(no[odd][k], yes[odd][k]);
      if (probability < threshold.probability) continue;
      const auto& b = box[odd];
      found[r * s.cells_w + count[r]++] = {(y + r) * s.cells_w + 2 * p + i, {probability, b[0][k], b[1][k], b[2][k], b[3][k]}};
    }
  }
}

// --- a band ----------------------------------------------------------------------------------------------------------

struct Found {  // where candidates of a band go
  std::int64_t* cells;
  float* values;
  std::int64_t count = 0;
};

class Band {
 public:
  // `scratch` must hold finite numbers: lanes beyond the end of a row compute with what lies there.
  Band(const KernelArgs& args, const Weights& weights, const Scale& scale, std::byte* scratch, std::byte* end, std::byte* columns)
      : weights_(weights), scale_(scale), sizes_(sizes_of(scale)), threshold_(args.get<PnetParams>().threshold),
        picture_(args.in[0].ptr<std::uint8_t>(), args.in[0].stride(1), {args.in[0].size(1), scale.h}, {args.in[0].size(2), scale.w}, 127.5f, 1.f / 128, columns) {
    auto* at = reinterpret_cast<float*>(scratch);
    const auto take = [&](std::int64_t n) { return std::exchange(at, at + n); };
    for (auto& row : rows_) row = take(sizes_.picture_row);
    for (auto& row : pooled_) row = take(2 * c1 * sizes_.pooled);
    for (auto& row : second_) row = take(2 * c2 * sizes_.second);
    tiles_ = take(tile_floats);
    resized_ = take(round_up(3 * (scale.w + 4), 16));
    candidates_ = reinterpret_cast<Candidate*>(end) - 2 * scale.cells_w;  // at the end: never where the floats of another scale lie
  }

  void run(std::int64_t begin, std::int64_t end, Found& found) {
    next_row_ = 2 * begin, next_pooled_ = begin, next_second_ = begin;
    for (std::int64_t y = begin; y < end; y += 2) {
      const std::int64_t rows = std::min<std::int64_t>(2, end - y);
      make_second(y + rows + 2);
      std::int64_t count[2] = {};
      make_cells(y, count);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < count[r]; ++i) {
          const Candidate& c = candidates_[r * scale_.cells_w + i];
          found.cells[found.count] = c.cell;
          std::copy_n(c.values, 5, found.values + 5 * found.count++);
        }
    }
  }

 private:
  // Rows y and y + 1. A row past the end is made of what the ring holds, and forgotten.
  void make_cells(std::int64_t y, std::int64_t* count) {
    const float* const in[ring] = {second_[y % ring], second_[(y + 1) % ring], second_[(y + 2) % ring], second_[(y + 3) % ring]};
    float* third = tiles_ + winograd_scratch<WinogradTwo>(c2);
    for_patches<tile_vectors>(ceil_div((scale_.cells_w + 1) / 2, lanes), [&](std::int64_t vector, auto vectors) {
      constexpr int R = decltype(vectors)::value;
      const std::int64_t p = vector * lanes;
      const Targets<R> to(third, third + R * lanes, third + 2 * R * lanes, third + 3 * R * lanes);
      winograd_patches<WinogradTwo, R>(patches_at(in, sizes_.second, p, c2), weights_.third, weights_.bias3, weights_.slope3, c3, to.at, 4 * R * lanes, tiles_);
      for (int r = 0; r < R; ++r) heads(weights_, third + r * lanes, R * lanes, p + r * lanes, y, scale_, threshold_, candidates_, count);
    });
  }

  void make_second(std::int64_t end) {  // rows [next_second_, end)
    for (; next_second_ < end; next_second_ += 2) {
      const std::int64_t y = next_second_;
      make_pooled(std::min(y + 4, scale_.pooled_h));
      const float* const in[ring] = {pooled_[y % ring], pooled_[(y + 1) % ring], pooled_[(y + 2) % ring], pooled_[(y + 3) % ring]};
      float *first = second_[y % ring], *second = second_[(y + 1) % ring];
      for_patches<tile_vectors>(ceil_div((scale_.pooled_w - 1) / 2, lanes), [&](std::int64_t vector, auto vectors) {
        constexpr int R = decltype(vectors)::value;
        const std::int64_t p = vector * lanes;
        const Targets<R> to(first + p, first + sizes_.second + p, second + p, second + sizes_.second + p);
        winograd_patches<WinogradTwo, R>(patches_at(in, sizes_.pooled, p, c1), weights_.second, weights_.bias2, weights_.slope2, c2, to.at, 2 * sizes_.second, tiles_);
      });
    }
  }

  void make_pooled(std::int64_t end) {
    for (; next_pooled_ < end; ++next_pooled_) {
      const std::int64_t top = 2 * next_pooled_;
      for (; next_row_ < std::min(top + 4, scale_.h); ++next_row_) make_row(next_row_);
      const float* in[4];
      for (std::int64_t r = 0; r < 4; ++r) in[r] = rows_[(top + r) % 4];
      pooled_row(weights_, in, sizes_.quarter, std::min<std::int64_t>(2, scale_.h - 2 - top), scale_.w - 2, pooled_[next_pooled_ % ring], sizes_.pooled);
    }
  }

  void make_row(std::int64_t y) {
    const std::int64_t plane = scale_.w + 4;  // so that the last column has its three neighbours
    picture_.row(y, resized_, plane);
    float* to = rows_[y % 4];
    for (std::int64_t c = 0; c < 3; ++c, to += 4 * sizes_.quarter) {
      float* row = resized_ + c * plane;
      std::fill_n(row + scale_.w, 4, 0.f);
      for (std::int64_t q = 0; 4 * q < scale_.w; ++q)
        for (std::int64_t k = 0; k < 4; ++k) to[k * sizes_.quarter + q] = row[4 * q + k];
    }
  }

  const Weights& weights_;
  const Scale& scale_;
  const Sizes sizes_;
  const Threshold threshold_;
  const AreaRows picture_;
  std::array<float*, 4> rows_{};
  std::array<float*, ring> pooled_{}, second_{};
  float *tiles_ = nullptr, *resized_ = nullptr;
  Candidate* candidates_ = nullptr;
  std::int64_t next_row_ = 0, next_pooled_ = 0, next_second_ = 0;
};

// --- the kernel ------------------------------------------------------------------------------------------------------

// Bytes of the workspace, in this order, for any number of threads: it may change between the booking and the run.
struct Layout {
  std::int64_t weights, scales, counts, columns, scratch;
  explicit Layout(const KernelArgs& args) : weights(round_up(sizeof(Weights), 64)), scales(round_up(scale_count(args) * static_cast<std::int64_t>(sizeof(Scale)), 64)), columns(0), scratch(0) {
    std::int64_t most_bands = 0;
    for (std::int64_t s = 0; s < scale_count(args); ++s) {
      const Scale a = scale_of(args, s, 0, 1);
      most_bands += ceil_div(a.cells_h, least_band_rows);
      scratch = std::max(scratch, sizes_of(a).scratch);
      columns = std::max(columns, AreaRows::scratch_bytes(args.in[0].size(2), a.w));
    }
    counts = round_up(most_bands * 8, 64);
  }
  std::int64_t bytes() const { return weights + scales + counts + max_shares * (columns + scratch); }
};

void run(const KernelArgs& args) {
  const Layout layout(args);
  auto* at = static_cast<std::byte*>(args.workspace);
  const auto take = [&](std::int64_t bytes) { return std::exchange(at, at + bytes); };
  auto* weights = reinterpret_cast<Weights*>(take(layout.weights));
  auto* scales = reinterpret_cast<Scale*>(take(layout.scales));
  auto* counts = reinterpret_cast<std::int64_t*>(take(layout.counts));
  std::byte *columns = take(max_shares * layout.columns), *scratch = at;
  pack_all(args, *weights);
  const std::int64_t n = scale_count(args), threads = num_threads();
  std::int64_t units = 0;
  for (std::int64_t s = 0, cell = 0; s < n; ++s) {
    scales[s] = scale_of(args, s, cell, threads);
    cell += scales[s].cells_h * scales[s].cells_w;
    units += scales[s].bands;
  }
  auto* cells = args.out[0].ptr<std::int64_t>();
  auto* values = args.out[1].ptr<float>();

  // Bands are of about the same cost within a scale and cheaper from scale to scale, so the shares take them in turn. Each writes to the place of its own cells.
  const std::int64_t shares = threads == 1 ? 1 : shares_of(units);
  ScratchSlots slots(shares);
  bool finite[max_shares] = {};  // a slot's memory
  parallel_for(shares, 1, [&](std::int64_t share, std::int64_t) {
    const auto slot = slots.take();
    std::byte *own = scratch + slot.number() * layout.scratch, *own_columns = columns + slot.number() * layout.columns;
    if (!std::exchange(finite[slot.number()], true)) std::fill_n(own, layout.scratch, std::byte{0});
    for (std::int64_t s = 0, first = 0; s < n; first += scales[s++].bands)
      for (std::int64_t b = (share - first % shares + shares) % shares; b < scales[s].bands; b += shares) {
        const std::int64_t from = scales[s].first_cell + b * scales[s].band * scales[s].cells_w;
        Found found{cells + from, values + 5 * from};
        Band(args, *weights, scales[s], own, own + layout.scratch, own_columns).run(b * scales[s].band, std::min(scales[s].cells_h, (b + 1) * scales[s].band), found);
        counts[first + b] = found.count;
      }
  });

  std::int64_t total = 0;
  for (std::int64_t s = 0, unit = 0; s < n; ++s) {
    const std::int64_t before = total;
    for (std::int64_t b = 0; b < scales[s].bands; ++b, ++unit) {
      const std::int64_t from = scales[s].first_cell + b * scales[s].band * scales[s].cells_w;
      std::copy_n(cells + from, counts[unit], cells + total);
      std::copy_n(values + 5 * from, 5 * counts[unit], values + 5 * total);
      total += counts[unit];
    }
    args.out[2].ptr<std::int64_t>()[s] = total - before;
  }
}

const char* decline(const KernelArgs& args) {
  const View& image = args.in[0];
  if (args.out[1].dtype != DType::f32) return "f32 only";
  for (const auto& v : args.in.subspan(2))
    if (v.dtype != DType::f32) return "f32 only";
  for (const auto& v : args.out)
    if (!v.is_contiguous()) return "an output is not contiguous";
  if (image.stride(0) != 1 || image.stride(2) != 3) return "the picture's channels do not lie side by side";
  if (!AreaRows::fits({image.size(1), 11}, {image.size(2), 11})) return "the picture is too large";  // for the smallest scale there may be
  return nullptr;
}
std::int64_t workspace(const KernelArgs& args) { return Layout(args).bytes(); }

}  // namespace

extern const KernelEntry pnet_candidates_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
