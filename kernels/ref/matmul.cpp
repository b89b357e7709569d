// Matrix products.
#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
double dot(const T* a, std::int64_t step_a, const T* b, std::int64_t step_b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i * step_a]) * static_cast<double>(b[i * step_b]);
  return sum;
}

// The dimensions before the last two.
Shape batch_of(const Shape& s) {
  Shape batch = s;
  batch.resize(s.rank() - 2);
  return batch;
}

template <class T>
void matmul(const KernelArgs& args) {
  const View &va = args.in[0], &vb = args.in[1], &vy = args.out[0];
  const int row = vy.rank() - 2, col = vy.rank() - 1;
  const T *a = typed<T>(va), *b = typed<T>(vb);
  T* y = typed<T>(vy);
  iterate<3>(batch_of(vy.shape), {batch_of(va.strides), batch_of(vb.strides), batch_of(vy.strides)}, [&](const Offsets<3>& o) {
    for (std::int64_t m = 0; m < vy.size(row); ++m)
      for (std::int64_t n = 0; n < vy.size(col); ++n)
        y[o[2] + m * vy.stride(row) + n * vy.stride(col)] = static_cast<T>(
            dot(a + o[0] + m * va.stride(row), va.stride(col), b + o[1] + n * vb.stride(col), vb.stride(row), va.size(col)));
  });
}

template <class T>
void linear(const KernelArgs& args) {
  const View &vx = args.in[0], &vw = args.in[1], &vy = args.out[0];
  const T *x = typed<T>(vx), *w = typed<T>(vw), *bias = args.in.size() > 2 ? typed<T>(args.in[2]) : nullptr;
  T* y = typed<T>(vy);
  for (std::int64_t n = 0; n < vy.size(0); ++n)
    for (std::int64_t o = 0; o < vy.size(1); ++o) {
      const double sum = dot(x + n * vx.stride(0), vx.stride(1), w + o * vw.stride(0), vw.stride(1), vx.size(1));
      y[n * vy.stride(0) + o * vy.stride(1)] = static_cast<T>(bias ? sum + static_cast<double>(bias[o * args.in[2].stride(0)]) : sum);
    }
}

void run_matmul(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "matmul", [&](auto t) { matmul<decltype(t)>(args); });
}
void run_linear(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "linear", [&](auto t) { linear<decltype(t)>(args); });
}

}  // namespace

const KernelEntry matmul_entry = {run_matmul};
const KernelEntry linear_entry = {run_linear};

}  // namespace mien::ref
