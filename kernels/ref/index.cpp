// Rows picked by index along a dimension, and the sum that goes back to them.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

int dim_of(const KernelArgs& args) { return args.params ? args.get<DimParams>().dim : 0; }

std::int64_t index_at(const View& index, std::int64_t k, std::int64_t size, const char* op) {
  const std::int64_t i = typed<std::int64_t>(index)[k * index.stride(0)];
  if (i < 0 || i >= size)
    throw ValueError(op, "index " + std::to_string(i) + " at place " + std::to_string(k) + " is out of range for a dimension of size " + std::to_string(size));
  return i;
}

void run_index_select(const KernelArgs& args) {
  const int dim = dim_of(args);
  const View &vx = args.in[0], &index = args.in[1], &vy = args.out[0];
  internal_check(vx.dtype == vy.dtype, "index_select: dtypes differ");
  const Shape row = without(vx.shape, dim);
  const Strides row_x = without(vx.strides, dim), row_y = without(vy.strides, dim);
  dispatch_size(vy.dtype, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t k = 0; k < vy.size(dim); ++k) {
      const T* x = vx.ptr<T>() + index_at(index, k, vx.size(dim), "index_select") * vx.stride(dim);
      T* y = vy.ptr<T>() + k * vy.stride(dim);
      iterate<2>(row, {row_x, row_y}, [&](const Offsets<2>& o) { y[o[1]] = x[o[0]]; });
    }
  });
}

template <class T>
void index_add(const KernelArgs& args) {
  const int dim = dim_of(args);
  const View &vg = args.in[0], &index = args.in[1], &vgx = args.out[0];
  double* sums = scatter_sums(args);
  const Shape row = without(vg.shape, dim);
  const Strides packed = contiguous_strides(vgx.shape);
  for (std::int64_t k = 0; k < vg.size(dim); ++k) {
    const T* g = typed<T>(vg) + k * vg.stride(dim);
    double* to = sums + index_at(index, k, vgx.size(dim), "index_add") * packed[dim];
    iterate<2>(row, {without(vg.strides, dim), without(packed, dim)}, [&](const Offsets<2>& o) { to[o[1]] += static_cast<double>(g[o[0]]); });
  }
  store_sums<T>(vgx, sums);
}

void run_index_add(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "index_add", [&](auto t) { index_add<decltype(t)>(args); });
}

}  // namespace

const KernelEntry index_select_entry = {run_index_select, nullptr, nullptr, true};
const KernelEntry index_add_entry = {run_index_add, nullptr, scatter_bytes};

}  // namespace mien::ref
