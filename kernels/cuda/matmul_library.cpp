// matmul and linear by cuBLAS. What it can't take (no stride of 1 in an operand, a batch that does not step evenly, nothing to add) is declined.
#include <algorithm>
#include <limits>

#include "mien/kernels/cuda/library.h"

namespace mien::cuda_library {
namespace {

constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();

// How a matrix lies for cuBLAS, whose matrices have their columns one after the other: rows one after the other are the transpose of that.
struct Side {
  bool rows_whole = false, fits = false;
  std::int64_t leading = 0;
};
Side side_of(const Matrix& m) {
  const std::int64_t across = m.rows == 1 ? m.columns : m.row_step;
  if ((m.column_step == 1 || m.columns == 1) && across >= m.columns && across <= most) return {true, true, across};
  const std::int64_t down = m.columns == 1 ? m.rows : m.column_step;
  if ((m.row_step == 1 || m.rows == 1) && down >= m.rows && down <= most) return {false, true, down};
  return {};
}

}  // namespace

const char* gemm_decline(const Gemm& g) {
  if (const char* missing = cublas_missing()) return missing;
  if (!is_floating(g.dtype)) return "no floating type";
  if (g.a.rows == 0 || g.a.columns == 0 || g.b.columns == 0 || g.batch == 0) return "nothing to multiply";
  if (g.a.rows > most || g.a.columns > most || g.b.columns > most || g.batch > 65535) return "too large for cuBLAS";
  const Side y = side_of(g.y);
  if (!side_of(g.a).fits || !side_of(g.b).fits || !y.fits || !y.rows_whole) return "an operand has no side of stride 1";
  return nullptr;
}

void gemm(const KernelArgs& args, int device, const Gemm& g, const char* what) {
  const Side a = side_of(g.a), b = side_of(g.b), y = side_of(g.y);
  cudaDataType type = CUDA_R_32F;
  cublasComputeType_t compute = args.precision == Precision::bf16 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  if (g.dtype == DType::f64) type = CUDA_R_64F, compute = CUBLAS_COMPUTE_64F;
  if (g.dtype == DType::bf16) type = CUDA_R_16BF, compute = CUBLAS_COMPUTE_32F;
  if (g.dtype == DType::f16) type = CUDA_R_16F, compute = CUBLAS_COMPUTE_32F;
  const float one = 1, zero = 0;
  const double one_f64 = 1, zero_f64 = 0;
  const bool wide = g.dtype == DType::f64;
  const void* alpha = wide ? static_cast<const void*>(&one_f64) : &one;
  const void* beta = g.add ? alpha : wide ? static_cast<const void*>(&zero_f64) : &zero;
  // cuBLAS reads y as its transpose: y^T = b^T a^T.
  check(cublas()->gemm(cublas_handle(device, args.stream, args.workspace), b.rows_whole ? CUBLAS_OP_N : CUBLAS_OP_T, a.rows_whole ? CUBLAS_OP_N : CUBLAS_OP_T,
                       static_cast<int>(g.b.columns), static_cast<int>(g.a.rows), static_cast<int>(g.a.columns), alpha, g.b.data, type,
                       static_cast<int>(b.leading), g.b.batch_step, g.a.data, type, static_cast<int>(a.leading), g.a.batch_step, beta, g.y.data, type,
                       static_cast<int>(y.leading), g.y.batch_step, static_cast<int>(g.batch), compute, CUBLAS_GEMM_DEFAULT),
        what);
}

void fill_with_bias(const KernelArgs& args, const View& y, const View& bias) {
  View along = y;
  along.data = bias.data;
  along.strides = Strides::filled(y.rank(), 0);
  along.strides[1] = bias.stride(0);
  KernelArgs copy = args;
  copy.in = {&along, 1};
  copy.out = {&y, 1};
  copy.params = nullptr;
  cuda::copy_entry.run(copy);
}

namespace {

// The dimensions before the last two as one; false when an operand does not step through them evenly.
bool join_batch(const KernelArgs& args, Gemm& g) {
  const View &a = args.in[0], &b = args.in[1], &y = args.out[0];
  std::int64_t count = 1;
  Matrix* const sides[] = {&g.a, &g.b, &g.y};
  const View* const views[] = {&a, &b, &y};
  for (int d = y.rank() - 3; d >= 0; --d) {
    if (y.size(d) == 1) continue;
    for (int k = 0; k < 3; ++k) {
      const std::int64_t step = views[k]->stride(d);
      if (count == 1) sides[k]->batch_step = step;
      else if (step != sides[k]->batch_step * count) return false;
    }
    count *= y.size(d);
  }
  g.batch = count;
  return true;
}

Matrix matrix(const View& v, int row, int column) { return {v.data, v.size(row), v.size(column), v.stride(row), v.stride(column), 0}; }

bool matmul_of(const KernelArgs& args, Gemm& g) {
  const View& y = args.out[0];
  const int row = y.rank() - 2, column = y.rank() - 1;
  g.dtype = y.dtype;
  g.a = matrix(args.in[0], row, column);
  g.b = matrix(args.in[1], row, column);
  g.y = matrix(y, row, column);
  return join_batch(args, g);
}
const char* decline_matmul(const KernelArgs& args) {
  Gemm g;
  return matmul_of(args, g) ? gemm_decline(g) : "the batch does not step evenly";
}
void run_matmul(const KernelArgs& args) {
  Gemm g;
  matmul_of(args, g);
  gemm(args, args.out[0].device.index(), g, "matmul");
}

Gemm linear_of(const KernelArgs& args) {
  Gemm g;
  g.dtype = args.out[0].dtype;
  g.a = matrix(args.in[0], 0, 1);
  g.b = matrix(args.in[1], 1, 0);  // the weight is [O, I]
  g.y = matrix(args.out[0], 0, 1);
  g.add = args.in.size() > 2;
  return g;
}
const char* decline_linear(const KernelArgs& args) { return gemm_decline(linear_of(args)); }
void run_linear(const KernelArgs& args) {
  if (args.in.size() > 2) fill_with_bias(args, args.out[0], args.in[2]);
  gemm(args, args.out[0].device.index(), linear_of(args), "linear");
}

std::int64_t workspace(const KernelArgs&) { return cublas_workspace; }

}  // namespace

const KernelEntry matmul_entry = {run_matmul, decline_matmul, workspace};
const KernelEntry linear_entry = {run_linear, decline_linear, workspace};

}  // namespace mien::cuda_library
