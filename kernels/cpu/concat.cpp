// Concatenation: each part is a copy of rows, along the dimension that is densest in the output.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class T>
void join(const KernelArgs& args) {
  const int dim = args.get<DimParams>().dim;
  std::int64_t start = 0;
  for (const View& x : args.in) {
    View y = args.out[0];
    y.data = y.ptr<T>() + start * y.stride(dim);
    y.shape[dim] = x.size(dim);
    start += x.size(dim);
    const Rows<2> r({&y, &x});
    const std::int64_t n = r.length(), ys = r.step(0), xs = r.step(1);
    r.each([&](const std::array<std::int64_t, 2>& at) {
      T* to = y.ptr<T>() + at[0];
      const T* from = x.ptr<T>() + at[1];
      if (xs == 1 && ys == 1) std::copy_n(from, n, to);
      else
        for (std::int64_t i = 0; i < n; ++i) to[i * ys] = from[i * xs];
    });
  }
}
void run(const KernelArgs& args) { args.out[0].dtype == DType::bf16 ? join<bfloat16>(args) : join<float>(args); }
const char* decline(const KernelArgs& args) { return all_f32(args) || all_bf16(args) ? nullptr : "f32 or bf16 only"; }

}  // namespace

extern const KernelEntry concat_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
