// Matrix products: matmul over any batch, linear with an optional bias. Tiles and the cut of long sums are in gemm_tile.cuh.
#include "mien/kernels/cuda/gemm_tile.cuh"

namespace mien::cuda {
namespace {

struct Product {
  std::uint32_t rows, depth;
  std::int64_t a, b, y;  // offsets of the batch's operands
};

// y(m, n) = sum over k of a(m, k) b(k, n), + bias(n)
template <class T>
struct Matmul {
  using C = Compute<T>;
  const T *left, *right, *bias;
  T* y;
  std::int64_t a_row, a_k, b_k, b_column, y_row, y_column, bias_step;
  Walk<3, std::int64_t> batch;
  std::uint32_t rows, columns, depth;

  __device__ Product scope(std::uint32_t z) const {
    std::int64_t o[3];
    batch.offsets(static_cast<std::int64_t>(z), o);
    return {rows, depth, o[0], o[1], o[2]};
  }
  __device__ std::int64_t row_a(const Product& s, std::uint32_t m) const { return s.a + m * a_row; }
  __device__ std::int64_t k_a(const Product&, std::uint32_t k) const { return k * a_k; }
  __device__ C a(std::int64_t row, std::int64_t k) const { return load(left[row + k]); }
  __device__ std::int64_t column_b(const Product& s, std::uint32_t n) const { return s.b + n * b_column; }
  __device__ std::int64_t k_b(const Product&, std::uint32_t k) const { return k * b_k; }
  __device__ C b(std::int64_t column, std::int64_t k) const { return load(right[column + k]); }
  __device__ T* out_row(const Product& s, std::uint32_t m) const { return y + (s.y + m * y_row); }
  __device__ C with_bias(std::uint32_t n, C v) const { return bias ? v + load(bias[n * bias_step]) : v; }
  __device__ void put(const Product&, T* row, std::uint32_t n, C v) const { row[n * y_column] = store<T>(with_bias(n, v)); }
  __device__ void put_quad(const Product&, T* row, std::uint32_t n, const C (&v)[4]) const {
    const C all[4] = {with_bias(n, v[0]), with_bias(n + 1, v[1]), with_bias(n + 2, v[2]), with_bias(n + 3, v[3])};
    write_quad(row + n, all);
  }
};

// Whether the operand's neighbours along k are nearer in memory than those along its other side.
bool along_k(std::int64_t k_step, std::int64_t other_step) {
  const auto size_of = [](std::int64_t s) { return s < 0 ? -s : s; };
  return size_of(k_step) <= size_of(other_step);
}

// Row and column of matmul's and linear's operands: y[..., M, N], depth K.
std::int64_t batches(const View& y) {
  std::int64_t count = 1;
  for (int d = 0; d + 2 < y.rank(); ++d) count *= y.size(d);
  return count;
}
Shape leading(const Shape& s) {
  Shape first = s;
  first.resize(s.rank() - 2);
  return first;
}
std::int64_t depth_of(const KernelArgs& args) { return args.in[0].size(args.in[0].rank() - 1); }
GemmPlan plan(const KernelArgs& args) {
  const View& y = args.out[0];
  return gemm_plan(y.size(y.rank() - 2), y.size(y.rank() - 1), depth_of(args), batches(y));
}
const char* decline(const KernelArgs& args) {
  const View& y = args.out[0];
  return gemm_too_large(y.size(y.rank() - 2), y.size(y.rank() - 1), depth_of(args), batches(y));
}
std::int64_t workspace(const KernelArgs& args) {
  return args.out[0].dtype == DType::f64 ? gemm_workspace<double>(plan(args)) : gemm_workspace<float>(plan(args));
}

template <class T>
void multiply(const KernelArgs& args, const char* what, Matmul<T> f) {
  const View& y = args.out[0];
  GemmPlan g = plan(args);
  g.a_along_k = along_k(f.a_k, f.a_row);
  g.b_along_k = along_k(f.b_k, f.b_column);
  f.left = args.in[0].ptr<T>();
  f.right = args.in[1].ptr<T>();
  f.y = y.ptr<T>();
  f.rows = g.rows;
  f.columns = g.columns;
  f.depth = static_cast<std::uint32_t>(depth_of(args));
  bool even = true;
  for (int d = 0; d + 2 < y.rank(); ++d) even = even && y.stride(d) % 4 == 0;
  g.vector = even && quads_fit(f.y, f.y_column, {f.y_row});
  run_gemm(args, what, f, g);
}

void run_matmul(const KernelArgs& args) {
  const View &a = args.in[0], &b = args.in[1], &y = args.out[0];
  if (y.numel() == 0) return;
  const int row = y.rank() - 2, column = y.rank() - 1;
  dispatch_floats(y.dtype, "matmul", [&](auto type) {
    using T = typename decltype(type)::type;
    Matmul<T> f{};
    f.a_row = a.stride(row);
    f.a_k = a.stride(column);
    f.b_k = b.stride(row);
    f.b_column = b.stride(column);
    f.y_row = y.stride(row);
    f.y_column = y.stride(column);
    f.batch = make_walk<3, std::int64_t>(leading(y.shape), {leading(a.strides), leading(b.strides), leading(y.strides)});
    multiply(args, "matmul", f);
  });
}

void run_linear(const KernelArgs& args) {
  const View &x = args.in[0], &w = args.in[1], &y = args.out[0];
  if (y.numel() == 0) return;
  dispatch_floats(y.dtype, "linear", [&](auto type) {
    using T = typename decltype(type)::type;
    Matmul<T> f{};
    f.a_row = x.stride(0);
    f.a_k = x.stride(1);
    f.b_k = w.stride(1);
    f.b_column = w.stride(0);
    f.y_row = y.stride(0);
    f.y_column = y.stride(1);
    if (args.in.size() > 2) {
      f.bias = args.in[2].ptr<T>();
      f.bias_step = args.in[2].stride(0);
    }
    multiply(args, "linear", f);
  });
}

}  // namespace

const KernelEntry matmul_entry = {run_matmul, decline, workspace};
const KernelEntry linear_entry = {run_linear, decline, workspace};

}  // namespace mien::cuda
