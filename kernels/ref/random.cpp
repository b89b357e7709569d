// Random tensors: element i of a stream is a function of (seed, stream, i) alone, i being the logical index.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"
#include "mien/tensor/generator.h"

namespace mien::ref {
namespace {

template <class T>
T uniform_value(const RandomParams& p, std::uint64_t i) {
  const T v = static_cast<T>(p.a + (p.b - p.a) * static_cast<double>(philox_uniform(p.seed, p.stream, i)));
  return static_cast<double>(v) >= p.b && p.a < p.b ? std::nextafter(static_cast<T>(p.b), static_cast<T>(p.a)) : v;  // rounding must not reach b
}

// p.a = probability of a zero; what is kept is scaled so that the mean stays.
template <class T>
T dropout_value(const RandomParams& p, std::uint64_t i) {
  return static_cast<double>(philox_uniform(p.seed, p.stream, i)) >= p.a ? static_cast<T>(1.0 / (1.0 - p.a)) : T(0);
}

template <class T>
void random_float(const KernelArgs& args) {
  const auto& p = args.get<RandomParams>();
  T* y = typed<T>(args.out[0]);
  std::uint64_t i = 0;
  iterate<1>(args.out[0].shape, {args.out[0].strides}, [&](const Offsets<1>& o) {
    switch (p.kind) {
      case RandomKind::uniform: y[o[0]] = uniform_value<T>(p, i); break;
      case RandomKind::normal: y[o[0]] = static_cast<T>(p.a + p.b * philox_normal(p.seed, p.stream, i)); break;
      default: y[o[0]] = dropout_value<T>(p, i); break;
    }
    ++i;
  });
}

void run_random(const KernelArgs& args) {
  const auto& p = args.get<RandomParams>();
  const View& vy = args.out[0];
  if (p.kind != RandomKind::integer) {
    dispatch_float(vy.dtype, "random", [&](auto t) { random_float<decltype(t)>(args); });
    return;
  }
  const auto low = convert<std::int64_t>(p.a), high = convert<std::int64_t>(p.b);
  std::int64_t* y = typed<std::int64_t>(vy);
  std::uint64_t i = 0;
  iterate<1>(vy.shape, {vy.strides}, [&](const Offsets<1>& o) { y[o[0]] = low + philox_integer(p.seed, p.stream, i++, high - low); });
}

}  // namespace

const KernelEntry random_entry = {run_random};

}  // namespace mien::ref
