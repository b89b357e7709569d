// A matrix product in tiles of 64 x 64 whose operands are functions: convolutions, their gradients and matmul say where an element lies, this file multiplies.
//
// A problem P is plain data, passed by value, with
//   P::C                                      the type it is computed in
//   columns                                   of every product
//   scope(z)                                  product z of the batch: a struct with at least `rows` and `depth` (both below 2^31)
//   row_a(s, m), k_a(s, k), a(row, k)         element (m, k) of the left side, in three steps so that the first two are done once for many elements
//   column_b(s, n), k_b(s, k), b(column, k)   element (k, n) of the right side
//   out_row(s, m), put(s, row, n, value)      where element (m, n) of the result goes
//
// A sum over k is cut into pieces when there are few tiles. The cut depends on the shape alone, never on the GPU, and the pieces are added in a fixed order:
// the same operands give the same bits on every run.
#pragma once

#include "mien/kernels/cuda/common.cuh"

namespace mien::cuda {

// n / divisor by one multiplication, for 0 <= n < 2^31 and 0 < divisor < 2^31 (Granlund, Montgomery, "Division by invariant integers using multiplication").
struct Divider {
  std::uint32_t divisor = 1, magic = 1, shift = 0;
  Divider() = default;
  explicit Divider(std::int64_t d) : divisor(static_cast<std::uint32_t>(std::max<std::int64_t>(d, 1))) {
    while ((std::uint64_t(1) << shift) < divisor) ++shift;
    magic = static_cast<std::uint32_t>((std::uint64_t(1) << 32) * ((std::uint64_t(1) << shift) - divisor) / divisor + 1);
  }
  __device__ __forceinline__ std::uint32_t operator()(std::uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
};

inline constexpr int gemm_tile = 64, gemm_depth = 16, gemm_threads = 256, gemm_pitch = gemm_tile + 4;

struct GemmPlan {
  std::uint32_t tiles_m = 0, tiles_n = 0, pieces = 1, batches = 0;
  std::uint32_t rows = 0, columns = 0, chunk = 0;  // rows: of the largest product of the batch; chunk: depth of a piece
  bool a_along_k = true, b_along_k = true;         // whether neighbouring threads load neighbouring k; where the operand's elements are neighbours in memory
  bool vector = false;                             // four results side by side are written at once
  std::int64_t blocks() const { return std::int64_t{tiles_m} * tiles_n * pieces * batches; }
  std::int64_t results() const { return std::int64_t{rows} * columns * batches; }
};

// rows, columns and depth: below 2^31, of the largest product of the batch.
inline GemmPlan gemm_plan(std::int64_t rows, std::int64_t columns, std::int64_t depth, std::int64_t batches) {
  constexpr std::int64_t wanted_blocks = 528, least_depth = 128;  // a few blocks for every multiprocessor of a large GPU of 2022
  GemmPlan g;
  const auto tiles = [](std::int64_t n) { return (n + gemm_tile - 1) / gemm_tile; };
  g.tiles_m = static_cast<std::uint32_t>(tiles(rows));
  g.tiles_n = static_cast<std::uint32_t>(tiles(columns));
  g.batches = static_cast<std::uint32_t>(batches);
  g.rows = static_cast<std::uint32_t>(rows);
  g.columns = static_cast<std::uint32_t>(columns);
  const std::int64_t pieces = std::max<std::int64_t>(1, std::min(wanted_blocks / std::max<std::int64_t>(g.blocks(), 1), depth / least_depth));
  const std::int64_t chunk = ((depth + pieces - 1) / pieces + gemm_depth - 1) / gemm_depth * gemm_depth;
  g.chunk = static_cast<std::uint32_t>(std::max<std::int64_t>(chunk, gemm_depth));
  g.pieces = static_cast<std::uint32_t>(std::max<std::int64_t>(1, (depth + g.chunk - 1) / g.chunk));
  return g;
}

template <class C>
std::int64_t gemm_workspace(const GemmPlan& g) {
  return g.pieces > 1 ? g.pieces * g.results() * static_cast<std::int64_t>(sizeof(C)) : 0;
}

template <class C>
struct alignas(16) Quad {
  C v[4];
};

// The four values of one thread's load: side by side along k for four rows, or along the rows for four k.
template <class C>
__device__ __forceinline__ void keep_tile(C (&tile)[gemm_depth][gemm_pitch], const C (&v)[4], bool along_k, int row, int k) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if (along_k) tile[k][row + 16 * r] = v[r];
    else tile[k + 4 * r][row] = v[r];
  }
}

template <class P>
__global__ void __launch_bounds__(gemm_threads) gemm_kernel(const __grid_constant__ P p, const GemmPlan g, typename P::C* partial) {
  using C = typename P::C;
  __shared__ __align__(16) C tile_a[gemm_depth][gemm_pitch];
  __shared__ __align__(16) C tile_b[gemm_depth][gemm_pitch];
  std::uint32_t block = blockIdx.x;
  const std::uint32_t n0 = block % g.tiles_n * gemm_tile;
  block /= g.tiles_n;
  const std::uint32_t m0 = block % g.tiles_m * gemm_tile;
  block /= g.tiles_m;
  const std::uint32_t piece = block % g.pieces, z = block / g.pieces;
  const auto s = p.scope(z);
  if (m0 >= s.rows) return;  // products of a batch may differ in their rows; the whole block leaves
  const std::uint32_t columns = p.columns;
  // 64-bit: the last piece may end past 2^32.
  const std::uint64_t from = std::uint64_t{piece} * g.chunk;
  const std::uint32_t end = static_cast<std::uint32_t>(from + g.chunk < s.depth ? from + g.chunk : s.depth);
  const std::uint32_t begin = static_cast<std::uint32_t>(from < end ? from : end);

  const int t = static_cast<int>(threadIdx.x);
  const bool along_a = g.a_along_k, along_b = g.b_along_k;
  const int row_a = along_a ? t / gemm_depth : t % gemm_tile, k_a = along_a ? t % gemm_depth : t / gemm_tile;
  const int row_b = along_b ? t / gemm_depth : t % gemm_tile, k_b = along_b ? t % gemm_depth : t / gemm_tile;
  decltype(p.row_a(s, 0u)) rows[4];
  decltype(p.column_b(s, 0u)) cols[4];
  unsigned inside_a = 0, inside_b = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const std::uint32_t m = m0 + static_cast<std::uint32_t>(row_a + (along_a ? 16 * r : 0)),
                        n = n0 + static_cast<std::uint32_t>(row_b + (along_b ? 16 * r : 0));
    rows[r] = p.row_a(s, m < s.rows ? m : 0u);
    cols[r] = p.column_b(s, n < columns ? n : 0u);
    inside_a |= (m < s.rows ? 1u : 0u) << r;
    inside_b |= (n < columns ? 1u : 0u) << r;
  }

  C next_a[4], next_b[4];
  const auto fetch = [&](std::uint32_t k0) {
#pragma unroll
    for (int r = 0; r < 4; ++r) next_a[r] = next_b[r] = C(0);
    if (along_a) {
      const std::uint32_t k = k0 + static_cast<std::uint32_t>(k_a);
      if (k < end) {
        const auto at = p.k_a(s, k);
#pragma unroll
        for (int r = 0; r < 4; ++r)
          if (inside_a >> r & 1u) next_a[r] = p.a(rows[r], at);
      }
    } else if (inside_a & 1u) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const std::uint32_t k = k0 + static_cast<std::uint32_t>(k_a + 4 * r);
        if (k < end) next_a[r] = p.a(rows[0], p.k_a(s, k));
      }
    }
    if (along_b) {
      const std::uint32_t k = k0 + static_cast<std::uint32_t>(k_b);
      if (k < end) {
        const auto at = p.k_b(s, k);
#pragma unroll
        for (int r = 0; r < 4; ++r)
          if (inside_b >> r & 1u) next_b[r] = p.b(cols[r], at);
      }
    } else if (inside_b & 1u) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const std::uint32_t k = k0 + static_cast<std::uint32_t>(k_b + 4 * r);
        if (k < end) next_b[r] = p.b(cols[0], p.k_b(s, k));
      }
    }
  };

  const int tx = t % 16, ty = t / 16;  // this thread's results: rows 4 ty .., columns 4 tx ..
  // Sums have two levels, for f32's sake: 64 products are added up, then added to `sum`.
  C sum[4][4] = {}, part[4][4] = {};
  int steps = 0;
  if (begin < end) fetch(begin);
  for (std::uint32_t k0 = begin; k0 < end; k0 += gemm_depth) {
    __syncthreads();  // everyone is done with the tiles of the step before
    keep_tile(tile_a, next_a, along_a, row_a, k_a);
    keep_tile(tile_b, next_b, along_b, row_b, k_b);
    __syncthreads();
    if (end - k0 > gemm_depth) fetch(k0 + gemm_depth);  // on its way while this step multiplies
#pragma unroll
    for (int k = 0; k < gemm_depth; ++k) {
      const Quad<C> u = *reinterpret_cast<const Quad<C>*>(&tile_a[k][4 * ty]), v = *reinterpret_cast<const Quad<C>*>(&tile_b[k][4 * tx]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) part[i][j] += u.v[i] * v.v[j];
    }
    if (++steps % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[i][j] += part[i][j];
          part[i][j] = C(0);
        }
    }
  }

  const std::uint32_t n = n0 + static_cast<std::uint32_t>(4 * tx);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t m = m0 + static_cast<std::uint32_t>(4 * ty + i);
    if (m >= s.rows) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[i][j] += part[i][j];
    if (g.pieces > 1) {
      C* to = partial + ((std::int64_t{piece} * g.batches + z) * g.rows + m) * columns;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (n + static_cast<std::uint32_t>(j) < columns) to[n + static_cast<std::uint32_t>(j)] = sum[i][j];
      continue;
    }
    const auto row = p.out_row(s, m);
    if (g.vector && n + 3 < columns) {
      p.put_quad(s, row, n, sum[i]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (n + static_cast<std::uint32_t>(j) < columns) p.put(s, row, n + static_cast<std::uint32_t>(j), sum[i][j]);
    }
  }
}

// The sum of partial[piece * count + index] over the pieces: 32 results a block of 256, 8 threads for each; whole in the first 32 threads.
template <class C>
__device__ __forceinline__ double add_pieces(const C* partial, std::int64_t pieces, std::int64_t count, std::int64_t index, bool mine) {
  __shared__ double sums[8][32];
  double sum = 0;
  if (mine)
    for (std::int64_t piece = threadIdx.x / 32; piece < pieces; piece += 8) sum += static_cast<double>(partial[piece * count + index]);
  sums[threadIdx.x / 32][threadIdx.x % 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32)
#pragma unroll
    for (int k = 1; k < 8; ++k) sum += sums[k][threadIdx.x];
  return sum;
}
template <class P>
__global__ void __launch_bounds__(256) gemm_pieces_kernel(const __grid_constant__ P p, const GemmPlan g, const typename P::C* partial) {
  const std::int64_t count = std::int64_t{g.rows} * g.columns * g.batches, index = std::int64_t{blockIdx.x} * 32 + threadIdx.x % 32;
  const std::uint32_t z = index < count ? static_cast<std::uint32_t>(index / (std::int64_t{g.rows} * g.columns)) : 0;
  const std::int64_t inner = index - std::int64_t{z} * g.rows * g.columns;
  const std::uint32_t m = index < count ? static_cast<std::uint32_t>(inner / g.columns) : 0,
                      n = static_cast<std::uint32_t>(inner - std::int64_t{m} * g.columns);
  const auto s = p.scope(z);
  const bool mine = index < count && m < s.rows;  // rows that a smaller product lacks were never written
  const double sum = add_pieces(partial, g.pieces, count, index, mine);
  if (threadIdx.x < 32 && mine) p.put(s, p.out_row(s, m), n, static_cast<typename P::C>(sum));
}

template <class P>
void run_gemm(const KernelArgs& args, const char* what, const P& p, const GemmPlan& g) {
  if (g.results() == 0) return;
  auto* partial = static_cast<typename P::C*>(args.workspace);
  gemm_kernel<P><<<static_cast<unsigned>(g.blocks()), gemm_threads, 0, stream(args)>>>(p, g, partial);
  check_launch(what);
  if (g.pieces == 1) return;
  gemm_pieces_kernel<P><<<static_cast<unsigned>((g.results() + 31) / 32), 256, 0, stream(args)>>>(p, g, partial);
  check_launch(what);
}

// Why sizes don't fit the 32-bit indices of a tile, or null.
inline const char* gemm_too_large(std::int64_t rows, std::int64_t columns, std::int64_t depth, std::int64_t batches) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - gemm_tile;
  if (rows > most || columns > most || depth > most || batches > most) return "more than 2^31 rows, columns or products in a sum";
  const std::int64_t tiles = ((rows + gemm_tile - 1) / gemm_tile) * ((columns + gemm_tile - 1) / gemm_tile);
  if (batches > 0 && tiles > most / batches) return "more than 2^31 tiles";
  return nullptr;
}

template <class T>
__device__ __forceinline__ void write_quad(T* to, const Compute<T> (&v)[4]) {
  struct alignas(sizeof(T) * 4 <= 16 ? sizeof(T) * 4 : 16) Four {
    T v[4];
  };
  Four four;
#pragma unroll
  for (int j = 0; j < 4; ++j) four.v[j] = store<T>(v[j]);
  *reinterpret_cast<Four*>(to) = four;
}
// Whether rows of a result with these strides between them can be written four elements at a time, from any multiple of four columns on.
template <class T>
bool quads_fit(const T* data, std::int64_t step, std::initializer_list<std::int64_t> strides) {
  bool fit = step == 1 && reinterpret_cast<std::uintptr_t>(data) % (sizeof(T) * 4 <= 16 ? sizeof(T) * 4 : 16) == 0;
  for (const auto s : strides) fit = fit && s % 4 == 0;
  return fit;
}

}  // namespace mien::cuda
