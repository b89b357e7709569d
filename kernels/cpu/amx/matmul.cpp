// matmul and linear on tiles: both sides are packed whole, then the product is shared out in blocks of C.
#include "mien/kernels/cpu/amx/pack.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Matrix {
  const float* data;
  std::int64_t rs, cs;  // strides of rows and columns
};

struct Sizes {
  std::int64_t m, n, k;
  int parts;
  std::int64_t steps() const { return steps_of(k); }
  std::int64_t left_part() const { return tiles_of(m) * steps() * tile_values; }
  std::int64_t right_part() const { return tiles_of(n) * steps() * tile_values; }
  std::int64_t bytes() const { return 2 * parts * (left_part() + right_part()) + 4 * tiles_of(n) * tile_size; }
};

// c[m, n] dense rows of length n.
void product(const Sizes& s, const Matrix& a, const Matrix& b, float* c, const float* column_bias, void* workspace) {
  auto* left = static_cast<Bf16*>(workspace);
  Bf16* right = left + s.parts * s.left_part();
  auto* bias = reinterpret_cast<float*>(right + s.parts * s.right_part());
  const std::int64_t steps = s.steps(), tile = steps * tile_values;
  if (column_bias) {
    std::fill_n(bias, tiles_of(s.n) * tile_size, 0.f);
    std::copy_n(column_bias, s.n, bias);
  }
  parallel_for(tiles_of(s.m), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      for (std::int64_t k = 0; k < steps; ++k)
        pack_tile(a.data + i * tile_size * a.rs + k * tile_depth * a.cs, a.rs, a.cs, s.m - i * tile_size, s.k - k * tile_depth, Side::left, {left, s.left_part(), s.parts},
                  i * tile + k * tile_values);
  });
  parallel_for(tiles_of(s.n), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = 0; k < steps; ++k)
      for (std::int64_t j = begin; j < end; ++j)
        pack_tile(b.data + j * tile_size * b.cs + k * tile_depth * b.rs, b.cs, b.rs, s.n - j * tile_size, s.k - k * tile_depth, Side::right, {right, s.right_part(), s.parts},
                  j * tile + k * tile_values);
  });
  // Blocks of C, 32 x 32 of it at a time. A small right side is read again for every 32 rows, so that C, which lies in memory, is written row by row: twice as fast
  // for the gradient of a head's weights.
  const bool small_right = 2 * s.parts * s.right_part() <= std::int64_t{1} << 18;
  const std::int64_t block = 256, width = small_right && s.m > block ? std::max<std::int64_t>(1, s.n) : block, across = ceil_div(s.n, width);
  parallel_for(ceil_div(s.m, block) * across, 1, [&](std::int64_t item, std::int64_t) {
    configure_tiles();
    const std::int64_t row0 = item / across * block, col0 = item % across * width, last_row = std::min(s.m, row0 + block), last_col = std::min(s.n, col0 + width);
    alignas(64) float buffer[4 * tile_size * tile_size];
    const auto multiply = [&](std::int64_t row, std::int64_t col) {
      const std::int64_t rows = std::min(s.m - row, 2 * tile_size), cols = std::min(s.n - col, 2 * tile_size);
      with_tiles(tiles_of(rows), tiles_of(cols), [&](auto r, auto w) {
        constexpr int R = decltype(r)::value, C = decltype(w)::value;
        if (column_bias) load_tiles<R, C>(bias + col, 0);
        else zero_tiles<R, C>();
        multiply_parts<R, C>(steps, {left + row / tile_size * tile, tile}, s.left_part(), {right + col / tile_size * tile, tile}, s.right_part(), s.parts);
        if (rows == R * tile_size && cols == C * tile_size) return store_tiles<R, C>(c + row * s.n + col, 4 * s.n);
        store_tiles<R, C>(buffer, 4 * 2 * tile_size);
        for (std::int64_t i = 0; i < rows; ++i) std::copy_n(buffer + i * 2 * tile_size, cols, c + (row + i) * s.n + col);
      });
    };
    if (small_right)
      for (std::int64_t row = row0; row < last_row; row += 2 * tile_size)
        for (std::int64_t col = col0; col < last_col; col += 2 * tile_size) multiply(row, col);
    else
      for (std::int64_t col = col0; col < last_col; col += 2 * tile_size)
        for (std::int64_t row = row0; row < last_row; row += 2 * tile_size) multiply(row, col);
  });
}

const char* decline(const KernelArgs& a) {
  if (a.precision == Precision::f32) return "the precision is f32";
  if (!all_f32(a)) return "f32 only";
  return a.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

Sizes linear_sizes(const KernelArgs& a) { return {a.in[0].size(0), a.in[1].size(0), a.in[0].size(1), parts_of(a.precision)}; }
void run_linear(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1];
  product(linear_sizes(a), {x.ptr<float>(), x.stride(0), x.stride(1)}, {w.ptr<float>(), w.stride(1), w.stride(0)}, a.out[0].ptr<float>(),
          a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr, a.workspace);
}
std::int64_t linear_workspace(const KernelArgs& a) { return linear_sizes(a).bytes(); }
const char* decline_linear(const KernelArgs& a) { return strided_bias(a) ? "the bias is strided" : decline(a); }

Sizes matmul_sizes(const KernelArgs& a) {
  const int r = a.out[0].rank();
  return {a.out[0].size(r - 2), a.out[0].size(r - 1), a.in[0].size(r - 1), parts_of(a.precision)};
}
void run_matmul(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1];
  const int r = x.rank();
  const Sizes s = matmul_sizes(a);
  for_matrices(a, [&](const float* left, const float* right, float* out) {
    product(s, {left, x.stride(r - 2), x.stride(r - 1)}, {right, w.stride(r - 2), w.stride(r - 1)}, out, nullptr, a.workspace);
  });
}
std::int64_t matmul_workspace(const KernelArgs& a) { return matmul_sizes(a).bytes(); }

}  // namespace

extern const KernelEntry linear_entry{run_linear, decline_linear, linear_workspace};
extern const KernelEntry matmul_entry{run_matmul, decline, matmul_workspace};

}  // namespace mien::MIEN_LEVEL
