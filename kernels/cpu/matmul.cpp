// matmul and linear.
#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/gemm.h"
#include "mien/kernels/cpu/row_gemm.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Matrix {
  const float* data;
  std::int64_t rs, cs;  // strides of rows and columns
};

constexpr std::int64_t zero = 0;  // the only run

// Tiles of the rows of A, as even as can be; each is packed as [k][row].
struct RowTiles {
  std::int64_t rows, count;
  explicit RowTiles(std::int64_t m) : rows(m), count(ceil_div(m, most_rows)) {}
  std::int64_t begin(std::int64_t t) const { return rows * t / count; }
  std::int64_t size(std::int64_t t) const { return begin(t + 1) - begin(t); }
};
void pack_tile(const Matrix& a, std::int64_t row, std::int64_t rows, std::int64_t k, float* out) {
  for (std::int64_t j = 0; j < k; ++j, out += rows) {
    const float* p = a.data + row * a.rs + j * a.cs;
    for (std::int64_t i = 0; i < rows; ++i) out[i] = p[i * a.rs];
  }
}
// Columns [cp * gemm_cols, ...) of rows [0, k) of B against one packed tile; the panel may be read past its last column, C is not written there.
void multiply(std::int64_t k, const float* packed, std::int64_t rows, const float* panel, std::int64_t cp, std::int64_t n, float* row_of_c, bool more, const float* column_bias) {
  const std::int64_t col = cp * gemm_cols;
  Tile t{row_of_c + col, n, rows, std::min<std::int64_t>(gemm_cols, n - col)};
  if (more) t.start = Start::accumulate;
  else if (column_bias) t.start = Start::column_bias, t.bias = column_bias + col;
  row_tile<true>({1, k, &zero, &zero}, {packed, 1, rows}, {panel, gemm_cols, lanes}, t);
}

// Four ways, by what is small; c[m, n] has dense rows of length n. In each an element is the bias, then the products in the order of k: the same bits for every m.
//   few rows, B runs along k:  C^T = B^T A^T with B where it lies, A^T packed: a head's logits
//   few rows:                  A packed whole; B goes through the caches once, in blocks that are packed along its rows: the gradient of a head's input
//   small right side:          B packed whole; A and C go through the caches once: the gradient of a head's weights
//   else:                      both packed
constexpr std::int64_t block = 384;       // of k, whose panel of B stays in the first cache; a block adds to what the one before wrote
constexpr std::int64_t low_block = 128;   // where some panels of B stay in the second cache
constexpr std::int64_t side_by_side = 8;  // panels, so that rows of B are read in runs
constexpr std::int64_t few = 64;
enum class Way { turned, narrow, small_right, packed };
Way way_of(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& b) {
  if (m <= few && b.rs == 1 && k > 0 && m * k <= cache_floats) return Way::turned;
  if (m <= cache_floats / block) return Way::narrow;
  return k > 0 && k <= block && k * n <= cache_floats ? Way::small_right : Way::packed;
}

struct Floats {
  std::int64_t left, right;
};
Floats floats_of(Way way, std::int64_t m, std::int64_t n, std::int64_t k) {
  const std::int64_t right = round_up(n, gemm_cols) * std::max<std::int64_t>(k, 1);
  switch (way) {
    case Way::turned: return {round_up(m, gemm_cols) * k, round_up(n, lanes)};
    case Way::narrow: return {round_up(m * k, lanes), max_shares * side_by_side * low_block * gemm_cols};
    case Way::small_right: return {0, right};
    case Way::packed: break;
  }
  return {round_up(m, gemm_rows) * std::max<std::int64_t>(k, 1), right};
}
std::int64_t product_bytes(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& b) {
  const Floats f = floats_of(way_of(m, n, k, b), m, n, k);
  return 4 * (f.left + f.right + round_up(n, gemm_cols));
}

void turned_product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, float* packed) {
  for (std::int64_t row = 0; row < m; row += gemm_cols) pack_columns(a.data, a.cs, a.rs, row, m, k, packed + row * k);
  const RowTiles tiles(n);
  parallel_for(tiles.count, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = tiles.begin(t), rows = tiles.size(t);
      for (std::int64_t row = 0; row < m; row += gemm_cols) {
        alignas(64) float sums[most_rows * gemm_cols];
        for (std::int64_t j = 0; j < rows; ++j) std::fill_n(sums + j * gemm_cols, gemm_cols, column_bias ? column_bias[first + j] : 0.f);
        const Tile tile{sums, gemm_cols, rows, gemm_cols, Start::accumulate};
        row_tile<false>({1, k, &zero, &zero}, {b.data + first * b.cs, b.cs, 1}, {packed + row * k, gemm_cols, lanes}, tile);
        for (std::int64_t i = 0; i < std::min<std::int64_t>(gemm_cols, m - row); ++i)
          for (std::int64_t j = 0; j < rows; ++j) c[(row + i) * n + first + j] = sums[j * gemm_cols + i];
      }
    }
  });
}

void narrow_product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, float* left, float* right) {
  const RowTiles tiles(m);
  for (std::int64_t t = 0; t < tiles.count; ++t) pack_tile(a, tiles.begin(t), tiles.size(t), k, left + tiles.begin(t) * k);
  const std::int64_t panels = ceil_div(n, gemm_cols), together = std::clamp<std::int64_t>(panels / 2, 1, side_by_side);
  ScratchSlots slots(shares_of(ceil_div(panels, together)));
  for_shares(ceil_div(panels, together), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto slot = slots.take();
    float* packed = right + slot.number() * side_by_side * low_block * gemm_cols;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t first = group * together, last = std::min(panels, first + together);
      for (std::int64_t k0 = 0; k0 == 0 || k0 < k; k0 += low_block) {
        const std::int64_t depth = std::min(low_block, k - k0), some = b.cs == 1 ? 4 : low_block;  // rows at a time
        for (std::int64_t r = 0; r < depth; r += some)
          for (std::int64_t cp = first; cp < last; ++cp)
            pack_columns(b.data + (k0 + r) * b.rs, b.rs, b.cs, cp * gemm_cols, n, std::min(some, depth - r), packed + ((cp - first) * low_block + r) * gemm_cols);
        for (std::int64_t cp = first; cp < last; ++cp)
          for (std::int64_t t = 0; t < tiles.count; ++t) {
            const std::int64_t row = tiles.begin(t), rows = tiles.size(t);
            multiply(depth, left + row * k + k0 * rows, rows, packed + (cp - first) * low_block * gemm_cols, cp, n, c + row * n, k0 > 0, column_bias);
          }
      }
    }
  });
}

void small_right_product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, float* right) {
  const RowTiles tiles(m);
  const std::int64_t panels = ceil_div(n, gemm_cols);
  for (std::int64_t p = 0; p < panels; ++p) pack_columns(b.data, b.rs, b.cs, p * gemm_cols, n, k, right + p * gemm_cols * k);
  parallel_for(tiles.count, 4, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float packed[most_rows * block];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t row = tiles.begin(t), rows = tiles.size(t);
      pack_tile(a, row, rows, k, packed);
      for (std::int64_t cp = 0; cp < panels; ++cp) multiply(k, packed, rows, right + cp * gemm_cols * k, cp, n, c + row * n, false, column_bias);
    }
  });
}

void packed_product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, float* pa, float* pb) {
  const std::int64_t row_panels = ceil_div(m, gemm_rows), col_panels = ceil_div(n, gemm_cols);
  parallel_for(row_panels, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) pack_rows(a.data, a.rs, a.cs, p * gemm_rows, m, k, pa + p * gemm_rows * k);
  });
  parallel_for(col_panels, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) pack_columns(b.data, b.rs, b.cs, p * gemm_cols, n, k, pb + p * gemm_cols * k);
  });
  parallel_for(row_panels, std::max<std::int64_t>(1, row_panels / 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k0 = 0; k0 == 0 || k0 < k; k0 += block)
      for (std::int64_t cp = 0; cp < col_panels; ++cp)
        for (std::int64_t rp = begin; rp < end; ++rp) {
          const std::int64_t row = rp * gemm_rows, col = cp * gemm_cols;
          Tile t{c + row * n + col, n, std::min<std::int64_t>(gemm_rows, m - row), std::min<std::int64_t>(gemm_cols, n - col)};
          if (k0 > 0) t.start = Start::accumulate;
          else if (column_bias) t.start = Start::column_bias, t.bias = column_bias + col;
          tile_kernel(std::min(block, k - k0), pa + rp * gemm_rows * k + k0 * gemm_rows, pb + cp * gemm_cols * k + k0 * gemm_cols, t);
        }
  });
}

void product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, void* workspace) {
  const Way way = way_of(m, n, k, b);
  const Floats f = floats_of(way, m, n, k);
  auto* left = static_cast<float*>(workspace);
  float* right = left + f.left;
  if (way == Way::turned) return turned_product(m, n, k, a, b, c, column_bias, left);
  if (way == Way::packed) return packed_product(m, n, k, a, b, c, column_bias, left, right);
  if (column_bias) {  // read in whole vectors
    float* padded = right + f.right;
    std::copy_n(column_bias, n, padded);
    std::fill(padded + n, padded + round_up(n, gemm_cols), 0.f);
    column_bias = padded;
  }
  if (way == Way::narrow) return narrow_product(m, n, k, a, b, c, column_bias, left, right);
  small_right_product(m, n, k, a, b, c, column_bias, right);
}

void run_linear(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  product(x.size(0), w.size(0), x.size(1), {x.ptr<float>(), x.stride(0), x.stride(1)}, {w.ptr<float>(), w.stride(1), w.stride(0)}, y.ptr<float>(),
          a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr, a.workspace);
}
std::int64_t linear_workspace(const KernelArgs& a) { const View& w = a.in[1];
  return product_bytes(a.in[0].size(0), w.size(0), a.in[0].size(1), {nullptr, w.stride(1), w.stride(0)}); }
const char* decline_linear(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  if (strided_bias(a)) return "the bias is strided";
  return a.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

void run_matmul(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  const int r = y.rank();
  for_matrices(a, [&](const float* left, const float* right, float* out) {
    product(y.size(r - 2), y.size(r - 1), x.size(r - 1), {left, x.stride(r - 2), x.stride(r - 1)}, {right, w.stride(r - 2), w.stride(r - 1)}, out, nullptr, a.workspace);
  });
}
std::int64_t matmul_workspace(const KernelArgs& a) {
  const int r = a.out[0].rank();
  const View& w = a.in[1];
  return product_bytes(a.out[0].size(r - 2), a.out[0].size(r - 1), a.in[0].size(r - 1), {nullptr, w.stride(r - 2), w.stride(r - 1)});
}
const char* decline_matmul(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  return a.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

}  // namespace

extern const KernelEntry linear_entry{run_linear, decline_linear, linear_workspace};
extern const KernelEntry matmul_entry{run_matmul, decline_matmul, matmul_workspace};

}  // namespace mien::MIEN_LEVEL
