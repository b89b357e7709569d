// Copies and casts between u8, f32 and i64, any strides: rows along the dimension that is densest in the output.
#include "mien/kernels/cpu/elementwise.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class From, class To>
void copy(const View& x, const View& y) {
  int inner = y.rank() - 1;
  for (int d = 0; d < y.rank(); ++d)
    if (y.size(d) > 1 && y.stride(d) == 1) inner = d;
  const std::int64_t n = y.size(inner), xs = x.stride(inner), ys = y.stride(inner), count = n > 0 ? y.numel() / n : 0;
  parallel_for(count, std::max<std::int64_t>(1, block / std::max<std::int64_t>(n, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const From* from = x.ptr<From>();
      To* to = y.ptr<To>();
      std::int64_t rest = row;
      for (int d = y.rank() - 1; d >= 0; --d) {
        if (d == inner) continue;
        const std::int64_t i = rest % y.size(d);
        rest /= y.size(d);
        from += i * x.stride(d);
        to += i * y.stride(d);
      }
      if (xs == 1 && ys == 1)
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
      else
        for (std::int64_t i = 0; i < n; ++i) to[i * ys] = static_cast<To>(from[i * xs]);
    }
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
  if (args.out[0].rank() == 0) return "a scalar";
  return args.out[0].dtype == DType::f32 && (x == DType::f32 || x == DType::u8 || x == DType::i64) ? nullptr : "from u8, i64 or f32 to f32 only";
}

}  // namespace

extern const KernelEntry copy_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
