// Copies and casts between u8, f32 and i64, any strides: rows along the dimension that is densest in the output.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class From, class To>
void copy(const View& x, const View& y) {
  const Rows<2> r({&y, &x});
  const std::int64_t n = r.length(), ys = r.step(0), xs = r.step(1);
  r.each([&](const std::array<std::int64_t, 2>& at) {
    To* to = y.ptr<To>() + at[0];
    const From* from = x.ptr<From>() + at[1];
    if (xs == 1 && ys == 1)
      for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
    else
      for (std::int64_t i = 0; i < n; ++i) to[i * ys] = static_cast<To>(from[i * xs]);
  });
}

void run(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (x.dtype == DType::f32) return copy<float, float>(x, y);
  if (x.dtype == DType::u8) return copy<std::uint8_t, float>(x, y);
  copy<std::int64_t, float>(x, y);
}
const char* decline(const KernelArgs& args) {
  const DType x = args.in[0].dtype;
  return args.out[0].dtype == DType::f32 && (x == DType::f32 || x == DType::u8 || x == DType::i64) ? nullptr : "from u8, i64 or f32 to f32 only";
}

}  // namespace

extern const KernelEntry copy_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
