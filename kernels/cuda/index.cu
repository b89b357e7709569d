// Rows picked by index along a dimension, and the sum that goes back to them. An index out of range (ops/ throws on one) gives zeros, or is left out.
//
// index_add sorts the indices by (index, place) by counting for each how many come before it: K^2 comparisons, little work for the some 10,000 rows of a
// batch, and no order of threads in it. Every run of equal indices is then summed in the order of its places.
#include "mien/kernels/cuda/moves.cuh"

namespace mien::cuda {
namespace {

int dim_of(const KernelArgs& args) { return args.params ? args.get<DimParams>().dim : 0; }

void run_index_select(const KernelArgs& args) {
  const int dim = dim_of(args);
  const View &x = args.in[0], &index = args.in[1], &y = args.out[0];
  if (y.numel() == 0) return;
  Shape shape = y.shape;
  std::array<Strides, 3> strides{x.strides, Shape::filled(y.rank(), 0), y.strides};
  strides[0][dim] = 0;
  strides[1][dim] = index.stride(0);
  simplify<3>(shape, strides);
  const std::int64_t item = item_size(y.dtype), step = x.stride(dim);
  const std::int64_t group = widen<3>(shape, strides, item, {true, false, true}, {address(x.data), address(y.data), step * item});
  dispatch_bytes(group * item, [&](auto t) {
    using T = typename decltype(t)::type;
    for_each<3>(args, "index_select", shape, strides, Select<T>{x.ptr<T>(), index.ptr<std::int64_t>(), y.ptr<T>(), x.size(dim), step / group});
  });
}

// --- index_add -------------------------------------------------------------------------------------------------------------
constexpr int sort_width = 32, sort_slices = 8, sort_tile = sort_width * sort_slices;

// places[p], keys[p]: the place of the p-th index in order, and that index. A block puts sort_width of them; its slices share the comparisons.
__global__ void __launch_bounds__(sort_tile) sort_indices(const std::int64_t* index, std::int64_t step, int count, int* places, std::int64_t* keys) {
  __shared__ std::int64_t tile[sort_tile];
  __shared__ int before[sort_slices][sort_width];
  const int mine = blockIdx.x * sort_width + threadIdx.x, thread = threadIdx.y * sort_width + threadIdx.x;
  const std::int64_t key = mine < count ? index[mine * step] : 0;
  int smaller = 0;
  for (int start = 0; start < count; start += sort_tile) {
    __syncthreads();
    if (thread < count - start) tile[thread] = index[(start + thread) * step];
    __syncthreads();
    const int first = threadIdx.y * sort_width, last = min(first + sort_width, count - start);
    for (int j = first; j < last; ++j) smaller += tile[j] < key || (tile[j] == key && start + j < mine);
  }
  before[threadIdx.y][threadIdx.x] = smaller;
  __syncthreads();
  if (threadIdx.y != 0 || mine >= count) return;
  int place = 0;
  for (int s = 0; s < sort_slices; ++s) place += before[s][threadIdx.x];
  places[place] = mine;
  keys[place] = key;
}

// A block sums blockDim.x columns of the run that begins at one place of the sorted indices, if one does; blockDim.y threads share a run.
template <class T>
__global__ void __launch_bounds__(block_threads)
    add_runs(const T* g, T* gx, const int* places, const std::int64_t* keys, int count, std::int64_t size, std::int64_t g_step, std::int64_t gx_step,
             const __grid_constant__ Walk<2, std::int64_t> row, std::int64_t columns, std::int64_t tiles) {
  __shared__ double parts[block_threads];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (std::int64_t block = blockIdx.x; block < tiles * count; block += gridDim.x) {
    const int begin = static_cast<int>(block / tiles);
    const std::int64_t key = keys[begin], column = block % tiles * blockDim.x + threadIdx.x;
    if ((begin > 0 && keys[begin - 1] == key) || key < 0 || key >= size) continue;  // the same for the whole block
    std::int64_t o[2] = {0, 0};
    double sum = 0;
    if (column < columns) {
      row.offsets(column, o);
      for (int p = begin + static_cast<int>(threadIdx.y); p < count && keys[p] == key; p += static_cast<int>(blockDim.y))
        sum += static_cast<double>(load(g[places[p] * g_step + o[0]]));
    }
    if (blockDim.y > 1) {
      __syncthreads();  // before `parts` of an earlier run is overwritten
      parts[thread] = sum;
      __syncthreads();
      for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) parts[thread] += parts[thread + half * blockDim.x];
        __syncthreads();
      }
      sum = parts[threadIdx.x];
    }
    if (threadIdx.y == 0 && column < columns) gx[key * gx_step + o[1]] = store<T>(static_cast<Compute<T>>(sum));
  }
}

struct Sorted {
  Sorted(void* base, std::int64_t count) {
    Workspace memory(base);
    keys = memory.take<std::int64_t>(count);
    places = memory.take<int>(count);
    bytes = memory.bytes();
  }
  std::int64_t* keys;
  int* places;
  std::int64_t bytes;
};

void run_index_add(const KernelArgs& args) {
  const int dim = dim_of(args);
  const View &g = args.in[0], &index = args.in[1], &gx = args.out[0];
  set_bits(args, "index_add", gx, 0);
  if (g.numel() == 0 || gx.numel() == 0) return;
  const auto count = static_cast<int>(g.size(dim));
  const Sorted sorted(args.workspace, count);
  sort_indices<<<static_cast<unsigned>((count + sort_width - 1) / sort_width), dim3(sort_width, sort_slices), 0, stream(args)>>>(
      index.ptr<std::int64_t>(), index.stride(0), count, sorted.places, sorted.keys);
  check_launch("index_add");
  Shape row = without(g.shape, dim);
  std::array<Strides, 2> strides{without(g.strides, dim), without(gx.strides, dim)};
  simplify<2>(row, strides);
  const auto walk = make_walk<2, std::int64_t>(row, strides);
  std::int64_t columns = 1;
  for (const auto s : row) columns *= s;
  // Long runs, by the mean, are shared by threads; short ones are not.
  const dim3 block = count / gx.size(dim) >= 8 ? dim3(32, 8) : dim3(columns > 128 ? 256 : columns > 64 ? 128 : 64, 1);
  const std::int64_t tiles = (columns + block.x - 1) / block.x, blocks = std::min<std::int64_t>(tiles * count, 1 << 30);
  dispatch_floats(gx.dtype, "index_add", [&](auto t) {
    using T = typename decltype(t)::type;
    add_runs<T><<<static_cast<unsigned>(blocks), block, 0, stream(args)>>>(g.ptr<T>(), gx.ptr<T>(), sorted.places, sorted.keys, count, gx.size(dim),
                                                                           g.stride(dim), gx.stride(dim), walk, columns, tiles);
    check_launch("index_add");
  });
}
std::int64_t index_add_bytes(const KernelArgs& args) { return Sorted(nullptr, args.in[0].size(dim_of(args))).bytes; }
const char* decline_index_add(const KernelArgs& args) { return args.in[0].size(dim_of(args)) > (1 << 30) ? "more than 2^30 indices" : nullptr; }

}  // namespace

const KernelEntry index_select_entry = {run_index_select};
const KernelEntry index_add_entry = {run_index_add, decline_index_add, index_add_bytes};

}  // namespace mien::cuda
