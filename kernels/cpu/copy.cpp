// Copies and casts of u8, i64 and bf16 to f32, f32 to bf16, and of each of these two to itself, any strides: rows along the dimension that is densest in
// the output.
#include "mien/kernels/cpu/elementwise.h"
#include "mien/kernels/cpu/half.h"

namespace mien::MIEN_LEVEL {
namespace {

template <class To, class From>
To converted(From v) {
  if constexpr (std::is_same_v<To, From>) return v;
  else if constexpr (std::is_same_v<To, bfloat16>) return narrowed(v);
  else if constexpr (std::is_same_v<From, bfloat16>) return widened(v);
  else return static_cast<To>(v);
}

template <class From, class To>
void copy(const View& x, const View& y) {
  const Rows<2> r({&y, &x});
  const std::int64_t n = r.length(), ys = r.step(0), xs = r.step(1);
  r.each([&](const std::array<std::int64_t, 2>& at) {
    To* to = y.ptr<To>() + at[0];
    const From* from = x.ptr<From>() + at[1];
    if (xs == 1 && ys == 1)
      for (std::int64_t i = 0; i < n; ++i) to[i] = converted<To>(from[i]);
    else
      for (std::int64_t i = 0; i < n; ++i) to[i * ys] = converted<To>(from[i * xs]);
  });
}

void run(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  if (y.dtype == DType::bf16) return x.dtype == DType::bf16 ? copy<bfloat16, bfloat16>(x, y) : copy<float, bfloat16>(x, y);
  if (x.dtype == DType::f32) return copy<float, float>(x, y);
  if (x.dtype == DType::u8) return copy<std::uint8_t, float>(x, y);
  if (x.dtype == DType::bf16) return copy<bfloat16, float>(x, y);
  copy<std::int64_t, float>(x, y);
}
const char* decline(const KernelArgs& args) {
  const DType x = args.in[0].dtype, y = args.out[0].dtype;
  const bool floats = x == DType::f32 || x == DType::bf16;
  if ((y == DType::f32 && (floats || x == DType::u8 || x == DType::i64)) || (y == DType::bf16 && floats)) return nullptr;
  return "from u8, i64, f32 or bf16 to f32, or f32 and bf16 to bf16 only";
}

}  // namespace

extern const KernelEntry copy_entry{run, decline};

}  // namespace mien::MIEN_LEVEL
