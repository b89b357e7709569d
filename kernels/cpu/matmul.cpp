// matmul and linear on the packed product of gemm.h.
#include "mien/kernels/cpu/common.h"
#include "mien/kernels/cpu/gemm.h"
#include "mien/kernels/cpu/scratch.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Matrix {
  const float* data;
  std::int64_t rs, cs;  // strides of rows and columns
};

// k goes in blocks whose panel of B stays in the first cache; a block adds to what the one before wrote.
constexpr std::int64_t block = 384;
// A block of all of A stays in the second cache: then B is packed a panel of a block at a time, just before it is used, and goes through the caches once.
bool narrow(std::int64_t m) { return m <= cache_floats / block; }
std::int64_t product_bytes(std::int64_t m, std::int64_t n, std::int64_t k) {
  const std::int64_t left = round_up(m, gemm_rows) * std::max<std::int64_t>(k, 1);
  return 4 * (left + (narrow(m) ? max_shares * block * gemm_cols : round_up(n, gemm_cols) * std::max<std::int64_t>(k, 1)));
}

// c[m, n] dense rows of length n.
void product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c, const float* column_bias, void* workspace) {
  auto* pa = static_cast<float*>(workspace);
  float* pb = pa + round_up(m, gemm_rows) * k;
  const std::int64_t row_panels = (m + gemm_rows - 1) / gemm_rows, col_panels = (n + gemm_cols - 1) / gemm_cols;
  parallel_for(row_panels, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) pack_rows(a.data, a.rs, a.cs, p * gemm_rows, m, k, pa + p * gemm_rows * k);
  });
  const auto multiply = [&](std::int64_t rp, std::int64_t cp, std::int64_t k0, const float* panel) {
    const std::int64_t row = rp * gemm_rows, col = cp * gemm_cols;
    Tile t{c + row * n + col, n, std::min<std::int64_t>(gemm_rows, m - row), std::min<std::int64_t>(gemm_cols, n - col)};
    if (k0 > 0) t.start = Start::accumulate;
    else if (column_bias) { t.start = Start::column_bias; t.bias = column_bias + col; }
    tile_kernel(std::min(block, k - k0), pa + rp * gemm_rows * k + k0 * gemm_rows, panel, t);
  };
  if (narrow(m)) {
    constexpr std::int64_t side_by_side = 4;  // panels, so that rows of B are read in runs
    ScratchSlots slots;
    for_shares(ceil_div(col_panels, side_by_side), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      const auto slot = slots.take();
      float* panel = pb + slot.number() * block * gemm_cols;
      for (std::int64_t group = begin; group < end; ++group)
        for (std::int64_t k0 = 0; k0 == 0 || k0 < k; k0 += block)
          for (std::int64_t cp = group * side_by_side; cp < std::min(col_panels, (group + 1) * side_by_side); ++cp) {
            pack_columns(b.data + k0 * b.rs, b.rs, b.cs, cp * gemm_cols, n, std::min(block, k - k0), panel);
            for (std::int64_t rp = 0; rp < row_panels; ++rp) multiply(rp, cp, k0, panel);
          }
    });
    return;
  }
  parallel_for(col_panels, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) pack_columns(b.data, b.rs, b.cs, p * gemm_cols, n, k, pb + p * gemm_cols * k);
  });
  parallel_for(row_panels, std::max<std::int64_t>(1, row_panels / 16), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k0 = 0; k0 == 0 || k0 < k; k0 += block)
      for (std::int64_t cp = 0; cp < col_panels; ++cp)
        for (std::int64_t rp = begin; rp < end; ++rp) multiply(rp, cp, k0, pb + cp * gemm_cols * k + k0 * gemm_cols);
  });
}

void run_linear(const KernelArgs& a) {
  const View &x = a.in[0], &w = a.in[1], &y = a.out[0];
  product(x.size(0), w.size(0), x.size(1), {x.ptr<float>(), x.stride(0), x.stride(1)}, {w.ptr<float>(), w.stride(1), w.stride(0)}, y.ptr<float>(),
          a.in.size() > 2 ? a.in[2].ptr<float>() : nullptr, a.workspace);
}
std::int64_t linear_workspace(const KernelArgs& a) { return product_bytes(a.in[0].size(0), a.in[1].size(0), a.in[0].size(1)); }
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
  return product_bytes(a.out[0].size(r - 2), a.out[0].size(r - 1), a.in[0].size(r - 1));
}
const char* decline_matmul(const KernelArgs& a) {
  if (!all_f32(a)) return "f32 only";
  return a.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

}  // namespace

extern const KernelEntry linear_entry{run_linear, decline_linear, linear_workspace};
extern const KernelEntry matmul_entry{run_matmul, decline_matmul, matmul_workspace};

}  // namespace mien::MIEN_LEVEL
