// P-Net over all scales of a picture. One band of rows of one scale after the other: rows of the resized picture, of the pooled first layer and of the second
// layer live in short rings that stay in the L2 cache; of the third layer only one tile exists at a time, of the heads only the cells above the threshold.
// Lanes are neighbouring pixels.
//
// Note [Even and odd columns]: a row of the resized picture is stored as its even and its odd columns. Lane p then computes the columns 2p and 2p + 1 of the
// first layer, and pooling is a maximum of two registers.
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "mien/kernels/cpu/area.h"
#include "mien/kernels/cpu/lane_conv.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr int c1 = 10, c2 = 16, c3 = 32;                        // channels of the three layers
constexpr int first_outputs = lane_outputs == 8 ? 10 : 5;                  // of the first layer at once, at two columns each
constexpr int ring = lane_positions + 2;                        // rows that a 3x3 convolution needs for lane_positions rows
constexpr std::int64_t band_rows = 36;                          // a multiple of lane_positions; halos repeat 4 rows of the pooled layer

// The parts of the workspace that are made once: weights in the order in which the tiles read them, [outputs / step][kh][kw][channels][step].
struct Weights {
  float first[27 * c1], second[9 * c1 * c2], third[9 * c2 * c3], face[2 * c3], box[4 * c3];
  float bias1[c1], slope1[c1], bias2[c2], slope2[c2], bias3[c3], slope3[c3], face_bias[2], box_bias[4];
};

void pack(const View& w, float* to, std::int64_t step) {
  for (std::int64_t o0 = 0; o0 < w.size(0); o0 += step)
    for (std::int64_t i = 0; i < w.size(2); ++i)
      for (std::int64_t j = 0; j < w.size(3); ++j)
        for (std::int64_t c = 0; c < w.size(1); ++c)
          for (std::int64_t o = o0; o < o0 + step; ++o) *to++ = w.ptr<float>()[o * w.stride(0) + c * w.stride(1) + i * w.stride(2) + j * w.stride(3)];
}
void pack(const View& v, float* to) {
  for (std::int64_t i = 0; i < v.size(0); ++i) to[i] = v.ptr<float>()[i * v.stride(0)];
}
void pack_all(const KernelArgs& args, Weights& to) {
  const auto in = args.in.subspan(2);
  pack(in[0], to.first, first_outputs), pack(in[3], to.second, lane_outputs), pack(in[6], to.third, lane_outputs), pack(in[9], to.face, 2), pack(in[11], to.box, 4);
  pack(in[1], to.bias1), pack(in[2], to.slope1), pack(in[4], to.bias2), pack(in[5], to.slope2), pack(in[7], to.bias3), pack(in[8], to.slope3);
  pack(in[10], to.face_bias), pack(in[12], to.box_bias);
}

// One scale: the resized picture, the pooled first layer, and the cells (the second layer has two rows and columns more than there are cells).
struct Scale {
  std::int64_t h, w, pooled_h, pooled_w, cells_h, cells_w, first_cell, bands;
};
std::int64_t scale_count(const KernelArgs& args) { return args.in[1].size(0); }
Scale scale_of(const KernelArgs& args, std::int64_t s, std::int64_t first_cell) {
  const View& sizes = args.in[1];
  const auto side = [&](std::int64_t i) { return sizes.ptr<std::int64_t>()[s * sizes.stride(0) + i * sizes.stride(1)]; };
  Scale a{side(0), side(1), (side(0) - 1) / 2, (side(1) - 1) / 2, (side(0) - 1) / 2 - 4, (side(1) - 1) / 2 - 4, first_cell, 0};
  a.bands = (a.cells_h + band_rows - 1) / band_rows;
  return a;
}

struct Candidate {
  std::int64_t cell;
  float values[5];
};

// Lengths of planes, in floats: whole vectors with room for the loads beyond, and an odd number of cache lines so that planes spread over the cache's sets.
std::int64_t plane_of(std::int64_t width) { return (round_up(width + 2 * lanes, 16) / 16 | 1) * 16; }
struct Sizes {
  std::int64_t half, pooled, second, picture_row, scratch;  // floats but for scratch, which is bytes
};
Sizes sizes_of(const Scale& s) {
  Sizes z{};
  z.half = plane_of(s.pooled_w + 1);
  z.pooled = plane_of(s.pooled_w);
  z.second = plane_of(s.pooled_w - 2);
  z.picture_row = 3 * 2 * z.half;
  const std::int64_t floats = 4 * z.picture_row + ring * (c1 * z.pooled + c2 * z.second) + round_up(3 * (s.w + 1), 16);
  z.scratch = round_up(4 * floats, 64) + round_up(lane_positions * s.cells_w * static_cast<std::int64_t>(sizeof(Candidate)), 64);
  return z;
}

// --- the layers ------------------------------------------------------------------------------------------------------

// One row of the first layer at 2 * lanes columns, first_outputs channels: the larger one of each pair of columns, and of what is there already in the second of
// the two rows that are pooled. Even columns begin at rows[i], odd ones `half` further on. `limit`: infinity, or minus infinity where the odd column lies outside.
[[gnu::noinline]] void first_tile(const float* const (&rows)[3], std::int64_t half, const float* w, const float* bias, const float* slope, Vec limit, bool second, float* out,
                                  std::int64_t plane) {
  Vec acc[first_outputs][2];
  start(acc, bias);
  for (std::int64_t i = 0; i < 3; ++i) {
    const float *even = rows[i], *odd = even + half;
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j, w += 3 * first_outputs) {
      const float* const at[2] = {(j == 1 ? odd : even + j / 2), (j == 1 ? even + 1 : odd + j / 2)};
      accumulate<first_outputs, 2>(at, 3, 2 * half, w, first_outputs, acc);
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
void pooled_row(const Weights& w, const float* const* picture, std::int64_t half, std::int64_t rows, std::int64_t columns, float* out, std::int64_t plane) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::int64_t x = 0; 2 * x < columns; x += lanes) {
    float limit[lanes];
    for (std::int64_t k = 0; k < lanes; ++k) limit[k] = 2 * (x + k) + 1 < columns ? infinity : -infinity;
    for (int o = 0; o < c1; o += first_outputs)
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* const at[3] = {picture[row] + x, picture[row + 1] + x, picture[row + 2] + x};
        first_tile(at, half, w.first + 27 * o, w.bias1 + o, w.slope1 + o, Load(limit), row > 0, out + o * plane + x, plane);
      }
  }
}

// R rows of a 3x3 layer with PReLU at one vector of columns: y[r][channel * y_step ..].
template <int R>
void layer_tiles(const float* const* in, std::int64_t channels, std::int64_t plane, std::int64_t x, const float* w, const float* bias, const float* slope, std::int64_t outputs,
                 float* const* y, std::int64_t y_step) {
  const float* at[9][R];
  for (int i = 0; i < 9; ++i)
    for (int r = 0; r < R; ++r) at[i][r] = in[i / 3 + r] + x + i % 3;
  for (std::int64_t o = 0; o < outputs; o += lane_outputs) {
    float* to[R];
    for (int r = 0; r < R; ++r) to[r] = y[r] + o * y_step;
    lane_tile<lane_outputs, R>(at, {9, channels, plane, lane_outputs}, w + 9 * channels * o, bias + o, slope + o, to, y_step, lane_outputs);
  }
}

template <int R>
void second_rows(const Weights& w, const float* const* pooled, std::int64_t plane, std::int64_t width, float* const* out, std::int64_t out_plane) {
  for (std::int64_t x = 0; x < width; x += lanes) {
    float* to[R];
    for (int r = 0; r < R; ++r) to[r] = out[r] + x;
    layer_tiles<R>(pooled, c1, plane, x, w.second, w.bias2, w.slope2, c2, to, out_plane);
  }
}

// The third layer at R rows and one vector of columns: to[channel][row][lane].
template <int R>
void third_tile(const Weights& w, const float* const* second, std::int64_t plane, std::int64_t x, float* to) {
  float* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = to + r * lanes;
  layer_tiles<R>(second, c2, plane, x, w.third, w.bias3, w.slope3, c3, rows, R * lanes);
}

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

// The heads at R rows of cells: adds those above the threshold to `found` (a list for each row, `count` long so far).
template <int R>
void heads(const Weights& w, const float* third, std::int64_t x, std::int64_t y, const Scale& s, const Threshold& threshold, Candidate* found, std::int64_t* count) {
  Vec face[2][R];
  const float* at[R];
  for (int r = 0; r < R; ++r) at[r] = third + r * lanes;
  start(face, w.face_bias);
  accumulate<2, R>(at, c3, R * lanes, w.face, 2, face);
  for (int r = 0; r < R; ++r) {
    float no[lanes], yes[lanes], box[4][lanes];
    Store(face[0][r], no);
    Store(face[1][r], yes);
    const std::int64_t width = std::min<std::int64_t>(lanes, s.cells_w - x);
    bool any = false;
    for (std::int64_t k = 0; k < lanes; ++k) any |= yes[k] - no[k] >= threshold.margin;
    if (!any) continue;
    Vec acc[4][1];
    const float* const here[1] = {at[r]};
    start(acc, w.box_bias);
    accumulate<4, 1>(here, c3, R * lanes, w.box, 4, acc);
    for (int o = 0; o < 4; ++o) Store(acc[o][0], box[o]);
    for (std::int64_t k = 0; k < width; ++k) {
      if (!(yes[k] - no[k] >= threshold.margin)) continue;
      const float p = face_probability(no[k], yes[k]);
      if (p >= threshold.probability) found[r * s.cells_w + count[r]++] = {(y + r) * s.cells_w + x + k, {p, box[0][k], box[1][k], box[2][k], box[3][k]}};
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
    for (auto& row : pooled_) row = take(c1 * sizes_.pooled);
    for (auto& row : second_) row = take(c2 * sizes_.second);
    resized_ = take(round_up(3 * (scale.w + 1), 16));
    candidates_ = reinterpret_cast<Candidate*>(end) - lane_positions * scale.cells_w;  // at the end: never where the floats of another scale lie
  }

  void run(std::int64_t begin, std::int64_t end, Found& found) {
    next_row_ = 2 * begin, next_pooled_ = begin, next_second_ = begin;
    for (std::int64_t y = begin; y < end; y += lane_positions) {
      const std::int64_t rows = std::min<std::int64_t>(lane_positions, end - y);
      make_second(y + rows + 2);
      const float* in[ring];
      for (std::int64_t r = 0; r < rows + 2; ++r) in[r] = second_[(y + r) % ring];
      std::int64_t count[lane_positions] = {};
      if (rows == lane_positions) cells<lane_positions>(in, y, count);
      else if (rows == 2) cells<2>(in, y, count);
      else cells<1>(in, y, count);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < count[r]; ++i) {
          const Candidate& c = candidates_[r * scale_.cells_w + i];
          found.cells[found.count] = c.cell;
          std::copy_n(c.values, 5, found.values + 5 * found.count++);
        }
    }
  }

 private:
  template <int R>
  void cells(const float* const* in, std::int64_t y, std::int64_t* count) {
    alignas(64) float third[c3 * R * lanes];
    for (std::int64_t x = 0; x < scale_.cells_w; x += lanes) {
      third_tile<R>(weights_, in, sizes_.second, x, third);
      heads<R>(weights_, third, x, y, scale_, threshold_, candidates_, count);
    }
  }

  void make_second(std::int64_t end) {  // rows [next_second_, end)
    while (next_second_ < end) {
      const std::int64_t rows = std::min<std::int64_t>(lane_positions, end - next_second_);
      make_pooled(next_second_ + rows + 2);
      const float* in[ring];
      float* out[lane_positions];
      for (std::int64_t r = 0; r < rows + 2; ++r) in[r] = pooled_[(next_second_ + r) % ring];
      for (std::int64_t r = 0; r < rows; ++r) out[r] = second_[(next_second_ + r) % ring];
      const std::int64_t width = scale_.pooled_w - 2;
      if (rows == lane_positions) second_rows<lane_positions>(weights_, in, sizes_.pooled, width, out, sizes_.second);
      else if (rows == 2) second_rows<2>(weights_, in, sizes_.pooled, width, out, sizes_.second);
      else second_rows<1>(weights_, in, sizes_.pooled, width, out, sizes_.second);
      next_second_ += rows;
    }
  }

  void make_pooled(std::int64_t end) {
    for (; next_pooled_ < end; ++next_pooled_) {
      const std::int64_t top = 2 * next_pooled_;
      for (; next_row_ < std::min(top + 4, scale_.h); ++next_row_) make_row(next_row_);
      const float* in[4];
      for (std::int64_t r = 0; r < 4; ++r) in[r] = rows_[(top + r) % 4];
      pooled_row(weights_, in, sizes_.half, std::min<std::int64_t>(2, scale_.h - 2 - top), scale_.w - 2, pooled_[next_pooled_ % ring], sizes_.pooled);
    }
  }

  void make_row(std::int64_t y) {
    const std::int64_t plane = scale_.w + 1;  // one more, so that the last column has a pair
    picture_.row(y, resized_, plane);
    float* to = rows_[y % 4];
    for (std::int64_t c = 0; c < 3; ++c) {
      float *row = resized_ + c * plane, *even = to + 2 * c * sizes_.half, *odd = even + sizes_.half;
      row[scale_.w] = 0;
      for (std::int64_t p = 0; p < (scale_.w + 1) / 2; ++p) {
        even[p] = row[2 * p];
        odd[p] = row[2 * p + 1];
      }
    }
  }

  const Weights& weights_;
  const Scale& scale_;
  const Sizes sizes_;
  const Threshold threshold_;
  const AreaRows picture_;
  std::array<float*, 4> rows_{};
  std::array<float*, ring> pooled_{}, second_{};
  float* resized_ = nullptr;
  Candidate* candidates_ = nullptr;
  std::int64_t next_row_ = 0, next_pooled_ = 0, next_second_ = 0;
};

// --- the kernel ------------------------------------------------------------------------------------------------------

// Bytes of the workspace, in this order.
struct Layout {
  std::int64_t weights, scales, counts, columns, scratch, units = 0;
  explicit Layout(const KernelArgs& args) : weights(round_up(sizeof(Weights), 64)), scales(round_up(scale_count(args) * static_cast<std::int64_t>(sizeof(Scale)), 64)), columns(0), scratch(0) {
    for (std::int64_t s = 0; s < scale_count(args); ++s) {
      const Scale a = scale_of(args, s, 0);
      units += a.bands;
      scratch = std::max(scratch, sizes_of(a).scratch);
      columns = std::max(columns, AreaRows::scratch_bytes(args.in[0].size(2), a.w));
    }
    counts = round_up(units * 8, 64);
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
  const std::int64_t n = scale_count(args);
  for (std::int64_t s = 0, cell = 0; s < n; ++s) {
    scales[s] = scale_of(args, s, cell);
    cell += scales[s].cells_h * scales[s].cells_w;
  }
  auto* cells = args.out[0].ptr<std::int64_t>();
  auto* values = args.out[1].ptr<float>();

  // Bands are of about the same cost within a scale and cheaper from scale to scale, so the shares take them in turn. Each writes to the place of its own cells.
  const std::int64_t shares = num_threads() == 1 ? 1 : shares_of(layout.units);
  parallel_for(shares, 1, [&](std::int64_t share, std::int64_t) {
    std::byte *own = scratch + share * layout.scratch, *own_columns = columns + share * layout.columns;
    std::fill_n(own, layout.scratch, std::byte{0});
    for (std::int64_t s = 0, first = 0; s < n; first += scales[s++].bands)
      for (std::int64_t b = (share - first % shares + shares) % shares; b < scales[s].bands; b += shares) {
        const std::int64_t from = scales[s].first_cell + b * band_rows * scales[s].cells_w;
        Found found{cells + from, values + 5 * from};
        Band(args, *weights, scales[s], own, own + layout.scratch, own_columns).run(b * band_rows, std::min(scales[s].cells_h, (b + 1) * band_rows), found);
        counts[first + b] = found.count;
      }
  });

  std::int64_t total = 0;
  for (std::int64_t s = 0, unit = 0; s < n; ++s) {
    const std::int64_t before = total;
    for (std::int64_t b = 0; b < scales[s].bands; ++b, ++unit) {
      const std::int64_t from = scales[s].first_cell + b * band_rows * scales[s].cells_w;
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
  return nullptr;
}
std::int64_t workspace(const KernelArgs& args) { return Layout(args).bytes(); }

}  // namespace

extern const KernelEntry pnet_candidates_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL
