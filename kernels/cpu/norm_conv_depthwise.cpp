// norm_conv (norm_conv.cpp) of depthwise 3x3 convolutions with padding 1 and stride 1 or 2. A picture goes through row by row: three rows of the normalised map
// and, on the way back, three of the whole gradient are kept, each with a column of zeros on both sides. Lanes run along channels. Such a layer waits for memory
// more than it computes: while a row is computed, what the next one reads and writes is called up.
#include "mien/kernels/cpu/norm_conv.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t kernel = 3, taps = kernel * kernel;

struct Sizes {
  std::int64_t n, h, w, c, oh, ow, stride;
  // Kept rows have a line of memory more between their pixels: a power of two apart, they would all meet in a few sets of the first cache.
  std::int64_t pixel() const { return c + 16; }
  std::int64_t row() const { return (w + 2) * pixel(); }  // floats of a padded row
  std::int64_t kept() const { return 3 * row(); }
  // Rows of the output whose moments are joined at a time.
  std::int64_t joined() const { return std::min(oh, ceil_div(64, ow)); }
  std::int64_t pictures(std::int64_t share) const { return n * (share + 1) / shares_of(n) - n * share / shares_of(n); }
};
Sizes sizes(const View& x, const View& y, const ConvParams& p) { return {x.size(0), x.size(2), x.size(3), x.size(1), y.size(2), y.size(3), p.stride[0]}; }

// A picture's rows -1 to h, of which the last three that were asked for are there; those outside are zeros.
class KeptRows {
 public:
  KeptRows(const Sizes& s, float* memory, const float* zeros) : s_(s), memory_(memory), zeros_(zeros) { std::fill_n(memory, s.kept(), 0.f); }
  float* fresh(std::int64_t y) const { return memory_ + y % 3 * s_.row(); }
  const float* get(std::int64_t y, std::int64_t rows) const { return y < 0 || y >= rows ? zeros_ : memory_ + y % 3 * s_.row(); }

 private:
  const Sizes& s_;
  float* memory_;
  const float* zeros_;
};

// Tables and sizes come by value: stores of vectors may change anything that has an address.
template <Activation A>
void keep_row(NormTable norm, Sizes s, const float* x, float* to) {
  for (std::int64_t i = 0; i < s.w; ++i)
    for (std::int64_t c = 0; c < s.c; c += lanes) Store(Normal<A>(norm, c)(x + i * s.c + c), to + (i + 1) * s.pixel() + c);
}
// Row of the whole gradient with zeros between its pixels where the stride is 2: the gradient of the input is then one with stride 1.
void keep_gradient(WholeGradient whole, Sizes s, const float* gy, const float* y, float* to) {
  for (std::int64_t i = 0; i < s.ow; ++i)
    for (std::int64_t c = 0; c < s.c; c += lanes) Store(WholeVector(whole, c)(gy + i * s.c + c, y + i * s.c + c), to + (i * s.stride + 1) * s.pixel() + c);
}
// w[c, 0, i, j] as [i][j][c].
void lay_out(const float* w, std::int64_t channels, float* out) {
  for (std::int64_t t = 0; t < taps; ++t)
    for (std::int64_t c = 0; c < channels; ++c) out[t * channels + c] = w[c * taps + t];
}

// `ahead`: the rows of x that the next row of y needs and this one does not.
void row_forward(Sizes s, const float* const* rows, const float* weights, const float* ahead, float* y) {
  const std::int64_t pixel = s.pixel(), step = s.stride * pixel, fresh = s.stride * s.stride;
  Cursor next{ahead}, next_y{y + s.ow * s.c};
  for (std::int64_t c = 0; c < s.c; c += lanes) {
    Vec w[taps];
#pragma GCC unroll 9
    for (int t = 0; t < taps; ++t) w[t] = Load(weights + t * s.c + c);
    const float *top = rows[0] + c, *middle = rows[1] + c, *bottom = rows[2] + c;
    float* to = y + c;
    for (std::int64_t i = 0; i < s.ow; ++i) {
      for (std::int64_t k = 0; k < fresh; ++k) next.call();
      next_y.call();
      Vec a = Mul(Load(top), w[0]), b = Mul(Load(middle), w[3]);
      a = MulAdd(Load(top + pixel), w[1], a);
      b = MulAdd(Load(middle + pixel), w[4], b);
      a = MulAdd(Load(top + 2 * pixel), w[2], a);
      b = MulAdd(Load(middle + 2 * pixel), w[5], b);
      a = MulAdd(Load(bottom), w[6], a);
      b = MulAdd(Load(bottom + pixel), w[7], b);
      a = MulAdd(Load(bottom + 2 * pixel), w[8], a);
      Store(Add(a, b), to);
      top += step, middle += step, bottom += step, to += s.c;
    }
  }
}

// Sums of the weights' gradient over one row of the output. gy, y: the row after it.
void row_weights(Sizes s, const float* const* rows, const float* g, const float* gy, const float* y, float* sums) {
  const std::int64_t pixel = s.pixel(), step = s.stride * pixel;
  Cursor next_gy{gy}, next_y{y};
  for (std::int64_t c = 0; c < s.c; c += lanes) {
    Vec acc[taps];
#pragma GCC unroll 9
    for (int t = 0; t < taps; ++t) acc[t] = Load(sums + t * s.c + c);
    const float *top = rows[0] + c, *middle = rows[1] + c, *bottom = rows[2] + c, *gradient = g + pixel + c;
    for (std::int64_t i = 0; i < s.ow; ++i) {
      next_gy.call();
      next_y.call();
      const Vec own = Load(gradient);
#pragma GCC unroll 3
      for (int j = 0; j < kernel; ++j) {
        acc[j] = MulAdd(own, Load(top + j * pixel), acc[j]);
        acc[3 + j] = MulAdd(own, Load(middle + j * pixel), acc[3 + j]);
        acc[6 + j] = MulAdd(own, Load(bottom + j * pixel), acc[6 + j]);
      }
      top += step, middle += step, bottom += step, gradient += step;
    }
#pragma GCC unroll 9
    for (int t = 0; t < taps; ++t) Store(acc[t], sums + t * s.c + c);
  }
}

// One row of gx from the ROWS rows of the whole gradient that reach it, and back through the norm.
struct Reaching {
  const float *g, *weights;  // the weights' row, [column][channel]
};
template <Activation A, int ROWS>
void row_input(Sizes s, const NormTable& norm, const Reaching* rows, const float* x, float* gx, double* sums) {
  const std::int64_t row = s.w * s.c, pixel = s.pixel();
  Cursor next_x{x + 3 * row}, next_gx{gx + row};  // of x: the next row that will be kept
  for (std::int64_t c = 0; c < s.c; c += lanes) {
    Vec w[ROWS * kernel + 1];
    const float* from[ROWS + 1];
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; ++r) {
      from[r] = rows[r].g + c;
#pragma GCC unroll 3
      for (int j = 0; j < kernel; ++j) w[r * kernel + j] = Load(rows[r].weights + j * s.c + c);
    }
    NormBack back(norm, c);
    for (std::int64_t i = 0, at = 0, kept = 0; i < s.w; ++i, at += s.c, kept += pixel) {
      next_x.call();
      next_gx.call();
      Vec sum = Set(0);
#pragma GCC unroll 3
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int j = 0; j < kernel; ++j) sum = MulAdd(Load(from[r] + kept + (2 - j) * pixel), w[r * kernel + j], sum);
      Store(back.template through<A>(sum, Load(x + at + c)), gx + at + c);
    }
    back.add_to(sums + c, s.c);
  }
}

const char* decline_depthwise(const ConvParams& p, const View& x, const View& w) {
  if (p.groups != x.size(1) || w.size(0) != p.groups) return "neither 1x1 nor depthwise";
  if (w.size(2) != kernel || w.size(3) != kernel || p.padding != Padding4{1, 1, 1, 1} || p.dilation != Pair{1, 1}) return "depthwise is 3x3 with padding 1 only";
  return p.stride[0] == p.stride[1] && p.stride[0] <= 2 ? nullptr : "a stride of more than 2";
}

// --- forward: moments of the shares, weights, the table, a row of zeros, three rows for each share that runs ----------------------
Sizes forward_sizes(const KernelArgs& a) { return sizes(a.in[0], a.out[0], a.get<NormConvParams>()); }
std::int64_t workspace(const KernelArgs& a) {
  const Sizes s = forward_sizes(a);
  return ShareSums::bytes(2, s.c) + 4 * (taps * s.c + NormTable::floats(s.c) + s.row() + max_shares * s.kept());
}
template <Activation A>
void forward(const KernelArgs& a) {
  const Sizes s = forward_sizes(a);
  const ShareSums sums{static_cast<double*>(a.workspace), 2, s.c};
  float *weights = reinterpret_cast<float*>(sums.data + max_shares * 2 * s.c), *table = weights + taps * s.c,
        *zeros = table + NormTable::floats(s.c), *kept = zeros + s.row();
  const NormTable norm(table, s.c);
  fill(norm, a, forward_norm, s.c, A == Activation::prelu);
  lay_out(a.in[1].ptr<float>(), s.c, weights);
  std::fill_n(zeros, s.row(), 0.f);
  ScratchSlots slots(shares_of(s.n));
  for_shares(s.n, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    const KeptRows v(s, kept + slot.number() * s.kept(), zeros);
    sums.clear(share);
    std::int64_t seen = 0;
    for (std::int64_t n = begin; n < end; ++n) {
      const float* x = a.in[0].ptr<float>() + n * s.h * s.w * s.c;
      float* y = a.out[0].ptr<float>() + n * s.oh * s.ow * s.c;
      for (std::int64_t oy = 0, next = 0; oy < s.oh; ++oy) {
        for (; next <= std::min(oy * s.stride + 1, s.h - 1); ++next) keep_row<A>(norm, s, x + next * s.w * s.c, v.fresh(next));
        const float* rows[kernel] = {v.get(oy * s.stride - 1, s.h), v.get(oy * s.stride, s.h), v.get(oy * s.stride + 1, s.h)};
        row_forward(s, rows, weights, x + next * s.w * s.c, y + oy * s.ow * s.c);
        const std::int64_t done = oy % s.joined() + 1;
        if (done < s.joined() && oy + 1 < s.oh) continue;
        for (std::int64_t c = 0; c < s.c; c += gemm_cols)
          add_moments(y + (oy + 1 - done) * s.ow * s.c + c, s.c, done * s.ow, seen, sums.of(share, 0) + c, sums.of(share, 1) + c);
        seen += done * s.ow;
      }
    }
  });
  store_moments(a, sums, shares_of(s.n), [&](std::int64_t share) { return s.pictures(share) * s.oh * s.ow; });
}

// --- backward: sums of the shares, weights, tables, a row of zeros, sums of the weights for each share, six rows for each that runs ----
Sizes backward_sizes(const KernelArgs& a) { return sizes(a.in[back_x], a.in[0], a.get<NormConvParams>()); }
std::int64_t backward_workspace(const KernelArgs& a) {
  const Sizes s = backward_sizes(a);
  return ShareSums::bytes(3, s.c) + 4 * (taps * s.c + NormTable::floats(s.c) + WholeGradient::floats(s.c) + s.row() + max_shares * (taps * s.c + 2 * s.kept()));
}
template <Activation A>
void backward(const KernelArgs& a) {
  const Sizes s = backward_sizes(a);
  const ShareSums sums{static_cast<double*>(a.workspace), 3, s.c};
  float *weights = reinterpret_cast<float*>(sums.data + max_shares * 3 * s.c), *table = weights + taps * s.c, *whole_table = table + NormTable::floats(s.c),
        *zeros = whole_table + WholeGradient::floats(s.c), *all_gw = zeros + s.row(), *kept = all_gw + max_shares * taps * s.c;
  const NormTable norm(table, s.c);
  fill(norm, a, back_norm, s.c, A == Activation::prelu);
  const WholeGradient whole(whole_table, s.c);
  whole.fill(a);
  lay_out(a.in[back_x + 1].ptr<float>(), s.c, weights);
  std::fill_n(zeros, s.row(), 0.f);
  ScratchSlots slots(shares_of(s.n));
  for_shares(s.n, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float *memory = kept + slot.number() * 2 * s.kept(), *gw = all_gw + share * taps * s.c;
    const KeptRows v(s, memory, zeros), g(s, memory + s.kept(), zeros);
    sums.clear(share);
    std::fill_n(gw, taps * s.c, 0.f);
    for (std::int64_t n = begin; n < end; ++n) {
      const float *x = a.in[back_x].ptr<float>() + n * s.h * s.w * s.c, *gy = a.in[0].ptr<float>() + n * s.oh * s.ow * s.c,
                  *y = a.in[back_y].ptr<float>() + n * s.oh * s.ow * s.c;
      float* gx = a.out[0].ptr<float>() + n * s.h * s.w * s.c;
      for (std::int64_t oy = 0, next = 0, ready = 0; oy < s.oh; ++oy) {
        for (; next <= std::min(oy * s.stride + 1, s.h - 1); ++next) keep_row<A>(norm, s, x + next * s.w * s.c, v.fresh(next));
        keep_gradient(whole, s, gy + oy * s.ow * s.c, y + oy * s.ow * s.c, g.fresh(oy));
        const float* rows[kernel] = {v.get(oy * s.stride - 1, s.h), v.get(oy * s.stride, s.h), v.get(oy * s.stride + 1, s.h)};
        row_weights(s, rows, g.get(oy, s.oh), gy + (oy + 1) * s.ow * s.c, y + (oy + 1) * s.ow * s.c, gw);
        // Row iy collects from the outputs (iy + 1 - i) / stride, of which the last is (iy + 1) / stride.
        const std::int64_t last = oy + 1 == s.oh ? s.h - 1 : (oy + 1) * s.stride - 2;
        for (; ready <= last; ++ready) {
          Reaching reaching[kernel];
          int count = 0;
          for (std::int64_t i = 0; i < kernel; ++i)
            if (const std::int64_t from = ready + 1 - i; from >= 0 && from % s.stride == 0 && from / s.stride < s.oh)
              reaching[count++] = {g.get(from / s.stride, s.oh), weights + i * kernel * s.c};
          constexpr decltype(&row_input<A, 0>) of_count[] = {row_input<A, 0>, row_input<A, 1>, row_input<A, 2>, row_input<A, 3>};
          of_count[count](s, norm, reaching, x + ready * s.w * s.c, gx + ready * s.w * s.c, sums.of(share, 0));
        }
      }
    }
  });
  const std::int64_t shares = shares_of(s.n);
  float* gw = a.out[1].ptr<float>();
  for (std::int64_t t = 0; t < taps; ++t)
    for (std::int64_t c = 0; c < s.c; ++c) {
      float sum = 0;
      for (std::int64_t share = 0; share < shares; ++share) sum += all_gw[(share * taps + t) * s.c + c];
      gw[c * taps + t] = sum;
    }
  store_norm_gradients(a, sums, shares, back_norm, 2);
}

void run_forward(const KernelArgs& a) {
  with_activation(a.get<NormConvParams>().activation, [&](auto activation) { forward<activation()>(a); });
}
const char* decline_forward(const KernelArgs& a) {
  if (const char* reason = decline_maps(a, a.in[0], a.in[1], a.out[0])) return reason;
  return decline_depthwise(a.get<NormConvParams>(), a.in[0], a.in[1]);
}
void run_backward(const KernelArgs& a) {
  with_activation(a.get<NormConvParams>().activation, [&](auto activation) { backward<activation()>(a); });
}
const char* decline_backward(const KernelArgs& a) {
  if (const char* reason = decline_backward_maps(a)) return reason;
  return decline_depthwise(a.get<NormConvParams>(), a.in[back_x], a.in[back_x + 1]);
}

}  // namespace

extern const KernelEntry norm_conv_depthwise{run_forward, decline_forward, workspace};
extern const KernelEntry norm_conv_backward_depthwise{run_backward, decline_backward, backward_workspace};

}  // namespace mien::MIEN_LEVEL
